"""relay-client.js when a gateway says what no sound one says on demand: refusals, wrong text, new logs."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import pytest
from playwright.async_api import Browser

from tests.fakes.scripted_gateway import Frame, ScriptedGateway
from tests.scenarios.browser import Tab, chromium, client_page
from tests.scenarios.processes import until

pytestmark = pytest.mark.slow

OF_G1 = {"generation": "g1", "attempt": 1}
TOKENS: Frame = {"type": "tokens", **OF_G1, "index": 0, "count": 1, "text": "é"}
MESSAGE: Frame = {"type": "message", "message_id": "m", "role": "user", "content": "?", "generation": "g1"}


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as running:
        yield running


def end(checksum: int = zlib.crc32("é".encode()), **fields: Any) -> Frame:
    proof = {"count": 1, "text_bytes": 2, "crc32": checksum}
    return {"type": "end", **OF_G1, "reason": "complete", **proof, **fields}


def live(seq: int, event: Frame) -> Frame:
    return {"session": "s", "seq": seq, **event}


def subscribed(command: Frame | None = None, *, epoch: str = "e1", head: int = 0, recovered: bool = False) -> Frame:
    reply = {
        "type": "subscribed", "session": (command or {}).get("session", "s"), "epoch": epoch, "head": head,
        "at": command["cursor"]["seq"] if command and recovered else 0, "recovered": recovered, "active": [],
    }  # fmt: skip
    return reply if command is None else {**reply, "id": command["id"]}


def obliging(command: Frame) -> list[Frame]:
    """Answers every command as if all were well; a cursor is honoured."""
    match command["type"]:
        case "subscribe":
            return [subscribed(command, recovered="cursor" in command)]
        case "submit":
            return [
                {
                    "type": "accepted", "id": command["id"], "session": command["session"], "generation": "g1",
                    "duplicate": False,
                }
            ]  # fmt: skip
    return []


async def following(browser: Browser, gateway: ScriptedGateway, **options: Any) -> Tab:
    """A page that follows the session, its first subscribe answered."""
    tab = await client_page(browser, gateway.url, **options)
    await tab.follow("s")
    await tab.until("frames.some(({ type }) => type === 'subscribed')")
    return tab


async def test_a_text_that_never_proves_is_rebuilt_a_few_times_and_then_shown_as_unproven(browser: Browser) -> None:
    def wrong(command: Frame) -> list[Frame]:
        catchup = {"type": "catchup", "session": "s", "from": 1, "seq": 3, "events": [MESSAGE, TOKENS, end(1)]}
        return [subscribed(command, head=3), catchup] if command["type"] == "subscribe" else []

    async with ScriptedGateway(wrong) as gateway:
        tab = await following(browser, gateway)
        await tab.until("sessions.s.generations.get('g1')?.unproven")
        shown = await tab.ended("s", "g1")
        assert (shown["text"], shown["state"]) == ("é", "complete")
        await gateway.send(live(4, {"type": "weather"}))
        await tab.until("frames.some(({ seq }) => seq === 4)")
        assert len(gateway.named("subscribe")) == 4
        assert not any("cursor" in command for command in gateway.named("subscribe"))
        assert len(await tab.events("s", "end")) == 1


async def test_a_text_that_proves_at_the_second_try_is_shown_as_it_should_be(browser: Browser) -> None:
    async with ScriptedGateway(obliging) as gateway:
        tab = await following(browser, gateway)
        await gateway.send(live(1, {**TOKENS, "text": "e"}), live(2, end()))
        await until(lambda: len(gateway.named("subscribe")) == 2)
        assert "cursor" not in gateway.named("subscribe")[1]
        await gateway.send(live(1, TOKENS), live(2, end()))
        shown = await tab.ended("s", "g1")
        assert (shown["text"], shown["unproven"]) == ("é", False)
        await tab.until("events.some(({ type }) => type === 'end')")
        assert len(await tab.events("s", "end")) == 1


async def test_a_gap_asks_again_with_the_cursor_and_what_is_of_the_old_subscription_is_dropped(
    browser: Browser,
) -> None:
    async with ScriptedGateway(obliging) as gateway:
        tab = await following(browser, gateway)
        await gateway.send(live(1, MESSAGE), live(3, end()), live(2, TOKENS))
        await until(lambda: len(gateway.named("subscribe")) == 2)
        assert gateway.named("subscribe")[1]["cursor"] == {"epoch": "e1", "seq": 1}
        await gateway.send(live(2, TOKENS), live(3, end()))
        assert (await tab.ended("s", "g1"))["text"] == "é"
        assert len(gateway.named("subscribe")) == 2


async def test_the_answer_to_an_unsubscribe_does_not_end_the_session_that_was_followed_again(browser: Browser) -> None:
    def answers(command: Frame) -> list[Frame]:
        if command["type"] != "unsubscribe":
            return obliging(command)
        return [{"type": "unsubscribed", "session": command["session"], "id": command.get("id")}]

    async with ScriptedGateway(answers) as gateway:
        tab = await following(browser, gateway)
        await tab.run("() => { sessions.s.unsubscribe(); follow('s'); }")  # as a page does that is drawn anew
        await tab.until("frames.filter(({ type }) => type === 'subscribed').length === 2")
        await gateway.send(live(1, TOKENS), live(2, end()))
        assert (await tab.ended("s", "g1"))["text"] == "é"
        assert await tab.events("s", "deleted") == []


@pytest.mark.parametrize("given", ["undefined", "null", "'mine'"])
async def test_every_submit_has_one_request_id_however_often_it_is_sent(browser: Browser, given: str) -> None:
    def busy(command: Frame) -> list[Frame]:
        first = command["type"] == "submit" and len(gateway.named("submit")) == 1
        error = {"type": "error", "id": command["id"], "code": "unavailable", "message": "", "retryable": True}
        return [error] if first else obliging(command)

    async with ScriptedGateway(busy) as gateway:
        tab = await following(browser, gateway)
        await tab.run(f"() => promise('p', sessions.s.submit({{ content: '?', request_id: {given} }}))")
        assert "value" in await tab.settled("p")
        ids = [command.get("request_id") for command in gateway.named("submit")]
        assert ids[0]
        assert ids == ids[:1] * 2
        assert given != "'mine'" or ids[0] == "mine"


async def test_gaps_without_end_do_not_loop_hot(browser: Browser) -> None:
    def gaps(command: Frame) -> list[Frame]:
        return [subscribed(command), live(9, TOKENS)] if command["type"] == "subscribe" else []

    async with ScriptedGateway(gaps) as gateway:
        tab = await client_page(browser, gateway.url)
        await tab.run("Math.random = () => 0.999999")  # the longest pauses
        await tab.follow("s")
        await tab.until("frames.filter(({ type }) => type === 'subscribed').length === 4")
        told = await tab.run("frames.filter(({ type }) => type === 'subscribed').map(({ ms }) => ms)")
        assert told[2] - told[1] >= 490
        assert told[3] - told[2] >= 990


@pytest.mark.parametrize(("code", "word"), [(4501, "unauthenticated"), (4503, "forbidden"), (4999, "forbidden")])
async def test_a_close_of_4500_and_above_is_final(browser: Browser, code: int, word: str) -> None:
    async with ScriptedGateway(lambda command: obliging(command) if command["type"] == "subscribe" else []) as gateway:
        tab = await following(browser, gateway)
        await tab.submit("s", "asked", content="?")
        await until(lambda: gateway.named("submit"))
        await gateway.close(code, "Not you.")
        await tab.until("relay.state === 'closed'")
        error = {"name": "RelayError", "code": word, "message": "Not you.", "retryable": False, "final": True}
        assert (await tab.settled("asked"))["error"] == error
        assert [event["error"] for event in await tab.events("relay", "error")] == [error]
        assert [event["error"] for event in await tab.events("s", "error")] == [error]
        await tab.run("dispatchEvent(new Event('online'))")
        assert await tab.run("sockets.length") == 1
        await tab.submit("s", "later", content="?")
        assert (await tab.settled("later"))["error"]["code"] == "closed"


@pytest.mark.parametrize("code", [1001, 1011, 1012, 4400, 4408, 4413, 4429])
async def test_other_closes_are_followed_by_another_try_that_sends_what_was_not_answered(
    browser: Browser, code: int
) -> None:
    async with ScriptedGateway(lambda command: obliging(command) if command["type"] == "subscribe" else []) as gateway:
        tab = await following(browser, gateway)
        await tab.submit("s", "asked", content="?")
        await until(lambda: gateway.named("submit"))
        await gateway.close(code)
        await until(lambda: len(gateway.named("submit")) == 2)
        assert gateway.named("submit")[0] == gateway.named("submit")[1]
        assert gateway.named("subscribe")[1]["cursor"] == {"epoch": "e1", "seq": 0}
        assert await tab.run("promises.asked") is None


async def test_coming_back_online_does_not_wait_for_the_backoff(browser: Browser) -> None:
    async with ScriptedGateway(obliging) as gateway:
        tab = await following(browser, gateway)
        await tab.run("Math.random = () => 0.999999")  # the longest pauses: 250, 500, 1000 ms …
        # In the page, as the pause may be over before we are told that it began.
        online = "dispatchEvent(new Event('online')); window.atOnce = sockets.length"
        await tab.run(
            "() => relay.addEventListener('state', ({ detail }) => {"
            f" if (detail.state === 'reconnecting') setTimeout(() => {{ {online} }}); }})"
        )
        await gateway.close(1012)
        await tab.until("window.atOnce !== undefined")
        assert await tab.run("window.atOnce") == 2


async def test_a_draining_gateway_that_does_not_close_is_left_at_its_time(browser: Browser) -> None:
    async with ScriptedGateway(obliging) as gateway:
        tab = await following(browser, gateway)
        await gateway.send({"type": "draining", "reconnect_in_ms": 200})
        await tab.until("sockets.length === 2 && relay.state === 'open'")
        (draining,) = await tab.run("frames.filter(({ type }) => type === 'draining')")
        assert await tab.run("sockets[1].ms") - draining["ms"] >= 195
        assert [event["state"] for event in await tab.events("relay", "state")] == ["open", "reconnecting", "open"]
        await until(lambda: len(gateway.named("subscribe")) == 2)


async def test_a_retryable_error_is_tried_again_in_its_time_and_any_other_rejects(browser: Browser) -> None:
    def busy(command: Frame) -> list[Frame]:
        if command["type"] != "submit":
            return obliging(command)
        if command["content"] == "never":
            return [{"type": "error", "id": command["id"], "code": "conflict", "message": "No.", "retryable": False}]
        if len(gateway.named("submit")) < 3:
            wait = {"code": "rate_limited", "message": "Later.", "retryable": True, "retry_after_s": 0.1}
            return [{"type": "error", "id": command["id"], "session": "s", **wait}]
        return obliging(command)

    async with ScriptedGateway(busy) as gateway:
        tab = await following(browser, gateway)
        await tab.submit("s", "asked", content="?")
        assert (await tab.settled("asked"))["value"] == {"generation": "g1", "duplicate": False}
        first, second, third = gateway.named("submit")
        assert first == second == third
        assert [event["error"]["code"] for event in await tab.events("s", "error")] == ["rate_limited"] * 2
        sent = await tab.run("frames.filter(({ type }) => type === 'error').map(({ ms }) => ms)")
        assert sent[1] - sent[0] >= 95
        await tab.submit("s", "refused", content="never")
        assert (await tab.settled("refused"))["error"]["code"] == "conflict"


@pytest.mark.parametrize("kind", ["submit", "stop"])
async def test_a_command_that_is_refused_for_now_is_sent_again_until_it_is_answered(
    browser: Browser, kind: str
) -> None:
    async with ScriptedGateway(refuses_first(kind, times=40, retry_after_s=0)) as gateway:
        tab = await following(browser, gateway)
        await tab.run("Math.random = () => 0")
        asked = {"submit": "submit({ content: '?' })", "stop": "stop('g1')"}[kind]
        await tab.run(f"promise('asked', sessions.s.{asked})")
        assert (await tab.settled("asked"))["value"]["generation"] == "g1"
        assert gateway.named(kind) == gateway.named(kind)[:1] * 41


async def test_a_command_is_sent_over_each_new_connection_until_it_is_answered(browser: Browser) -> None:
    async def asked(times: int) -> None:
        await until(lambda: len(gateway.named("submit")) == times)

    async with ScriptedGateway(lambda command: obliging(command) if command["type"] == "subscribe" else []) as gateway:
        tab = await following(browser, gateway)
        await tab.run("Math.random = () => 0")
        await tab.submit("s", "asked", content="?")
        for number in range(1, 21):
            await asked(number)
            await gateway.close(1012)
        await asked(21)
        await gateway.send(*obliging(gateway.named("submit")[-1]))
        assert (await tab.settled("asked"))["value"]["generation"] == "g1"


async def test_so_many_commands_wait_and_one_more_is_refused_at_once(browser: Browser) -> None:
    async with ScriptedGateway(obliging, welcome=None) as gateway:
        tab = await client_page(browser, gateway.url)
        await tab.follow("s")
        await tab.run("for (let n = 0; n <= 100; n++) promise(`p${n}`, sessions.s.submit({ content: '?' }))")
        assert (await tab.settled("p100"))["error"]["code"] == "rate_limited"
        assert await tab.run("promises.p99") is None


def for_now(command: Frame, **fields: Any) -> Frame:
    """A refusal whose time nobody sits out: only a word of the gateway's ends the wait."""
    later = {"code": "unavailable", "message": "Later.", "retryable": True, "retry_after_s": 3600, **fields}
    return {"type": "error", "id": command["id"], "session": command["session"], **later}


