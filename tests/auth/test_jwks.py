"""Keys from a URL: fetched once for all who wait, again when that may help, and kept while that server is away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import pytest
import structlog

from relay import metrics
from relay.auth import jwks
from relay.auth.jwks import MAX_AGE_S, PAUSE_S, REFRESH_S, Jwks, UnusableJwks, keys_of
from relay.auth.refusals import TokenRefused
from relay.auth.tokens import TokenRules, TokenVerifier
from relay.errors import ClientError, SettingsError
from tests.auth import signing
from tests.auth.signing import private_key, token


class KeyServer:
    """Serves JWKS on loopback. `asked`: requests so far. While `gate` is cleared, it answers none."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = [signing.jwk("ES256", "a")]
        self.answer: bytes | None = None  # in place of the keys; empty: it hangs up
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.was_asked = asyncio.Event()
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            self.asked += 1
            self.was_asked.set()
            await self.gate.wait()
            writer.write(answer(json.dumps({"keys": self.keys})) if self.answer is None else self.answer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has left
        finally:
            writer.close()


def answer(body: str, status: str = "200 OK", head: str = "") -> bytes:
    length = len(body.encode())
    return f"HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{head}\r\n{body}".encode()


@pytest.fixture
async def server() -> AsyncIterator[KeyServer]:
    keys = KeyServer()
    listening = await asyncio.start_server(keys.serve, "127.0.0.1", 0)
    async with listening:
        keys.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/keys"
        yield keys
        keys.gate.set()


@pytest.fixture
def clock() -> signing.Clock:
    return signing.Clock(1000.0)


@asynccontextmanager
async def keys_from(server: KeyServer, clock: signing.Clock) -> AsyncIterator[Jwks]:
    keys = Jwks(server.url, clock=clock)
    try:
        yield keys
    finally:
        await keys.aclose()


def verifier(keys: Jwks) -> TokenVerifier:
    return TokenVerifier(keys, TokenRules(), now=signing.Clock())


@cache
def signed(kid: str | None = "a", which: int = 0, algorithm: str = "ES256") -> str:
    """The same token again each time, for caches' sake: a signature of ES256 is never the same."""
    return token(private_key(algorithm, which), algorithm, None if kid is None else {"kid": kid})


async def reason(verifying: TokenVerifier, given: str) -> str:
    with pytest.raises(TokenRefused) as raised:
        await verifying.verify(given)
    return raised.value.reason


async def unavailable(verifying: TokenVerifier, given: str) -> ClientError:
    with pytest.raises(ClientError) as raised:
        await verifying.verify(given)
    assert (raised.value.code, raised.value.retryable) == ("unavailable", True)
    return raised.value


async def until_fetched(keys: Jwks) -> None:
    if keys._fetching is not None:
        await asyncio.wait({keys._fetching})


async def test_who_come_together_share_the_first_fetch(server: KeyServer, clock: signing.Clock) -> None:
    async with keys_from(server, clock) as keys:
        verifying = verifier(keys)
        found = await asyncio.gather(*(verifying.verify(signed()) for _ in range(20)))
        assert {identity.sub for identity in found} == {"ada"}
        assert server.asked == 1
        await verifying.verify(signed())
        assert server.asked == 1


async def test_a_caller_that_leaves_cancels_nothing(server: KeyServer, clock: signing.Clock) -> None:
    server.gate.clear()
    async with keys_from(server, clock) as keys:
        verifying = verifier(keys)
        leaving, staying = (asyncio.create_task(verifying.verify(signed())) for _ in range(2))
        await server.was_asked.wait()
        leaving.cancel()
        await asyncio.wait({leaving})
        assert leaving.cancelled()
        server.gate.set()
        assert (await staying).sub == "ada"
        assert server.asked == 1


async def test_whoever_waits_while_all_is_closed_is_told(server: KeyServer, clock: signing.Clock) -> None:
    server.gate.clear()
    async with keys_from(server, clock) as keys:
        waiting = asyncio.create_task(unavailable(verifier(keys), signed()))
        await server.was_asked.wait()
        await keys.aclose()
        await waiting
        await unavailable(verifier(keys), signed())
    assert server.asked == 1


async def test_a_new_key_is_fetched_when_its_first_token_comes(server: KeyServer, clock: signing.Clock) -> None:
    async with keys_from(server, clock) as keys:
        verifying = verifier(keys)
        await verifying.verify(signed("a"))
        server.keys.append(signing.jwk("ES256", "b", 1))
        clock.now += PAUSE_S
        both = await asyncio.gather(*(verifying.verify(signed("b", 1)) for _ in range(5)))
        assert (len(both), server.asked) == (5, 2)
        await verifying.verify(signed("a"))


async def test_made_up_kids_make_us_ask_once_a_minute(server: KeyServer, clock: signing.Clock) -> None:
    async with keys_from(server, clock) as keys:
        verifying = verifier(keys)
        for second in range(120):
            assert await reason(verifying, signed(f"made-up-{second}")) == "unknown_key"
            clock.now += 1
        assert server.asked == 2
        await asyncio.gather(*(reason(verifying, signed(f"more-{number}")) for number in range(100)))
        assert server.asked == 3


async def test_what_cannot_be_signed_by_these_keys_makes_us_ask_nothing(
    server: KeyServer, clock: signing.Clock
) -> None:
    async with keys_from(server, clock) as keys:
        verifying = verifier(keys)
        await verifying.verify(signed())
        clock.now += PAUSE_S
        for given in (token(headers={"kid": "b"}), signing.forged({"alg": "none", "kid": "b"}, {})):
            assert await reason(verifying, given) == "wrong_algorithm"
        assert server.asked == 1


async def test_a_key_that_is_taken_away_stops_counting(server: KeyServer, clock: signing.Clock) -> None:
    """Also for tokens that were verified with it, and also if nobody came in the meantime."""
    async with keys_from(server, clock) as keys:
        verifying = verifier(keys)
        await verifying.verify(signed("a"))
        server.keys = [signing.jwk("ES256", "b", 1)]
        clock.now += REFRESH_S
        await verifying.verify(signed("a"))  # which begins a fetch, and does not wait for it
        await until_fetched(keys)
        assert await reason(verifying, signed("a")) == "unknown_key"
        await verifying.verify(signed("b", 1))
        server.keys = []
        clock.now += MAX_AGE_S
        with structlog.testing.capture_logs() as lines:
            assert await reason(verifying, signed("b", 1)) == "unknown_key"
        assert ("jwks_empty", "warning") in {(line["event"], line["log_level"]) for line in lines}


async def test_a_kid_that_is_given_to_another_key_means_that_one(server: KeyServer, clock: signing.Clock) -> None:
    async with keys_from(server, clock) as keys:
        verifying = verifier(keys)
        await verifying.verify(signed("a"))
        server.keys = [signing.jwk("ES256", "a", 1)]
        clock.now += MAX_AGE_S
        assert await reason(verifying, signed("a")) == "bad_signature"
        await verifying.verify(signed("a", 1))


async def test_a_fetch_that_brings_the_same_keys_leaves_the_cache_alone(
    server: KeyServer, clock: signing.Clock
) -> None:
    async with keys_from(server, clock) as keys:
        await verifier(keys).verify(signed())
        version = keys.version
        clock.now += MAX_AGE_S
        await verifier(keys).verify(signed())
        assert (server.asked, keys.version) == (2, version)


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        answer("", "503 Service Unavailable"),
        answer("", "302 Found", "Location: /keys\r\n"),
        answer("<html>"),
        answer("[]"),
        answer('{"keys": {}}'),
        answer(json.dumps({"keys": [{}] * 101})),
        answer(json.dumps({"keys": [], "x": "x" * jwks.MAX_BODY_BYTES})),
        b"nonsense\r\n\r\n",
    ],
)
async def test_keys_are_kept_while_their_server_is_away(server: KeyServer, clock: signing.Clock, bad: bytes) -> None:
    failed = metrics.key_fetches.labels("failed")
    async with keys_from(server, clock) as keys:
        verifying = verifier(keys)
        await verifying.verify(signed())
        server.answer = bad
        before = failed._value.get()
        clock.now += MAX_AGE_S
        with structlog.testing.capture_logs() as lines:
            await verifying.verify(signed())
            clock.now += 5
            await verifying.verify(signed())
        assert (server.asked, failed._value.get()) == (2, before + 1)
        [line] = [line for line in lines if line["event"] == "jwks_unavailable"]
        assert (line["host"], line["keys_kept"], line["log_level"]) == ("127.0.0.1", 1, "warning")
        assert (await unavailable(verifying, signed("b", 1))).retry_after_s == 55, "it may be a new key's"
        clock.now += MAX_AGE_S
        await verifying.verify(signed())  # nobody waits for a server that was away the last time
        await until_fetched(keys)
        assert server.asked == 3
        server.answer = None
        clock.now += PAUSE_S
        await verifying.verify(signed())
        await until_fetched(keys)
        assert await reason(verifying, signed("b", 1)) == "unknown_key"


