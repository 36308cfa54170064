"""Whom a connection speaks for while it lasts: newer tokens, expiry, revocation."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

from relay.auth.claims import LEEWAY_S
from relay.auth.identity import Identity
from relay.errors import ClientError
from relay.gateway.caller import EXPIRED, EXPIRING_S, REVOKED, Caller

NOW = 1_800_000_000.0


class Everything:
    """An authentication that knows its tokens by name; and its list of revocations."""

    is_on = True
    features: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.tokens: dict[str, Identity] = {}
        self.revoked: set[str] = set()
        self.watching: dict[object, Any] = {}
        self.revocations = self

    async def of_token(self, token: str | None) -> Identity:
        if token not in self.tokens:
            raise ClientError("unauthenticated", "?")
        return self.tokens[token]

    def checked(self, identity: Identity) -> Identity:
        if identity.sub in self.revoked:
            raise REVOKED
        return identity

    def watch(self, identity: Identity, on_revoked: Any) -> object:
        key = object()
        self.watching[key] = on_revoked
        return key

    def unwatch(self, key: object) -> None:
        del self.watching[key]


class Timers:
    """The loop's timers, run by hand, with a clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = NOW
        self.due: list[tuple[float, Any]] = []
        monkeypatch.setattr(time, "time", lambda: self.now)
        monkeypatch.setattr(asyncio.get_running_loop(), "call_later", self._later)

    def _later(self, after_s: float, call: Any) -> Any:
        entry = (self.now + after_s, call)
        self.due.append(entry)

        return SimpleNamespace(cancel=lambda: self.due.remove(entry) if entry in self.due else None)

    def advance(self, seconds: float) -> None:
        until = self.now + seconds
        while self.due and min(self.due, key=lambda one: one[0])[0] <= until:
            entry = min(self.due, key=lambda one: one[0])
            self.due.remove(entry)
            self.now = entry[0]
            entry[1]()
        self.now = until


def identity(sub: str = "alice", lives_s: float | None = 3600) -> Identity:
    return Identity(sub, frozenset({"read"}), expires_at=None if lives_s is None else NOW + lives_s, issued_at=NOW)


class Made:
    def __init__(self) -> None:
        self.over: list[ClientError] = []
        self.expiring: list[float] = []
        self.everything = Everything()
        self.caller = Caller(self.everything, self.over.append, self.expiring.append)  # type: ignore[arg-type]


@pytest.fixture
async def timers(monkeypatch: pytest.MonkeyPatch) -> Timers:
    return Timers(monkeypatch)


async def test_a_token_that_expires_is_told_once_and_ends_after_the_leeway(timers: Timers) -> None:
    made = Made()
    made.caller.speaks_for(identity())
    timers.advance(3600 - EXPIRING_S - 1)
    assert made.expiring == []
    timers.advance(1)
    assert made.expiring == [EXPIRING_S]
    timers.advance(EXPIRING_S + LEEWAY_S - 1)
    assert (made.over, made.expiring) == ([], [EXPIRING_S])
    assert made.caller.access("read", "s") == (None, "")
    timers.advance(1)
    assert made.over == [EXPIRED]
    with pytest.raises(ClientError, match="hello"):
        made.caller.access("read", "s")
    timers.advance(100_000)
    assert (made.over, timers.due, made.everything.watching) == ([EXPIRED], [], {})


@pytest.mark.parametrize(("lives_s", "told_after_s"), [(100, 40), (60, 30), (5, 2.5), (0.5, 1), (-20, 1)])
async def test_a_short_token_is_told_after_half_its_time(timers: Timers, lives_s: float, told_after_s: float) -> None:
    made = Made()
    made.caller.speaks_for(identity(lives_s=lives_s))
    timers.advance(told_after_s - 0.1)
    assert made.expiring == []
    timers.advance(0.2)
    assert made.expiring == [max(0.0, lives_s - told_after_s)]


async def test_one_that_has_expired_as_well_replaces_nothing(timers: Timers) -> None:
    """The leeway is for who has no other; a cache may give an older token."""
    made = Made()
    made.everything.tokens["older"] = identity(lives_s=-5)
    made.caller.speaks_for(identity())
    with pytest.raises(ClientError) as refused:
        await made.caller.refresh("older")
    assert refused.value.code == "token_expired"
    assert made.caller.identity == identity()