def refuses_first(kind: str, times: int = 1, **fields: Any) -> Callable[[Frame], list[Frame]]:
    """Refuses the first of these commands for now."""
    refused: list[Frame] = []

    def answer(command: Frame) -> list[Frame]:
        if command["type"] == kind and len(refused) < times:
            refused.append(command)
            return [for_now(command, **fields)]
        if command["type"] == "stop":
            name = {"session": command["session"], "generation": command["generation"]}
            return [{"type": "stopping", "id": command["id"], **name, "already_ended": False}]
        return obliging(command)

    return answer


@pytest.mark.parametrize("named", [{}, {"session": "s"}])
async def test_what_waits_for_the_store_goes_out_when_it_is_restored(browser: Browser, named: dict[str, str]) -> None:
    async with ScriptedGateway(refuses_first("stop")) as gateway:
        tab = await following(browser, gateway)
        await tab.run("Math.random = () => 0.999999")  # the widest spread
        await tab.run("promise('stopped', sessions.s.stop('g1'))")
        await tab.until("frames.some(({ type }) => type === 'error')")
        await gateway.send({"type": "restored", **named})
        assert (await tab.settled("stopped"))["value"] == {"generation": "g1", "already_ended": False}
        waited = "((of) => of('stopping') - of('restored'))((name) => frames.find(({ type }) => type === name).ms)"
        assert await tab.run(waited) >= 495
        assert len(gateway.named("stop")) == 2