async def test_nobody_is_called_unknown_before_there_are_keys(server: KeyServer, clock: signing.Clock) -> None:
    server.answer = answer("", "500 Oh")
    async with keys_from(server, clock) as keys:
        verifying = verifier(keys)
        refused = await unavailable(verifying, signed())
        assert refused.retry_after_s == 5
        clock.now += 2
        assert (await unavailable(verifying, signed())).retry_after_s == 3
        assert server.asked == 1
        server.answer = None
        clock.now += 3
        await verifying.verify(signed())
        assert server.asked == 2


async def test_a_server_that_says_nothing_is_away(
    server: KeyServer, clock: signing.Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "FETCH_TIMEOUT_S", 0.05)
    server.gate.clear()
    async with keys_from(server, clock) as keys:
        with structlog.testing.capture_logs() as lines:
            await unavailable(verifier(keys), signed())
        assert [line["detail"] for line in lines] == ["no answer within 0.05 s"]


async def test_a_bug_costs_no_caller_its_answer(
    server: KeyServer, clock: signing.Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    bugs = metrics.bugs.labels("jwks")
    before = bugs._value.get()
    async with keys_from(server, clock) as keys:
        monkeypatch.setattr(jwks, "keys_of", lambda body: 1 / 0)
        with structlog.testing.capture_logs() as lines:
            await unavailable(verifier(keys), signed())
    assert (bugs._value.get(), lines[0]["log_level"]) == (before + 1, "error")


# What is in a JWKS


def read(*given: Any) -> list[tuple[str | None, str]]:
    return list(keys_of(json.dumps({"keys": given}).encode()))


def test_keys_of_all_three_kinds_are_read() -> None:
    given = [signing.jwk(algorithm, algorithm[0]) for algorithm in ("RS256", "ES256", "EdDSA")]
    assert read(*given, signing.jwk("ES256", "x", alg="ES256", use="sig", key_ops=["verify"])) == [
        ("R", "RS256"), ("E", "ES256"), ("E", "EdDSA"), ("x", "ES256"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "odd",
    [
        signing.jwk("RS256", "b", use="enc"),
        signing.jwk("RS256", "b", alg="RSA-OAEP"),
        signing.jwk("RS256", "b", alg="HS256"),
        signing.jwk("RS256", "b", alg="RS512"),
        signing.jwk("RS256", "b", alg=["RS256"]),
        signing.jwk("RS256", "b", key_ops=["encrypt"]),
        signing.jwk("RS256", "b", d="AQAB"),
        {**signing.jwk("RS256", "b"), "n": "AQAB"},
        {**signing.jwk("RS256", "b"), "n": 7},
        {**signing.jwk("RS256", "b"), "n": None},
        {**signing.jwk("ES256", "b"), "crv": "P-384"},
        {**signing.jwk("ES256", "b"), "x": 7},
        {**signing.jwk("ES256", "b"), "crv": []},
        {**signing.jwk("EdDSA", "b"), "crv": "X25519"},
        {**signing.jwk("EdDSA", "b"), "crv": "Ed448"},
        {**signing.jwk("EdDSA", "b"), "x": "AA"},
        {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA", "kid": "b", "alg": "HS256"},
        {"kty": ["RSA"], "kid": "b"},
        {**signing.jwk("ES256"), "kid": 7},
        {"kid": "b"},
        "b",
        None,
    ],
)
def test_a_key_that_is_of_no_use_does_not_keep_us_from_the_others(odd: Any) -> None:
    assert read(odd, signing.jwk("ES256", "a")) == [("a", "ES256")]


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
@pytest.mark.parametrize("value", [None, True, 7, -1, "", "AA", "é", "!", "x" * 2000, [], [[]], {}, {"a": 1}])
def test_whatever_stands_in_a_member_the_other_keys_are_read(algorithm: str, value: Any) -> None:
    good = signing.jwk(algorithm, "b", alg=algorithm, use="sig", key_ops=["verify"])
    for member in (*good, "d", "x5c"):
        assert ("a", "ES256") in read({**good, member: value}, signing.jwk("ES256", "a"))


def test_of_two_keys_with_one_kid_the_first_counts() -> None:
    keys = keys_of(json.dumps({"keys": [signing.jwk("ES256", "a"), signing.jwk("ES256", "a", 1)]}).encode())
    assert [key.key for key in keys.values()] == [private_key("ES256").public_key()]


@pytest.mark.parametrize("body", [b"", b"\xff", b"[" * 100_000, b"7", b'{"keys": null}'])
def test_what_is_no_jwks_is_refused(body: bytes) -> None:
    with pytest.raises(UnusableJwks):
        keys_of(body)


async def test_a_token_without_kid_needs_a_server_with_one_key(server: KeyServer, clock: signing.Clock) -> None:
    server.keys = [signing.jwk("ES256"), {"kty": "oct", "k": "AA"}]
    async with keys_from(server, clock) as keys:
        verifying = verifier(keys)
        await verifying.verify(signed(None))
        assert await reason(verifying, signed("a")) == "unknown_key"
        server.keys = [signing.jwk("ES256", "a"), signing.jwk("ES256", "b", 1)]
        clock.now += MAX_AGE_S
        assert await reason(verifying, signed(None)) == "unknown_key"
        await verifying.verify(signed("a"))


@pytest.mark.parametrize(
    "url",
    [
        "http://id.example.com/keys",
        "ftp://127.0.0.1/keys",
        "https://",
        "https:/keys",
        "id.example.com/keys",
        "file:///etc/keys",
        "https://ada:password@id.example.com/keys",
        "x",
    ],
)
def test_a_url_that_keys_must_not_come_from_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match=r"^RELAY_AUTH_JWKS_URL ") as raised:
        Jwks(url)
    assert "password@" not in str(raised.value)


@pytest.mark.parametrize("url", ["https://id.example.com/keys", "http://localhost:1/", "http://[::1]/keys?a=b"])
def test_a_url_that_keys_may_come_from(url: str) -> None:
    Jwks(url)
