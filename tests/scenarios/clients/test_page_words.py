"""What the demo page says besides the conversation: only what is so, and only for as long as it is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Browser, Locator, Page, expect

from tests.fakes.scripted_gateway import WELCOME, Frame, ScriptedGateway
from tests.scenarios.browser import chromium
from tests.scenarios.processes import until

pytestmark = pytest.mark.slow

UNAVAILABLE = {
    "code": "unavailable",
    "message": "This did not work just now.",
    "retryable": True,
    "retry_after_s": 3600,
}
NO = {"code": "bad_message", "message": "Not this one.", "retryable": False}


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as running:
        yield running


class Answers:
    """A gateway whose refusals are said beforehand: command type → error, until `refusals` is emptied."""

    def __init__(self, **refusals: dict[str, Any]) -> None:
        self.refusals = refusals

    def __call__(self, command: Frame) -> list[Frame]:
        named = {"id": command["id"], "session": command["session"]}
        refusal = self.refusals.get(command["type"])
        if refusal is not None:
            return [{"type": "error", **named, **refusal}]
        log = {"epoch": "e1", "at": 0, "head": 0, "recovered": False, "active": []}
        replies: dict[str, Frame] = {
            "subscribe": {"type": "subscribed", **named, **log},
            "submit": {"type": "accepted", **named, "generation": "g1", "duplicate": False},
            "stop": {"type": "stopping", **named, "generation": "g1", "already_ended": False},
        }
        return [replies[command["type"]]] if command["type"] in replies else []


def of(generation: str, seq: int, kind: str, **fields: Any) -> Frame:
    return {"type": kind, "session": "s", "seq": seq, "generation": generation, "attempt": 1, **fields}


def at(page: Page, name: str) -> Locator:
    return page.get_by_test_id(name)


async def opened(browser: Browser, gateway: ScriptedGateway, name: str = "s") -> Page:
    page = await browser.new_page()
    await page.goto(f"{gateway.url}/demo#s={name}")
    await expect(at(page, "status")).to_have_attribute("data-state", "ready")
    return page


async def ask(page: Page, question: str) -> None:
    await at(page, "prompt").fill(question)
    await at(page, "prompt").press("Enter")


async def answering(gateway: ScriptedGateway, page: Page, generation: str = "g1", seq: int = 1) -> None:
    await gateway.send(of(generation, seq, "tokens", index=0, count=1, text="a"))
    await expect(at(page, "answer")).to_have_attribute("data-state", "streaming")


async def test_a_question_that_is_sent_again_is_no_failure(browser: Browser) -> None:
    answers = Answers(submit=UNAVAILABLE)
    async with ScriptedGateway(answers) as gateway:
        page = await opened(browser, gateway)
        await ask(page, "Why?")
        await expect(at(page, "status")).to_have_text("Still sending: the relay could not take it yet.")
        await expect(at(page, "note")).to_be_hidden()
        await expect(at(page, "pending-question")).to_have_text("Why?")
        answers.refusals.clear()
        await gateway.send({"type": "restored", "session": "s"})
        await until(lambda: len(gateway.named("submit")) == 2)
        await answering(gateway, page)
        await expect(at(page, "status")).to_have_text("Answering…")
        await expect(at(page, "note")).to_be_hidden()


async def test_a_stop_that_is_sent_again_is_no_failure(browser: Browser) -> None:
    answers = Answers(stop=UNAVAILABLE)
    async with ScriptedGateway(answers) as gateway:
        page = await opened(browser, gateway)
        await answering(gateway, page)
        await at(page, "stop").click()
        await until(lambda: gateway.named("stop"))
        await gateway.send(of("g1", 2, "tokens", index=1, count=1, text="b"))  # behind the refusal
        await expect(at(page, "answer-text")).to_have_text("ab")
        await expect(at(page, "note")).to_be_hidden()
        await expect(at(page, "status")).to_have_text("Stopping…")
        answers.refusals.clear()
        await gateway.send({"type": "restored", "session": "s"})
        await until(lambda: len(gateway.named("stop")) == 2)


async def test_that_no_worker_is_there_is_said_until_one_has_the_question(browser: Browser) -> None:
    sentence = "Queued: there is no worker for this at the moment. It begins when one comes."
    async with ScriptedGateway(Answers()) as gateway:
        page = await opened(browser, gateway)
        await gateway.send(of("g1", 1, "status", state="queued"))
        await expect(at(page, "status")).to_have_text("Queued")
        await gateway.send(of("g1", 2, "status", state="queued", detail="no_worker"))
        await expect(at(page, "status")).to_have_text(sentence)
        await expect(at(page, "answer")).to_contain_text(sentence)
        await expect(at(page, "answer")).to_have_attribute("data-state", "queued")
        await gateway.send(of("g1", 3, "status", state="retrying", detail="of a later release"))
        await expect(at(page, "status")).to_have_text("Retrying…")


async def test_a_refused_question_comes_back_and_its_note_stands_until_another_answer(browser: Browser) -> None:
    async with ScriptedGateway(Answers(submit=NO)) as gateway:
        page = await opened(browser, gateway)
        await ask(page, "Why?")
        await expect(at(page, "note")).to_have_text("Not this one.")
        await expect(at(page, "prompt")).to_have_value("Why?")
        await answering(gateway, page)  # asked on another device
        await expect(at(page, "note")).to_be_hidden()


async def test_a_stop_that_was_refused_is_said_while_its_answer_runs(browser: Browser) -> None:
    async with ScriptedGateway(Answers(stop=NO)) as gateway:
        page = await opened(browser, gateway)
        await answering(gateway, page)
        await at(page, "stop").click()
        await expect(at(page, "note")).to_have_text("Not this one.")
        await gateway.send(of("g1", 2, "end", reason="complete", count=1, text_bytes=1, crc32=0xE8B7BE43))
        await expect(at(page, "answer")).to_have_attribute("data-state", "complete")
        await expect(at(page, "note")).to_be_hidden()


async def test_a_session_was_deleted_until_somebody_asks_in_the_new_one(browser: Browser) -> None:
    async with ScriptedGateway(Answers()) as gateway:
        page = await opened(browser, gateway)
        await gateway.send({"type": "unsubscribed", "session": "s"})
        await expect(at(page, "note")).to_contain_text("This session was deleted.")
        await until(lambda: len(gateway.named("subscribe")) == 2)
        await answering(gateway, page)
        await expect(at(page, "note")).to_be_hidden()


async def test_that_a_session_may_not_be_followed_is_said_until_it_is(browser: Browser) -> None:
    answers = Answers(subscribe=NO)
    async with ScriptedGateway(answers) as gateway:
        page = await browser.new_page()
        await page.goto(f"{gateway.url}/demo#s=s")
        await expect(at(page, "note")).to_have_text("Not this one.")
        answers.refusals.clear()
        await gateway.close(1012)
        await expect(at(page, "status")).to_have_attribute("data-state", "ready")
        await expect(at(page, "note")).to_be_hidden()


async def test_that_no_connection_comes_about_is_said_with_what_may_be_wrong(browser: Browser) -> None:
    async with ScriptedGateway(Answers(), refuses=403) as gateway:
        page = await browser.new_page()
        await page.goto(f"{gateway.url}/demo#s=s")
        said = f"Connecting… The relay at {gateway.url} answers, but no WebSocket to it opens. A proxy"
        await expect(at(page, "status")).to_contain_text(said, timeout=20_000)


async def test_a_question_is_too_long_until_it_is_another(browser: Browser) -> None:
    async with ScriptedGateway(Answers()) as gateway:
        page = await opened(browser, gateway)
        await ask(page, "x" * 140_000)
        await expect(at(page, "note")).to_have_text("This question is too long for the relay.")
        await at(page, "prompt").fill("short")
        await expect(at(page, "note")).to_be_hidden()
        assert gateway.named("submit") == []


@pytest.mark.parametrize("name", ["bad name", "..", "x" * 129])
async def test_a_name_in_the_address_that_is_none_is_said_and_a_new_session_opened(browser: Browser, name: str) -> None:
    async with ScriptedGateway(Answers()) as gateway:
        page = await opened(browser, gateway, name)
        await expect(at(page, "note")).to_contain_text("The address of this page named no session")
        (first,) = gateway.named("subscribe")
        assert page.url == f"{gateway.url}/demo#s={first['session']}"
        await page.evaluate("location.hash = '#s=t'")
        await expect(at(page, "note")).to_be_hidden()
        await page.evaluate("name => location.hash = `#s=${name}`", name)
        await expect(at(page, "note")).to_contain_text("The address of this page named no session")
        subscribed = [command["session"] for command in gateway.named("subscribe")]
        assert subscribed[1] == "t"
        assert page.url == f"{gateway.url}/demo#s={subscribed[-1]}"


@pytest.mark.parametrize("address", ["", "#elsewhere"])
async def test_an_address_that_names_none_opens_a_new_session_without_a_word(browser: Browser, address: str) -> None:
    async with ScriptedGateway(Answers()) as gateway:
        page = await browser.new_page()
        await page.goto(f"{gateway.url}/demo{address}")
        await expect(at(page, "status")).to_have_attribute("data-state", "ready")
        await expect(at(page, "note")).to_be_hidden()


def guarded(command: Frame) -> list[Frame]:
    """A gateway's answers where auth is on; `hello` is checked by whoever closes."""
    if command["type"] == "hello":
        return [WELCOME] if command["token"] == "good" else []
    return Answers()(command)