async def test_a_word_that_comes_before_the_refusal_counts_too(browser: Browser) -> None:
    async with ScriptedGateway(
        lambda command: [] if len(gateway.named("submit")) == 1 else obliging(command)
    ) as gateway:
        tab = await following(browser, gateway)
        await tab.submit("s", "asked", content="?")
        await until(lambda: gateway.named("submit"))
        await gateway.send({"type": "restored", "session": "s"}, for_now(gateway.named("submit")[0]))
        assert (await tab.settled("asked"))["value"]["generation"] == "g1"
        first, second = gateway.named("submit")
        assert first == second


async def test_what_waits_for_the_store_goes_out_over_a_new_connection(browser: Browser) -> None:
    async with ScriptedGateway(refuses_first("submit")) as gateway:
        tab = await following(browser, gateway)
        await tab.submit("s", "asked", content="?")
        await tab.until("frames.some(({ type }) => type === 'error')")
        await gateway.close(1012)
        assert (await tab.settled("asked"))["value"]["generation"] == "g1"
        assert len(gateway.named("submit")) == 2


async def test_a_command_that_is_taken_shows_that_the_others_of_its_session_would_be_and_it_could_be_followed(
    browser: Browser,
) -> None:
    async with ScriptedGateway(refuses_first("subscribe")) as gateway:
        tab = await client_page(browser, gateway.url)
        await tab.follow("s")
        await tab.until("frames.some(({ type }) => type === 'error')")
        await tab.ask("s", "?")
        await tab.until("frames.some(({ type }) => type === 'subscribed')")
        assert len(gateway.named("subscribe")) == 2


