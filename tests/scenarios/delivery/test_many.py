"""Many of everything at once: sessions, viewers, gateways, workers, transports, submits and stops."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any, get_args

import msgspec
import pytest

from relay.errors import Code
from tests.fakes.script import Body, Script
from tests.scenarios.client import Client, check
from tests.scenarios.event_source import EventSource
from tests.scenarios.processes import TIMEOUT_S, until
from tests.scenarios.world import Gateway, World

CODES = set(get_args(Code))


def _tokens(question: str) -> list[str]:
    """What the model answers to a question: another text for each."""
    return [f"{question}: {number} 🙂 " for number in range(20 + len(question) % 7)]


def _answer(body: Body) -> Script:
    return Script(tokens=_tokens(body["messages"][-1]["content"]), tokens_per_second=200)


async def test_a_hundred_sessions_over_two_gateways_and_two_workers_are_all_exact(relay: World) -> None:
    relay.fake.script = _answer
    gateways = [await relay.gateway(), await relay.gateway()]
    for _ in range(2):
        await relay.worker("--concurrency", "32")

    async def converse(number: int) -> None:
        session, here, there = f"s{number}", gateways[number % 2], gateways[(number + 1) % 2]
        async with Client(here.url, session) as asker, Client(there.url, session, "msgpack") as other:
            viewers = [asker, other] if number % 4 < 2 else [asker]
            for viewer in viewers:
                await viewer.subscribe()
            generation = await asker.submit(f"question {number}")
            for viewer in viewers:
                await viewer.ended(generation, 60)
                check(viewer, generation, "".join(_tokens(f"question {number}")))

    await asyncio.gather(*(converse(number) for number in range(100)))
    assert len(relay.fake.calls) == 100
    assert Counter(call.prompt for call in relay.fake.calls).most_common(1)[0][1] == 1
    await until(lambda: _nothing_is_open(relay), "every job is done")


@pytest.mark.slow
async def test_a_thousand_submits_and_stops_on_all_transports_leave_nothing_behind(relay: World) -> None:
    relay.fake.script = _answer
    gateways = [await relay.gateway(), await relay.gateway()]
    for _ in range(2):
        await relay.worker("--concurrency", "32")
    chance = random.Random(4)
    asked: dict[str, tuple[str, str]] = {}  # generation → session, question
    refusals: Counter[str] = Counter()

    def accepted(session: str, question: str, reply: Any) -> None:
        asked[reply["generation"]] = (session, question)

    def refused(error: Any) -> None:
        assert error["code"] in CODES, error
        refusals[error["code"]] += 1

    async def over_websocket(number: int, codec: str) -> None:
        async with Client(gateways[number % 2].url, "none", codec) as client:
            for turn in range(50):
                session = f"s{chance.randrange(50)}"
                if chance.random() < 0.4 and asked:
                    target = chance.choice(list(asked))
                    reply = await client.command(type="stop", session=asked[target][0], generation=target)
                    assert reply["type"] == "stopping", reply
                    continue
                question = f"{number} asks {turn}"
                reply = await client.command(
                    type="submit", session=session, request_id=f"r {number} {turn}", content=question,
                    priority=chance.choice(["low", "normal", "high"]),
                )  # fmt: skip
                accepted(session, question, reply) if reply["type"] == "accepted" else refused(reply)

    async def over_http(number: int) -> None:
        gateway = gateways[number % 2]
        for turn in range(50):
            session, question = f"s{chance.randrange(50)}", f"{number} asks {turn}"
            path = f"/v1/sessions/{session}/generations"
            what = chance.choice(["submit", "wait", "stream", "stop", "stop"])
            if what == "stop" and asked:
                target = chance.choice(list(asked))
                path = f"/v1/sessions/{asked[target][0]}/generations/{target}/stop"
                status, reply, _ = await gateway.http("POST", path)
                assert status == 202, reply
            elif what == "stream":
                await _streamed(gateway, session, question, accepted)
            else:
                wait = f"?wait={chance.choice([0, 1, 20])}" if what == "wait" else ""
                status, reply, _ = await gateway.http("POST", path + wait, {"content": question})
                if status in (200, 202):
                    accepted(session, question, reply)
                else:
                    refused(reply["error"])
                    if status == 504:
                        accepted(session, question, reply["error"])

    codecs = ["json"] * 8 + ["msgpack"] * 6
    await asyncio.gather(
        *(over_websocket(number, codec) for number, codec in enumerate(codecs)),
        *(over_http(number) for number in range(len(codecs), 20)),
    )
    assert set(refusals) <= {"still_running"}
    await until(lambda: _nothing_is_open(relay), "every job is done", 60)
    await _all_ended_once(gateways[0], asked)
    await until(lambda: all(call.finished or call.client_gone_at for call in relay.fake.calls), "no call is open")
    assert Counter(call.prompt for call in relay.fake.calls).most_common(1)[0][1] == 1
    ttls = await relay.ttls()
    assert not [key for key, ttl in ttls.items() if ttl < 0]
    assert not [key for key in ttls if key.endswith(":active")]


async def _streamed(gateway: Gateway, session: str, question: str, accepted: Any) -> None:
    """Submit and watch the answer as events; hang up half-way now and then."""
    client = Client(gateway.url, session)
    url = f"{gateway.url}/v1/sessions/{session}/generations"
    async with EventSource(url, client, "POST", {"content": question}) as stream:
        assert stream.status == 200, stream.body
        await stream.until(lambda: client.view.generations, "the generation")
        (generation,) = client.view.generations
        accepted(session, question, {"generation": generation})
        if len(question) % 2:
            await stream.ended()
            assert client.ends[generation] == 1


async def _nothing_is_open(relay: World) -> bool:
    queue = f"{relay.prefix}:q:{{default}}"
    left = [await relay.redis.zcard(f"{queue}:open"), await relay.redis.hlen(f"{queue}:jobs")]
    for priority in ("high", "normal", "low"):
        left.append(await relay.redis.xlen(f"{queue}:{priority}"))
        if await relay.redis.exists(f"{queue}:{priority}"):
            left.append((await relay.redis.xpending(f"{queue}:{priority}", "workers"))["pending"])
    return not any(left)


async def _all_ended_once(gateway: Gateway, asked: dict[str, tuple[str, str]]) -> None:
    """As a newcomer sees it: one end each, and text that is the provider's, or a beginning of it."""
    for session in sorted({session for session, _ in asked.values()}):
        mine = {name: question for name, (where, question) in asked.items() if where == session}
        async with Client(gateway.url, session) as client:
            await client.subscribe()
            async with asyncio.timeout(TIMEOUT_S):
                for name, question in mine.items():
                    shown = await client.ended(name)
                    assert client.ends[name] == 1
                    assert shown.end is not None
                    whole = "".join(_tokens(question))
                    if shown.end["reason"] == "complete":
                        check(client, name, whole)
                    else:
                        assert shown.end["reason"] == "stopped", msgspec.json.encode(shown.end)
                        assert whole.startswith(shown.text)
            assert not client.wrong
            assert not client.after_end
            assert set(client.view.generations) == set(mine)
