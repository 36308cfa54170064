"""The last resort is a sentence in the reader's language: said in the end, stored as no answer, told to no model."""

from __future__ import annotations

import json
from typing import Any

import pytest

from relay.failure_messages import BUILT_IN, ENGLISH
from relay.protocol.view import FrameDict
from tests.fakes.provider import Script
from tests.scenarios.client import Client, check
from tests.scenarios.world import Gateway, World

GERMAN = "Beim Assistenten ist ein Problem aufgetreten. Bitte versuchen Sie es erneut."
BROWSER = {"Accept-Language": "de-CH,de;q=0.9,en;q=0.8"}
PATH = "/v1/sessions/s"


async def asked(gateway: Gateway, body: FrameDict, headers: dict[str, str] | None = None) -> FrameDict:
    """The ended generation of a question over HTTP."""
    status, ended, _ = await gateway.http("POST", f"{PATH}/generations?wait=20", body, headers)
    assert status == 200, ended
    assert isinstance(ended, dict)
    return ended


async def transcript(gateway: Gateway) -> list[tuple[str, str]]:
    """Role and content of every turn."""
    _, session, _ = await gateway.http("GET", PATH)
    return [(turn["role"], turn["content"]) for turn in session["messages"]]


def turns(body: dict[str, Any]) -> list[tuple[str, str]]:
    """Those of a request to the provider."""
    return [(turn["role"], turn["content"]) for turn in body["messages"]]


async def test_an_answer_that_fails_says_so_in_the_language_of_whoever_asked(relay: World) -> None:
    relay.fake.script = Script(status=400)
    gateway, _ = await relay.gateway(), await relay.worker()
    told = await asked(gateway, {"content": "one"}, BROWSER)
    assert told["error"] == {"code": "provider_error", "message": GERMAN, "retryable": False}
    assert told["text"] == ""
    async with Client(gateway.url, "s", headers=BROWSER) as browser:
        await browser.subscribe()
        generation = await browser.submit("two")
        await browser.ended(generation)
        assert check(browser, generation, "", "failed")["error"]["message"] == GERMAN
        french = await browser.submit("three", "r2", metadata={"language": "fr-CA"})
        await browser.ended(french)
        assert check(browser, french, "", "failed")["error"]["message"] == BUILT_IN["fr"]
    async with Client(gateway.url, "s", "msgpack") as script:
        await script.subscribe()
        unknown = await script.submit("four", "r3", metadata={"language": ["de"]})
        await script.ended(unknown)
        assert check(script, unknown, "", "failed")["error"]["message"] == ENGLISH
    dutch = await asked(gateway, {"content": "five", "metadata": {"language": "nl"}})
    assert dutch["error"]["message"] == BUILT_IN["nl"]
    italian = await asked(gateway, {"content": "six"}, {"Accept-Language": "sw, it;q=0.3, *;q=0.1"})
    assert italian["error"]["message"] == BUILT_IN["it"]


async def test_the_sentence_is_stored_as_no_answer_and_told_to_no_model(relay: World) -> None:
    relay.fake.script = Script(tokens=["Half", " of", " it"], cut_after=2)
    gateway, _ = await relay.gateway(), await relay.worker()
    failed = await asked(gateway, {"content": "one"}, BROWSER)
    assert (failed["error"]["message"], failed["text"]) == (GERMAN, "Half of")
    assert await transcript(gateway) == []

    relay.fake.script = Script(tokens=["Hello", " there"])
    await asked(gateway, {"content": "two"}, BROWSER)
    await asked(gateway, {"retry_of": failed["generation"]}, BROWSER)
    await asked(gateway, {"content": "three"}, BROWSER)
    answered = [("user", "two"), ("assistant", "Hello there"), ("user", "one"), ("assistant", "Hello there")]
    bodies = [call.body for call in relay.fake.calls]
    assert [turns(body) for body in bodies] == [
        [("user", "one")],
        [("user", "two")],
        [*answered[:2], ("user", "one")],
        [*answered, ("user", "three")],
    ]
    assert not any(sentence in json.dumps(bodies, ensure_ascii=False) for sentence in BUILT_IN.values())
    assert await transcript(gateway) == [*answered, ("user", "three"), ("assistant", "Hello there")]
    texts = [str(await relay.redis.get(key)) for key in await relay.keys() if ":t:" in key]
    assert sorted(texts) == sorted(map(str, [b"Half of", *[b"Hello there"] * 3]))


async def test_an_answer_that_nobody_makes_ends_in_that_language_too(relay: World) -> None:
    gateway = await relay.gateway(RELAY_QUEUE_TIMEOUT_S="0.5")
    async with Client(gateway.url, "s", headers=BROWSER) as browser:
        await browser.subscribe()
        generation = await browser.submit("two")
        # From another device, in another language: the same submit, and the language that was kept.
        body = {"content": "two", "request_id": "r1"}
        again = await asked(gateway, body, {"Accept-Language": "fr"})
        assert (again["generation"], again["error"]["message"]) == (generation, GERMAN)
        await browser.ended(generation)
        end = check(browser, generation, "", "failed")
        assert end["error"] == {"code": "no_worker", "message": GERMAN, "retryable": True}
    assert await transcript(gateway) == []


async def test_a_job_that_a_second_submit_brings_back_has_the_language_of_the_first(relay: World) -> None:
    relay.fake.script = Script(status=400)
    gateway = await relay.gateway()
    body = {"content": "q", "request_id": "r1"}
    await gateway.http("POST", f"{PATH}/generations", body, BROWSER)
    await relay.redis.delete(*[key for key in await relay.keys() if ":q:" in key])  # a part of what Redis has is lost
    status, _, _ = await gateway.http("POST", f"{PATH}/generations", body, {"Accept-Language": "fr"})
    assert status == 202
    await relay.worker()
    assert (await asked(gateway, body, {"Accept-Language": "nl"}))["error"]["message"] == GERMAN


@pytest.mark.slow
async def test_what_the_operator_wants_said_is_said_by_every_process(relay: World) -> None:
    relay.settings |= {"RELAY_FAILURE_MESSAGES": '{"de": "Schade. 🙁"}', "RELAY_FAILURE_MESSAGE": "Sorry."}
    relay.fake.script = Script(status=400)
    gateway = await relay.gateway("--processes", "2", RELAY_QUEUE_TIMEOUT_S="0.5")
    for worker in (False, True):
        if worker:
            await relay.worker()
        for headers, said in ((BROWSER, "Schade. 🙁"), ({"Accept-Language": "fr"}, "Sorry.")):
            ended = await asked(gateway, {"content": "q"}, headers)
            assert ended["error"]["message"] == said
            assert ended["error"]["code"] == ("provider_error" if worker else "no_worker")