@pytest.mark.parametrize(
    ("refusal", "word"),
    [({}, {"session": "t"}), ({"code": "rate_limited"}, {"session": "s"})],
    ids=["another session's", "the store was not what it lacked"],
)
async def test_a_word_that_is_not_about_it_ends_no_wait(
    browser: Browser, refusal: dict[str, Any], word: dict[str, str]
) -> None:
    async with ScriptedGateway(refuses_first("submit", **refusal)) as gateway:
        tab = await following(browser, gateway)
        await tab.run("Math.random = () => 0")  # no spread: what is due is sent in the next task
        await tab.submit("s", "asked", content="?")
        await tab.until("frames.some(({ type }) => type === 'error')")
        await gateway.send({"type": "restored", **word})
        await tab.until("frames.some(({ type }) => type === 'restored')")
        await tab.run("() => new Promise((done) => setTimeout(done, 50))")
        assert await tab.run("commands.filter(({ type }) => type === 'submit').length") == 1
        assert await tab.run("promises.asked") is None


async def test_a_submit_that_was_not_sent_can_be_taken_back_and_no_other(browser: Browser) -> None:
    async with ScriptedGateway(obliging, welcome=None) as gateway:
        tab = await client_page(browser, gateway.url)
        await tab.follow("s")
        await tab.run(
            "window.taken = new AbortController();"
            "promise('taken', sessions.s.submit({ content: '?' }, { signal: taken.signal }));"
            "taken.abort()"
        )
        assert "error" in await tab.settled("taken")
        await until(lambda: gateway.connections)
        await gateway.send({"type": "welcome", "heartbeat_s": 60, "limits": {"max_command_bytes": 300}})
        await tab.until("relay.state === 'open'")
        await tab.run(
            "window.late = new AbortController();"
            "promise('kept', sessions.s.submit({ content: '?' }, { signal: late.signal }));"
            "late.abort()"
        )
        assert (await tab.settled("kept"))["value"]["generation"] == "g1"
        await tab.submit("s", "long", content="é" * 200)
        assert (await tab.settled("long"))["error"]["code"] == "too_large"
        assert len(gateway.named("submit")) == 1


async def test_a_deleted_session_is_told_and_the_connection_goes_on(browser: Browser) -> None:
    async with ScriptedGateway(obliging) as gateway:
        tab = await following(browser, gateway)
        await gateway.send({"type": "unsubscribed", "session": "s"})
        await tab.until("events.some(({ of, type }) => of === 's' && type === 'deleted')")
        assert await tab.run("[sessions.s.following, relay.state]") == [False, "open"]
        assert len(gateway.named("subscribe")) == 1
        await tab.follow("s")
        await until(lambda: len(gateway.named("subscribe")) == 2)
        assert "cursor" not in gateway.named("subscribe")[1]
        assert gateway.accepted == 1