async def test_where_a_token_is_wanted_the_page_asks_for_it_and_keeps_it_for_this_tab(browser: Browser) -> None:
    async with ScriptedGateway(guarded, welcome=None) as gateway:
        page = await browser.new_page()
        await page.goto(f"{gateway.url}/demo#s=s")
        await until(lambda: gateway.connections)
        await gateway.close(4501, "There was no hello.")
        await expect(at(page, "status")).to_have_text("This relay asks for a token. There was no hello.")
        await expect(at(page, "identify")).to_be_visible()
        await at(page, "token").fill("bad")
        await at(page, "token").press("Enter")
        await until(lambda: gateway.named("hello"))
        await gateway.close(4501, "Its signature is wrong.")
        await expect(at(page, "status")).to_have_text("This relay asks for a token. Its signature is wrong.")
        await at(page, "token").fill(" good ")
        await at(page, "token").press("Enter")
        for _ in range(2):
            await expect(at(page, "status")).to_have_attribute("data-state", "ready")
            await expect(at(page, "identify")).to_be_hidden()
            await page.reload()
        await until(lambda: len(gateway.named("hello")) == 4)
        assert [command["token"] for command in gateway.named("hello")] == ["bad", "good", "good", "good"]
        assert page.url == f"{gateway.url}/demo#s=s"
        await expect(at(page, "status")).to_have_attribute("data-state", "ready")
        await gateway.close(4503, "Revoked.")
        await expect(at(page, "status")).to_have_text("Revoked.")
        await expect(at(page, "identify")).to_be_visible()


async def test_where_none_is_wanted_the_page_asks_for_none_and_sends_none(browser: Browser) -> None:
    async with ScriptedGateway(Answers()) as gateway:
        page = await opened(browser, gateway)
        await expect(at(page, "identify")).to_be_hidden()
        await gateway.close(4503, "Not you.")
        await expect(at(page, "status")).to_have_text("Not you.")
        await expect(at(page, "identify")).to_be_hidden()
        assert gateway.named("hello") == []
        assert gateway.accepted == 1
