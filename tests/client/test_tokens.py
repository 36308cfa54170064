"""The token of a connection: presented, renewed, refused; how often its function is asked, and what nobody loses."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from typing import Any

import msgspec
import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from relay.client import Disconnected, End, Relay, RequestRefused, Text, TokenRefused, connect
from relay.client.constants import SHARED
from tests.client.scripted import TIMEOUT_S, Peer, Scripted
from tests.protocol.logs import Story, message
from tests.scenarios.processes import until

SECRET = "eyJ-the-secret-token"


class Tokens:
    """A token function that counts; `given`: what it gives, one after the other, the last one again and again."""

    def __init__(self, *given: str | Exception | None) -> None:
        self._given = list(given)
        self.asked = 0

    def __call__(self) -> str | None:
        self.asked += 1
        given = self._given.pop(0) if len(self._given) > 1 else self._given[0]
        if isinstance(given, Exception):
            raise given
        return given


def later(tokens: Tokens) -> Callable[[], Awaitable[str | None]]:
    async def token() -> str | None:
        await asyncio.sleep(0)
        return tokens()

    return token


@contextlib.asynccontextmanager
async def connected(gateway: Scripted, token: Any) -> AsyncIterator[tuple[Relay, Peer]]:
    async with asyncio.TaskGroup() as group:
        greeting = group.create_task(gateway.greeted())
        async with connect(gateway.url, token=token) as relay:
            yield relay, await greeting


def at_once(monkeypatch: pytest.MonkeyPatch, **shared: float) -> None:
    """Other numbers for what the client waits."""
    for module in ("transport", "tokens", "backoff"):
        monkeypatch.setattr(f"relay.client.{module}.SHARED", msgspec.structs.replace(SHARED, **shared))


@pytest.mark.parametrize("kind", ["a function", "a coroutine function"])
async def test_a_function_is_asked_for_each_connection_and_when_its_token_expires(gateway: Scripted, kind: str) -> None:
    tokens = Tokens("first", "second", "third")
    async with connected(gateway, tokens if kind == "a function" else later(tokens)) as (_, peer):
        assert peer.authorization == "Bearer first"
        await peer.send(type="token_expiring", expires_in_s=60)
        command = await peer.command("refresh")
        assert command["token"] == "second"
        await peer.send(type="refreshed", id=command["id"], expires_at=2e9)
        peer.cut()
        assert (await gateway.greeted()).authorization == "Bearer third"
    assert tokens.asked == 3


async def test_where_the_header_is_taken_by_the_address_the_token_is_said_first(gateway: Scripted) -> None:
    async def greet() -> Peer:
        peer = await gateway.peer()
        assert (await peer.command("hello"))["token"] == "first"
        return await peer.welcome()

    async with asyncio.TaskGroup() as group:
        greeting = group.create_task(greet())
        async with connect(gateway.url.replace("//", "//ann:pass@"), token="first"):
            authorization = (await greeting).authorization
            assert authorization is not None
            assert authorization.startswith("Basic ")


async def test_without_a_token_nothing_is_said(gateway: Scripted) -> None:
    async with connected(gateway, lambda: None) as (relay, peer):
        assert peer.authorization is None
        stopping = asyncio.create_task(relay.stop("s", "g"))
        await peer.command("stop")
        stopping.cancel()


@pytest.mark.parametrize("refreshed", [True, False])
async def test_an_answer_goes_on_over_a_refresh_and_over_the_end_of_its_token(
    gateway: Scripted, refreshed: bool
) -> None:
    tokens = Tokens("first", "second", "third")
    story = Story("g1")
    async with connected(gateway, later(tokens)) as (relay, peer):
        asking = asyncio.create_task(relay.submit("s", "q"))
        await peer.subscribed()
        await peer.accepted("g1")
        await peer.live(1, message("g1"))
        await peer.live(2, story.tokens(["Hé"]))
        answer = await asking
        await peer.send(type="token_expiring", expires_in_s=60)
        command = await peer.command("refresh")
        reply: dict[str, Any] = {"type": "refreshed", "expires_at": 2e9}
        if not refreshed:
            reply = {"type": "error", "code": "forbidden", "message": "Another person's.", "retryable": False}
        await peer.send(id=command["id"], **reply)
        await peer.live(3, story.tokens(["ll"]))
        if not refreshed:
            await until(lambda: answer.text == "Héll", "the connection is kept")
            await peer.close(4401, "The token has expired.")
            peer = await gateway.greeted()
            assert peer.authorization == "Bearer third"
            assert (await peer.subscribed())["cursor"] == {"epoch": "e1", "seq": 3}
        await peer.live(4, story.tokens(["o"]))
        await peer.live(5, story.end())
        items = [item async for item in answer]
        assert "".join(item.text for item in items if isinstance(item, Text)) == "Héllo"
        assert isinstance(items[-1], End)
    assert tokens.asked == (2 if refreshed else 3)
    assert gateway.waiting == 0


@pytest.mark.parametrize("code", [4401, 4501])
async def test_a_refused_token_is_replaced_once_and_what_waits_goes_out_then(gateway: Scripted, code: int) -> None:
    tokens = Tokens("old", "new")
    async with connected(gateway, Tokens("older", "old")) as (relay, peer):
        stopping = asyncio.create_task(relay.stop("s", "g"))
        await peer.command("stop")
        await peer.close(4401)
        peer = await gateway.greeted()
        assert (await peer.command("stop"))["generation"] == "g"
        stopping.cancel()
    async with asyncio.TaskGroup() as group:

        async def refuse_the_first() -> Peer:
            await (await gateway.peer()).close(code, "No.")
            return await gateway.greeted()

        refusing = group.create_task(refuse_the_first())
        async with connect(gateway.url, token=tokens):
            assert (await refusing).authorization == "Bearer new"
    assert tokens.asked == 2


@pytest.mark.parametrize("code", [4401, 4501])
async def test_a_second_token_that_is_refused_is_the_end(gateway: Scripted, code: int) -> None:
    tokens = Tokens("old", "new", "never asked for")

    async def refuse() -> None:
        for token in ("old", "new"):
            peer = await gateway.peer()
            assert peer.authorization == f"Bearer {token}"
            await peer.close(code, "Its signature is wrong.")

    async with asyncio.TaskGroup() as group:
        group.create_task(refuse())
        with pytest.raises(TokenRefused, match="refused the token: Its signature is wrong") as raised:
            async with asyncio.timeout(TIMEOUT_S), connect(gateway.url, token=tokens):
                pass
    assert raised.value.close_code == code
    assert (tokens.asked, gateway.waiting) == (2, 0)


@pytest.mark.parametrize("token", [SECRET, None])
@pytest.mark.parametrize("code", [4401, 4501])
async def test_a_string_that_is_refused_is_the_end_at_once(gateway: Scripted, code: int, token: str | None) -> None:
    async def refuse() -> None:
        await (await gateway.peer()).close(code, "No.")

    async with asyncio.TaskGroup() as group:
        group.create_task(refuse())
        with pytest.raises(TokenRefused, match="wants a token" if token is None else "refused the token") as raised:
            async with connect(gateway.url, token=token):
                pass
    assert (raised.value.close_code, gateway.waiting) == (code, 0)
    assert SECRET not in str(raised.value)


async def test_a_string_that_expires_ends_everything_that_waits(gateway: Scripted) -> None:
    async with connected(gateway, SECRET) as (relay, peer):
        stopping = asyncio.create_task(relay.stop("s", "g"))
        await peer.command("stop")
        await peer.send(type="token_expiring", expires_in_s=60)
        await peer.close(4401)
        with pytest.raises(TokenRefused, match="4401"):
            await stopping
    assert gateway.waiting == 0


async def test_a_person_who_was_revoked_does_not_come_back(gateway: Scripted) -> None:
    tokens = Tokens("first", "second")
    async with connected(gateway, tokens) as (relay, peer):
        stopping = asyncio.create_task(relay.stop("s", "g"))
        await peer.command("stop")
        await peer.close(4503, "Revoked.")
        with pytest.raises(TokenRefused, match="Revoked"):
            await stopping
    assert (tokens.asked, gateway.waiting) == (1, 0)


@pytest.mark.usefixtures("longest_waits")
async def test_tokens_that_are_welcomed_and_at_once_refused_are_not_asked_for_in_a_loop(
    gateway: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once(monkeypatch, stable_after_s=1000)
    tokens = Tokens("first", "second", "third")
    async with connected(gateway, tokens) as (relay, peer):
        await peer.close(4401)
        await (await gateway.greeted()).close(4401)
        with pytest.raises(TokenRefused):
            async with asyncio.timeout(TIMEOUT_S):
                await relay.stop("s", "g")
    assert (tokens.asked, gateway.waiting) == (2, 0)


@pytest.mark.usefixtures("longest_waits")
async def test_short_connections_that_brought_something_are_made_again_ever_more_slowly(
    gateway: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once(monkeypatch, stable_after_s=1000)
    story = Story("g1")
    async with connected(gateway, Tokens("first", "second", "third", "fourth")) as (relay, peer):
        async with asyncio.TaskGroup() as group:
            following = relay.follow("s")
            entering = group.create_task(following.__aenter__())
            await peer.subscribed()
            await entering
        at = [peer.at]
        for seq in range(1, 4):
            await peer.live(seq, message("g1") if seq == 1 else story.tokens(["a"]))
            await peer.close(4401)
            peer = await gateway.greeted()
            at.append(peer.at)
            assert (await peer.subscribed())["cursor"]["seq"] == seq
        await following.__aexit__()
    assert all(later - earlier >= bound for earlier, later, bound in zip(at, at[1:], [0.5, 1, 2], strict=False))


async def test_a_lasting_connection_between_two_refusals_makes_them_two_first_ones(
    gateway: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once(monkeypatch, stable_after_s=0)
    tokens = Tokens("1", "2", "3", "4")
    async with connected(gateway, tokens) as (_, peer):
        for _ in range(3):
            await peer.close(4401)
            peer = await gateway.greeted()
    assert tokens.asked == 4


def unauthorized(asked: list[str | None], refuses: int) -> Callable[[ServerConnection, Request], Response | None]:
    def answer(connection: ServerConnection, request: Request) -> Response | None:
        asked.append(request.headers.get("Authorization"))
        return connection.respond(HTTPStatus.UNAUTHORIZED, "no\n") if len(asked) <= refuses else None

    return answer


async def welcome(websocket: ServerConnection) -> None:
    await Peer(websocket).welcome()
    await websocket.wait_closed()


@pytest.mark.parametrize(("token", "refuses"), [(Tokens("a", "b", "c"), 1), (Tokens("a", "b", "c"), 9), (SECRET, 9)])
async def test_a_proxy_that_wants_another_token_is_offered_one_more(token: Any, refuses: int) -> None:
    asked: list[str | None] = []
    async with serve(welcome, "127.0.0.1", 0, process_request=unauthorized(asked, refuses)) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(TokenRefused, match="HTTP 401") if refuses > 1 else contextlib.nullcontext():
            async with connect(url, token=token) as relay:
                assert relay.connected
    assert asked == ["Bearer a", "Bearer b"] if isinstance(token, Tokens) else [f"Bearer {SECRET}"]


@pytest.mark.usefixtures("longest_waits")
async def test_a_function_that_keeps_raising_before_the_first_connection_is_told(
    gateway: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once(monkeypatch, backoff_first_s=0.01)
    tokens = Tokens(ValueError(SECRET))
    with pytest.raises(Disconnected, match="the token function failed: ValueError") as raised:
        async with connect(gateway.url, token=tokens):
            pass
    assert isinstance(raised.value.__cause__, ValueError)
    assert SECRET not in str(raised.value)
    assert (tokens.asked, gateway.waiting) == (3, 0)


async def test_a_function_that_never_answers_is_one_that_fails(
    gateway: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once(monkeypatch, backoff_first_s=0.01, welcome_within_s=0.01)

    async def never() -> str:
        return await asyncio.Event().wait() and ""

    with pytest.raises(Disconnected, match="the token function failed: TimeoutError"):
        async with connect(gateway.url, token=never):
            pass


async def test_a_function_whose_own_work_is_cancelled_has_failed(
    gateway: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once(monkeypatch, backoff_first_s=0.01)

    async def cancelled() -> str:
        raise asyncio.CancelledError

    with pytest.raises(Disconnected, match="the token function failed: CancelledError"):
        async with connect(gateway.url, token=cancelled):
            pass


async def test_a_function_that_fails_later_is_asked_until_it_does_not(
    gateway: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once(monkeypatch, backoff_first_s=0.01)
    tokens = Tokens("first", *[OSError("away")] * 5, "second")
    async with connected(gateway, tokens) as (relay, peer):
        stopping = asyncio.create_task(relay.stop("s", "g"))
        peer.cut()
        peer = await gateway.greeted()
        assert peer.authorization == "Bearer second"
        await peer.command("stop")
        stopping.cancel()
    assert tokens.asked == 7


async def test_a_function_that_fails_for_too_long_is_named_as_the_cause(
    gateway: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once(monkeypatch, backoff_first_s=0.01, backoff_most_s=0.05)
    away = OSError("away")
    async with connected(gateway, Tokens("first", away)) as (relay, peer):
        relay.give_up_after_s = 0.5
        peer.cut()
        with pytest.raises(Disconnected) as raised:
            await relay.stop("s", "g")
    assert raised.value.__cause__ is away


@pytest.mark.parametrize("old", [None, "first", ValueError("not now")])
async def test_a_function_without_news_is_asked_again_before_the_end(
    gateway: Scripted, monkeypatch: pytest.MonkeyPatch, old: str | Exception | None
) -> None:
    at_once(monkeypatch, refresh_pause_s=0.001)
    monkeypatch.setattr("relay.client.tokens._now", lambda: 0.0)
    tokens = Tokens("first", old, old, "second")
    async with connected(gateway, tokens) as (_, peer):
        await peer.send(type="token_expiring", expires_in_s=0.02)
        assert (await peer.command("refresh"))["token"] == "second"
    assert tokens.asked == 4


async def test_a_function_that_only_has_the_old_token_is_asked_a_few_times(
    gateway: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once(monkeypatch, refresh_pause_s=0.01)
    tokens = Tokens("first")
    async with connected(gateway, tokens) as (_, peer):
        await peer.send(type="token_expiring", expires_in_s=0.1)
        await peer.silent(0.3)
    assert 2 <= tokens.asked <= 6  # 0.1 s can be halved four times until less than 0.01 s is left


async def test_refreshes_do_not_chase_a_gateway_that_never_has_enough(
    gateway: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once(monkeypatch, refresh_pause_s=30)
    tokens = Tokens(*(f"token-{number}" for number in range(50)))
    async with connected(gateway, tokens) as (_, peer):
        for _ in range(20):
            await peer.send(type="token_expiring", expires_in_s=1)
        await peer.command("refresh")
        for _ in range(20):
            await peer.send(type="token_expiring", expires_in_s=1)
        await peer.silent(0.2)
    assert tokens.asked == 2


async def test_a_refresh_that_the_gateway_cannot_judge_just_now_is_sent_again(
    gateway: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once(monkeypatch, refresh_pause_s=0.05)
    async with connected(gateway, Tokens("first", "second")) as (_, peer):
        await peer.send(type="token_expiring", expires_in_s=30)
        for _ in range(3):
            assert (await peer.command("refresh"))["token"] == "second"
            await peer.send(type="error", id="refresh", code="unavailable", message="Not now.", retryable=True)
        assert (await peer.command("refresh"))["token"] == "second"
        await peer.send(type="refreshed", id="refresh", expires_at=1)
        await peer.silent(0.2)


async def test_a_token_that_goes_as_hello_follows_no_redirect(gateway: Scripted) -> None:
    async def elsewhere(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        location = gateway.url.replace("http", "ws").replace("127.0.0.1", "localhost")
        writer.write(f"HTTP/1.1 302 Found\r\nLocation: {location}/v1/ws\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(elsewhere, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(Disconnected, match="302") as raised:
            async with connect(f"http://ann:password@127.0.0.1:{port}", token=SECRET, give_up_after_s=TIMEOUT_S):
                pass
    assert gateway.waiting == 0
    assert "password" not in str(raised.value)


@pytest.mark.parametrize("code", ["unauthenticated", "token_expired", "forbidden"])
async def test_a_command_that_its_token_does_not_allow_is_refused_with_the_code(gateway: Scripted, code: str) -> None:
    async with connected(gateway, SECRET) as (relay, peer):
        stopping = asyncio.create_task(relay.stop("s", "g"))
        command = await peer.command("stop")
        await peer.send(type="error", id=command["id"], session="s", code=code, message="No.", retryable=False)
        with pytest.raises(RequestRefused) as raised:
            await stopping
        assert (raised.value.code, relay.connected) == (code, True)


@pytest.mark.parametrize("code", ["unauthenticated", "token_expired"])
async def test_a_session_that_another_token_may_follow_waits_for_the_next_connection(
    gateway: Scripted, code: str
) -> None:
    story = Story("g1")
    async with connected(gateway, Tokens("first", "second")) as (relay, peer), contextlib.AsyncExitStack() as stack:
        entering = asyncio.create_task(relay.follow("s").__aenter__())
        await peer.subscribed()
        following = await entering
        stack.push_async_exit(following.__aexit__)
        await peer.live(1, message("g1"))
        await peer.live(3, story.tokens(["after a gap"]))
        command = await peer.command("subscribe")
        await peer.send(type="error", id=command["id"], session="s", code=code, message="No.", retryable=False)
        await until(lambda: following.state == "refused", "the refusal is told")
        await peer.silent(0.1)
        await peer.close(4401)
        peer = await gateway.greeted()
        assert (await peer.subscribed())["cursor"]["seq"] == 1
        await until(lambda: following.state == "following", "it goes on")


async def test_a_session_that_may_not_be_followed_is_not_asked_for_again(gateway: Scripted) -> None:
    async with connected(gateway, SECRET) as (relay, peer):
        entering = asyncio.create_task(relay.follow("theirs").__aenter__())
        command = await peer.command("subscribe")
        refusal = {"code": "forbidden", "message": "That session belongs to somebody else.", "retryable": False}
        await peer.send(type="error", id=command["id"], session="theirs", **refusal)
        with pytest.raises(RequestRefused, match="forbidden"):
            await entering
        peer.cut()
        await (await gateway.greeted()).silent(0.2)


@pytest.mark.parametrize("bad", ["two words", "line\nHost: evil", "Bearer x", "é", b"bytes", 7])
async def test_what_can_be_no_token_is_told_before_anything_is_sent(gateway: Scripted, bad: Any) -> None:
    for token in (bad, lambda: bad) if isinstance(bad, str) else (lambda: bad,):
        with pytest.raises(TokenRefused, match="the token is none") as raised:
            async with connect(gateway.url, token=token):
                pass
        assert str(bad) not in str(raised.value)
    assert gateway.waiting == 0


async def test_no_library_logs_a_token(gateway: Scripted, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for url in (gateway.url, gateway.url.replace("//", "//ann:pass@")):
        async with asyncio.TaskGroup() as group:
            greeting = group.create_task(gateway.greeted())
            async with connect(url, token=Tokens(SECRET, f"{SECRET}-2")) as relay:
                peer = await greeting
                if "@" in url:
                    await peer.command("hello")
                await peer.send(type="token_expiring", expires_in_s=60)
                await peer.command("refresh")
                assert relay.connected
    ours = [record for record in caplog.records if record.name != "websockets.server"]
    assert [record.getMessage() for record in ours if SECRET in record.getMessage()] == []


async def test_leaving_while_the_function_is_asked_leaves_nothing(gateway: Scripted) -> None:
    begun = asyncio.Event()
    tokens = iter(["first"])

    async def token() -> str:
        given = next(tokens, None)
        if given is None:
            begun.set()
            await asyncio.Event().wait()
        return given or ""

    async with asyncio.timeout(TIMEOUT_S), connected(gateway, token) as (_, peer):
        await peer.send(type="token_expiring", expires_in_s=60)
        await begun.wait()


async def test_a_gateway_that_says_nothing_is_greeted_by_who_has_no_token(
    gateway: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for a `hello`, and says what it wants only to that."""
    at_once(monkeypatch, ask_after_s=0.05)

    async def refusing() -> None:
        peer = await gateway.peer()
        assert await peer.command("hello") == {"type": "hello", "id": "hello"}
        await peer.close(4501, "There is no token in this.")

    async with asyncio.TaskGroup() as group:
        group.create_task(refusing())
        with pytest.raises(TokenRefused, match="wants a token"):
            async with connect(gateway.url):
                pass
    assert gateway.waiting == 0