async def test_an_answer_that_the_new_log_does_not_have_is_interrupted_and_stays_on_the_screen(
    browser: Browser,
) -> None:
    async with ScriptedGateway(obliging) as gateway:
        tab = await following(browser, gateway)
        await gateway.send(live(1, MESSAGE), live(2, TOKENS))
        await tab.shows("s", "g1", "é")
        await gateway.send(subscribed(epoch="e2"))
        await tab.until("events.some(({ type }) => type === 'interrupted')")
        shown = "(({ state, text, message }) => [state, text, message.content])(sessions.s.generations.get('g1'))"
        assert await tab.run(shown) == ["interrupted", "é", "?"]
        await gateway.send(live(1, TOKENS), live(2, end()))
        assert (await tab.ended("s", "g1"))["state"] == "complete"
        assert await tab.run(shown) == ["complete", "é", "?"]


async def test_an_answer_that_nobody_brings_back_is_lost_in_the_end(browser: Browser) -> None:
    """As after a DELETE while the page was away."""
    welcome = {"type": "welcome", "heartbeat_s": 60, "limits": {"lost_after_s": 0.3}}
    async with ScriptedGateway(obliging, welcome=welcome) as gateway:
        tab = await following(browser, gateway)
        await gateway.send(live(1, MESSAGE), live(2, TOKENS))
        await tab.shows("s", "g1", "é")
        await gateway.send(subscribed(epoch="e2"))
        await tab.until("events.some(({ type }) => type === 'lost')")
        shown = "(({ state, text, running }) => [state, text, running])(sessions.s.generations.get('g1'))"
        assert await tab.run(shown) == ["lost", "é", False]
        await gateway.send(live(1, TOKENS), live(2, end()))
        assert (await tab.ended("s", "g1"))["state"] == "complete"


async def test_half_a_character_is_mended_before_it_is_sent(browser: Browser) -> None:
    async with ScriptedGateway(obliging) as gateway:
        tab = await following(browser, gateway)
        await tab.run(
            "promise('asked', sessions.s.submit("
            "{ content: 'a\\ud83d \\ud83d\\ude00', metadata: { 'k\\ude00': ['\\ud83d'] } }))"
        )
        await tab.settled("asked")
        (submit,) = gateway.named("submit")
        assert submit["content"] == "a\ufffd \U0001f600"
        assert submit["metadata"] == {"k\ufffd": ["\ufffd"]}


async def test_a_refusal_that_could_not_read_the_id_settles_the_one_command_that_waits(browser: Browser) -> None:
    def blind(command: Frame) -> list[Frame]:
        if command["type"] != "submit":
            return obliging(command)
        return [{"type": "error", "code": "bad_message", "message": "No.", "retryable": False}]

    async with ScriptedGateway(blind) as gateway:
        tab = await following(browser, gateway)
        await tab.submit("s", "asked", content="?")
        assert (await tab.settled("asked"))["error"]["code"] == "bad_message"


def unread(**named: Any) -> Frame:
    return {"type": "error", "code": "bad_message", "message": "No.", "retryable": False, **named}


@pytest.mark.parametrize("named", [{}, {"session": "s"}])
async def test_of_several_commands_that_wait_the_one_that_could_not_be_read_is_found_and_the_others_are_taken(
    browser: Browser, named: dict[str, str]
) -> None:
    def answers(command: Frame) -> list[Frame]:
        if command["type"] != "submit":
            return obliging(command)
        if gateway.accepted > 1:
            return [unread(**named)] if command["content"].startswith("bad") else obliging(command)
        return [unread(**named)] * 2 if len(gateway.named("submit")) == 4 else []

    async with ScriptedGateway(answers) as gateway:
        tab = await following(browser, gateway)
        for name in ("good", "bad", "better", "bad again"):
            await tab.submit("s", name, content=name)
        for name in ("good", "better"):
            assert (await tab.settled(name))["value"]["generation"] == "g1"
        for name in ("bad", "bad again"):
            assert (await tab.settled(name))["error"]["code"] == "bad_message"
        assert gateway.accepted == 2
        asked = gateway.named("submit")
        assert asked[4:] == asked[:4]


async def test_a_command_asked_while_an_unread_one_is_looked_for_waits_its_turn(browser: Browser) -> None:
    def answers(command: Frame) -> list[Frame]:
        if command["type"] != "submit":
            return obliging(command)
        return [unread()] if len(gateway.named("submit")) == 2 else []

    async with ScriptedGateway(answers) as gateway:
        tab = await following(browser, gateway)
        for name in ("a", "b"):
            await tab.submit("s", name, content=name)
        await until(lambda: len(gateway.named("submit")) == 3)
        await tab.submit("s", "c", content="c")
        await gateway.send(unread())
        await until(lambda: len(gateway.named("submit")) == 4)
        assert [command["content"] for command in gateway.named("submit")] == ["a", "b", "a", "b"]
        for _ in range(2):
            await gateway.send(*obliging(gateway.named("submit")[-1]))
            await until(lambda: len(gateway.named("submit")) == 5)
        assert "value" in await tab.settled("b")
        assert "value" in await tab.settled("c")
        assert (await tab.settled("a"))["error"]["code"] == "bad_message"