async def test_a_newer_token_that_lasts_less_is_told_of_too(timers: Timers) -> None:
    made = Made()
    made.everything.tokens["short"] = identity(lives_s=100)
    made.caller.speaks_for(identity(lives_s=3600))
    await made.caller.refresh("short")
    timers.advance(41)
    assert made.expiring == [60.0]


async def test_the_same_token_once_more_is_not_told_of_again(timers: Timers) -> None:
    """A client whose tokens come from a cache would get it for ever, and answer each time."""
    made = Made()
    made.everything.tokens["same"] = identity(lives_s=100)
    made.caller.speaks_for(identity(lives_s=100))
    answered = 0
    for _ in range(95):
        timers.advance(1)
        while answered < len(made.expiring):
            answered += 1
            await made.caller.refresh("same")
    assert len(made.expiring) == 1
    timers.advance(100)
    assert made.over == [EXPIRED]


async def test_one_that_was_asleep_ends_when_it_wakes(timers: Timers) -> None:
    """The loop's clock stood still meanwhile: then a timer comes late, by the clock of the tokens."""
    made = Made()
    made.caller.speaks_for(identity(lives_s=86_400))
    (_, check), *others = timers.due
    assert others == []
    timers.now += 90_000
    check()
    assert made.over == [EXPIRED]


async def test_a_newer_token_counts_from_then_on(timers: Timers) -> None:
    made = Made()
    made.everything.tokens["newer"] = identity(lives_s=7200)
    made.caller.speaks_for(identity())
    timers.advance(3590)
    assert (await made.caller.refresh("newer")).expires_at == NOW + 7200
    timers.advance(1000)
    assert (made.over, len(made.everything.watching)) == ([], 1)
    timers.advance(7200)
    assert (made.over, len(made.expiring)) == ([EXPIRED], 2)


@pytest.mark.parametrize(("token", "code"), [("bad", "unauthenticated"), ("bobs", "forbidden")])
async def test_a_token_that_will_not_do_leaves_the_earlier_one(timers: Timers, token: str, code: str) -> None:
    made = Made()
    made.everything.tokens["bobs"] = identity("bob")
    made.caller.speaks_for(identity())
    with pytest.raises(ClientError) as refused:
        await made.caller.refresh(token)
    assert refused.value.code == code
    assert made.caller.identity == identity()
    assert len(made.everything.watching) == 1


async def test_a_revocation_ends_it_at_once(timers: Timers) -> None:
    made = Made()
    made.caller.speaks_for(identity())
    (revoke,) = made.everything.watching.values()
    revoke()
    assert (made.over, made.caller.identity, timers.due) == ([REVOKED], None, [])


async def test_a_revocation_during_a_check_is_not_missed(timers: Timers) -> None:
    """A token is found good; before it counts, its person is revoked; or all is over meanwhile."""
    made = Made()
    made.everything.tokens["newer"] = identity(lives_s=7200)
    made.caller.speaks_for(identity())

    async def meanwhile(token: str | None) -> Identity:
        (revoke,) = made.everything.watching.values()
        revoke()
        return made.everything.tokens[str(token)]

    made.everything.of_token = meanwhile  # type: ignore[method-assign]
    with pytest.raises(ClientError, match="over"):
        await made.caller.refresh("newer")
    assert (made.caller.identity, made.everything.watching) == (None, {})
    made.everything.revoked.add("alice")
    with pytest.raises(ClientError, match="revoked"):
        Caller(made.everything, made.over.append).speaks_for(identity())  # type: ignore[arg-type]


async def test_after_a_close_nothing_is_left(timers: Timers) -> None:
    made = Made()
    made.caller.speaks_for(identity())
    made.caller.close()
    assert (timers.due, made.everything.watching, made.over) == ([], {}, [])


async def test_without_auth_there_is_nothing_to_watch(timers: Timers) -> None:
    made = Made()
    made.everything.is_on = False
    made.caller.speaks_for(identity(lives_s=None))
    assert (timers.due, made.everything.watching) == ([], {})