async def test_an_error_without_an_id_that_is_about_no_unread_command_settles_none(browser: Browser) -> None:
    async with ScriptedGateway(lambda command: obliging(command) if command["type"] == "subscribe" else []) as gateway:
        tab = await following(browser, gateway)
        await tab.submit("s", "asked", content="?")
        await until(lambda: gateway.named("submit"))
        await gateway.send({**unread(), "code": "token_expired"})
        await tab.until("events.some(({ of, type }) => of === 'relay' && type === 'error')")
        assert await tab.run("promises.asked") is None
        await gateway.send(*obliging(gateway.named("submit")[0]))
        assert (await tab.settled("asked"))["value"]["generation"] == "g1"


SOON_LOST = {"type": "welcome", "heartbeat_s": 60, "limits": {"lost_after_s": 0.3}}
LOST = "(({ state, message, running }) => [state, message?.content, running])(sessions.s.generations.get('g1'))"


@pytest.mark.parametrize("seen", ["nothing", "the question"])
async def test_an_answer_that_was_accepted_and_never_came_is_lost_in_the_end(browser: Browser, seen: str) -> None:
    """As after a DELETE while the page was away, or a loss, before its first event had come here."""
    async with ScriptedGateway(obliging, welcome=SOON_LOST) as gateway:
        tab = await following(browser, gateway)
        await tab.submit("s", "asked", content="?")
        await tab.settled("asked")
        if seen == "the question":
            await gateway.send(live(1, MESSAGE))
        await gateway.send(subscribed(epoch="e2"))
        await tab.until("events.some(({ type }) => type === 'lost')")
        assert await tab.run(LOST) == ["lost", "?", False]
        await gateway.send(live(1, TOKENS), live(2, end()))
        assert (await tab.ended("s", "g1"))["state"] == "complete"
        assert await tab.run(LOST) == ["complete", "?", False]


async def test_an_answer_is_not_lost_while_its_log_is_on_its_way(browser: Browser) -> None:
    async with ScriptedGateway(obliging, welcome=SOON_LOST) as gateway:
        tab = await following(browser, gateway)
        await gateway.send(live(1, MESSAGE), live(2, TOKENS))
        await tab.shows("s", "g1", "é")
        await gateway.send(subscribed(epoch="e2", head=2))
        await tab.until("events.some(({ type }) => type === 'interrupted')")
        await tab.run("() => new Promise((done) => setTimeout(done, 2_000))")  # it would be lost after 1.3 s
        assert await tab.events("s", "lost") == []
        await gateway.send(live(1, TOKENS), live(2, end()))
        assert (await tab.ended("s", "g1"))["state"] == "complete"


async def test_an_answer_has_its_time_however_long_another_is_missing(browser: Browser) -> None:
    a_day_s = 86_400  # the clock's leap is no silence
    welcome = {"type": "welcome", "heartbeat_s": a_day_s, "limits": {"lost_after_s": 3600}}
    async with ScriptedGateway(obliging, welcome=welcome) as gateway:
        tab = await following(browser, gateway)
        await gateway.send(live(1, {**TOKENS, "generation": "g0"}))
        await tab.shows("s", "g0", "é")
        await gateway.send(subscribed(epoch="e2"))
        await tab.until("events.some(({ type }) => type === 'interrupted')")
        await tab.run("() => { const now = Date.now; Date.now = () => now() + 3_599_000; }")
        await tab.submit("s", "asked", content="?")
        await tab.settled("asked")
        await gateway.send(live(1, {"type": "weather"}))
        await tab.until("events.some(({ type }) => type === 'lost')")
        assert [event["generation"] for event in await tab.events("s", "lost")] == ["g0"]
        assert await tab.run("sessions.s.generations.has('g1')") is False


async def test_an_answer_that_had_begun_before_a_session_was_joined_live_is_read_from_its_beginning(
    browser: Browser,
) -> None:
    def answers(command: Frame) -> list[Frame]:
        if command["type"] == "submit":
            return [{**obliging(command)[0], "duplicate": True}]
        at = 2 if command.get("from") == "live" else 0
        return [{**subscribed(command, head=2), "at": at}]

    async with ScriptedGateway(answers, welcome=SOON_LOST) as gateway:
        tab = await client_page(browser, gateway.url)
        await tab.follow("s", **{"from": "live"})
        await tab.submit("s", "asked", content="?", request_id="mine")
        await tab.settled("asked")
        await until(lambda: len(gateway.named("subscribe")) == 2)
        assert not {"from", "cursor"} & set(gateway.named("subscribe")[1])
        await gateway.send(live(1, TOKENS), live(2, end()))
        assert (await tab.ended("s", "g1"))["text"] == "é"
        assert await tab.events("s", "lost") == []


async def test_a_cursor_that_is_not_honoured_brings_everything(browser: Browser) -> None:
    def forgotten(command: Frame) -> list[Frame]:
        return [subscribed(command, head=2)] if command["type"] == "subscribe" else []

    async with ScriptedGateway(forgotten) as gateway:
        tab = await client_page(browser, gateway.url)
        assert await tab.run("(follow('s', { cursor: { epoch: 'e0', seq: 7 } }), sessions.s.resumed)")
        await tab.until("events.some(({ type }) => type === 'change')")
        assert gateway.named("subscribe")[0]["cursor"] == {"epoch": "e0", "seq": 7}
        assert await tab.run("sessions.s.resumed") is False
        await gateway.send(live(1, TOKENS), live(2, end()))
        assert (await tab.ended("s", "g1"))["text"] == "é"
        assert len(gateway.named("subscribe")) == 1


async def test_an_earlier_answer_of_a_session_that_was_joined_at_a_cursor_is_read_from_its_beginning(
    browser: Browser,
) -> None:
    def answers(command: Frame) -> list[Frame]:
        if command["type"] == "submit":
            return [{**obliging(command)[0], "duplicate": True}]
        return obliging(command)

    async with ScriptedGateway(answers, welcome=SOON_LOST) as gateway:
        tab = await client_page(browser, gateway.url)
        await tab.run("follow('s', { cursor: { epoch: 'e1', seq: 7 } })")
        await tab.submit("s", "asked", content="?", request_id="mine")
        await tab.settled("asked")
        await until(lambda: len(gateway.named("subscribe")) == 2)
        assert "cursor" not in gateway.named("subscribe")[1]


@pytest.mark.parametrize("cursor", ["{ epoch: 'e 1', seq: 1 }", "{ epoch: 'e1', seq: -1 }", "{ epoch: 'e1' }", "7"])
async def test_what_is_no_cursor_and_one_of_a_session_that_is_followed_are_refused(
    browser: Browser, cursor: str
) -> None:
    async with ScriptedGateway(obliging) as gateway:
        tab = await following(browser, gateway)
        named = "(cursor) => { try { relay.session('t', { cursor }) } catch (error) { return error.name } }"
        assert await tab.run(f"({named})({cursor})") == "RangeError"
        again = "try { relay.session('s', { cursor: { epoch: 'e1', seq: 1 } }) } catch (error) { error.message }"
        assert "followed already" in await tab.run(f"eval({again!r})")
        assert len(gateway.named("subscribe")) == 1


async def test_an_hour_offline_does_not_count_against_an_answer(browser: Browser) -> None:
    async with ScriptedGateway(obliging) as gateway:
        tab = await following(browser, gateway)
        await gateway.send(live(1, MESSAGE), live(2, TOKENS))
        await tab.shows("s", "g1", "é")
        await gateway.send(subscribed(epoch="e2"))
        await tab.until("events.some(({ type }) => type === 'interrupted')")
        await tab.run("() => { const now = Date.now; Date.now = () => now() + 3_600_000; }")
        await gateway.close(1012)
        await tab.until("frames.filter(({ type }) => type === 'subscribed').length === 3")
        await tab.run("() => new Promise((done) => setTimeout(done, 100))")
        assert await tab.events("s", "lost") == []
        await gateway.send(live(1, TOKENS), live(2, end()))
        assert (await tab.ended("s", "g1"))["state"] == "complete"


async def test_a_session_is_not_degraded_after_a_reconnect_until_it_is_said_again(browser: Browser) -> None:
    async with ScriptedGateway(obliging) as gateway:
        tab = await following(browser, gateway)
        await gateway.send({"type": "degraded", "session": "s"})
        await tab.until("sessions.s.degraded")
        await gateway.close(1012)
        await tab.until("sockets.length === 2 && relay.state === 'open'")
        assert await tab.run("sessions.s.degraded") is False


async def test_a_question_that_comes_twice_is_shown_once(browser: Browser) -> None:
    """After a loss a retry's worker may be the first to write the question that both answer."""
    async with ScriptedGateway(obliging) as gateway:
        tab = await following(browser, gateway)
        await gateway.send(live(1, MESSAGE), live(2, TOKENS))
        await tab.shows("s", "g1", "é")
        await gateway.send(subscribed(epoch="e2"))
        await tab.until("events.some(({ type }) => type === 'interrupted')")
        await gateway.send(
            live(1, {**MESSAGE, "generation": "g2"}), live(2, {**TOKENS, "generation": "g2"}), live(3, MESSAGE),
            live(4, TOKENS), live(5, end()),
        )  # fmt: skip
        await tab.ended("s", "g1")
        questions = "[...sessions.s.generations.values()].map(({ message }) => message?.content ?? null)"
        assert await tab.run(questions) == ["?", None]


async def test_what_is_sent_again_is_what_was_asked_and_what_is_no_json_hinders_nothing(browser: Browser) -> None:
    async with ScriptedGateway(obliging, welcome=None) as gateway:
        tab = await client_page(browser, gateway.url)
        await tab.follow("s")
        await tab.run(
            "window.body = { content: '?', metadata: { page: 1 } };"
            "promise('bad', sessions.s.submit({ content: '?', metadata: { page: 1n } }));"
            "promise('good', sessions.s.submit(body));"
            "body.metadata.page = 2"
        )
        assert "BigInt" in (await tab.settled("bad"))["error"]["message"]
        await until(lambda: gateway.connections)
        await gateway.send({"type": "welcome", "heartbeat_s": 60, "limits": {}})
        assert "value" in await tab.settled("good")
        assert [command["metadata"] for command in gateway.named("submit")] == [{"page": 1}]


async def test_degraded_and_restored_are_told(browser: Browser) -> None:
    async with ScriptedGateway(obliging) as gateway:
        tab = await following(browser, gateway)
        for frame in ({"type": "degraded"}, {"type": "degraded", "session": "s"}):
            await gateway.send(frame)
            await tab.until("sessions.s.degraded")
            await gateway.send({**frame, "type": "restored"})
            await tab.until("!sessions.s.degraded")


async def test_a_token_goes_first_and_a_fresh_one_when_it_expires_and_after_a_close_for_it(browser: Browser) -> None:
    welcome = {"type": "welcome", "heartbeat_s": 60, "limits": {}}
    async with ScriptedGateway(
        lambda command: [welcome] if command["type"] == "hello" else obliging(command), welcome=None
    ) as gateway:
        tab = await following(browser, gateway, token="secret")
        assert [command["type"] for command in gateway.commands] == ["hello", "subscribe"]
        assert gateway.commands[0]["token"] == "secret-1"
        await gateway.send({"type": "token_expiring", "expires_in_s": 30})
        await until(lambda: gateway.named("refresh"))
        assert gateway.named("refresh")[0]["token"] == "secret-2"
        await gateway.close(4401)
        await until(lambda: len(gateway.named("subscribe")) == 2)
        assert gateway.named("hello")[1]["token"] == "secret-3"
        assert await tab.run("relay.state") == "open"


async def test_an_answer_goes_on_after_the_end_of_its_token_and_a_second_refusal_is_the_end(browser: Browser) -> None:
    welcome = {"type": "welcome", "heartbeat_s": 60, "limits": {}}
    welcomes = [welcome]

    def answer(command: Frame) -> list[Frame]:
        return welcomes if command["type"] == "hello" else obliging(command)

    def said(hellos: int) -> bool:
        return len(gateway.named("hello")) == hellos

    async with ScriptedGateway(answer, welcome=None) as gateway:
        tab = await following(browser, gateway, token="secret")
        await tab.ask("s", "?")
        await gateway.send(live(1, MESSAGE), live(2, TOKENS))
        await tab.shows("s", "g1", "é")
        await gateway.close(4401, "The token has expired.")
        await until(lambda: len(gateway.named("subscribe")) == 2)
        assert gateway.named("subscribe")[1]["cursor"] == {"epoch": "e1", "seq": 2}
        await gateway.send(live(3, end()))
        ended = await tab.ended("s", "g1")
        assert (ended["text"], ended["unproven"]) == ("é", False)
        welcomes.clear()
        await gateway.close(1012)
        for hellos in (3, 4):
            await until(partial(said, hellos))
            await gateway.close(4501, "Its signature is wrong.")
        await tab.until("relay.state === 'closed'")
        (error,) = await tab.events("relay", "error")
        assert (error["error"]["code"], error["error"]["final"]) == ("unauthenticated", True)
        assert error["error"]["message"] == "Its signature is wrong."
        await tab.run("dispatchEvent(new Event('online'))")
        assert (gateway.accepted, len(gateway.named("hello"))) == (4, 4)


async def test_a_session_that_may_not_be_followed_is_told_and_a_bad_cursor_is_dropped(browser: Browser) -> None:
    def strict(command: Frame) -> list[Frame]:
        refusal = {"type": "error", "id": command["id"], "session": command["session"], "retryable": False}
        if command["session"] == "theirs":
            return [{**refusal, "code": "forbidden", "message": "Not yours."}]
        if "cursor" in command:
            return [{**refusal, "code": "bad_cursor", "message": "No cursor."}]
        return obliging(command)

    async with ScriptedGateway(strict) as gateway:
        tab = await following(browser, gateway)
        await tab.follow("theirs")
        await tab.until("events.some(({ of, type }) => of === 'theirs' && type === 'error')")
        assert (await tab.events("theirs", "error"))[0]["error"]["code"] == "forbidden"
        await gateway.close(1012)
        await until(lambda: len([c for c in gateway.named("subscribe") if c["session"] == "s"]) == 3)
        assert "cursor" not in [c for c in gateway.named("subscribe") if c["session"] == "s"][2]
        await tab.until("!sessions.s.rebuilding")


async def test_closing_is_for_good(browser: Browser) -> None:
    async with ScriptedGateway(lambda command: []) as gateway:
        tab = await client_page(browser, gateway.url)
        await tab.follow("s")
        await tab.submit("s", "asked", content="?")
        await tab.until("relay.state === 'open'")
        await tab.run("relay.close(); dispatchEvent(new Event('online'))")
        assert (await tab.settled("asked"))["error"]["code"] == "closed"
        await until(lambda: not gateway.connections)
        assert gateway.accepted == 1
        assert await tab.run("relay.state") == "closed"
        assert await tab.events("relay", "error") == []
