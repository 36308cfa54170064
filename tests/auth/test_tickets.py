"""Tickets: read only, one session, short-lived, and never taken for a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jwt
import pytest
import structlog

from relay import metrics
from relay.auth.identity import DEFAULT_SCOPES, Access, Identity
from relay.auth.refusals import TokenRefused
from relay.auth.signing_keys import secret_keys, secrets_of
from relay.auth.tickets import MAX_TICKET_S, TicketKeys, Tickets, derived_keys
from relay.auth.tokens import TokenRules, TokenVerifier
from relay.errors import ClientError
from tests.auth.signing import NOW, OTHER_SECRET, SECRET, Clock, token

ADA = Identity("ada", DEFAULT_SCOPES, ("*",), owns=True, makes=True, expires_at=NOW + 3600, issued_at=NOW - 60)


def keys(*secrets: str) -> TicketKeys:
    return derived_keys(secrets_of(",".join(secrets or (SECRET,))))


def tickets(source: TicketKeys | None = None, clock: Clock | None = None) -> Tickets:
    return Tickets(source or keys(), now=clock or Clock())


async def refusal(tickets: Tickets, ticket: str) -> TokenRefused:
    with pytest.raises(TokenRefused) as raised:
        await tickets.read(ticket)
    return raised.value


async def test_a_ticket_reads_one_session_as_its_token_would() -> None:
    minted = await tickets().mint(ADA, "s")
    assert minted.expires_at == NOW + MAX_TICKET_S
    identity = await tickets().read(minted.ticket)
    assert identity == Identity(
        "ada", frozenset({"read"}), ("s",), owns=True, makes=True, expires_at=NOW + 900, issued_at=NOW - 60
    )
    assert identity.access("read", "s") == Access("ada", "ada") == ADA.access("read", "s")


@pytest.mark.parametrize(("action", "session"), [("submit", "s"), ("stop", "s"), ("delete", "s"), ("read", "s2")])
async def test_a_ticket_allows_nothing_else(action: Any, session: str) -> None:
    identity = await tickets().read((await tickets().mint(ADA, "s")).ticket)
    with pytest.raises(ClientError) as raised:
        identity.access(action, session)
    assert raised.value.code == "forbidden"


async def test_a_ticket_of_a_token_with_sessions_asks_for_no_owner() -> None:
    identity = ADA._replace(sessions=("team:*",), owns=False, makes=False, issued_at=0.0)
    read = await tickets().read((await tickets().mint(identity, "team:1")).ticket)
    assert (read.owns, read.makes, read.issued_at) == (False, False, 0.0)


@pytest.mark.parametrize("identity", [ADA._replace(scopes=frozenset({"submit"})), ADA._replace(sessions=("t",))])
async def test_who_may_not_read_the_session_gets_no_ticket(identity: Identity) -> None:
    with pytest.raises(ClientError) as raised:
        await tickets().mint(identity, "s")
    assert raised.value.code == "forbidden"


async def test_a_ticket_lives_no_longer_than_its_token_nor_a_quarter_of_an_hour() -> None:
    clock = Clock()
    minting = tickets(clock=clock)
    short = await minting.mint(ADA._replace(expires_at=NOW + 5.5), "s")
    long = await minting.mint(ADA._replace(expires_at=None), "s")
    assert (short.expires_at, long.expires_at) == (NOW + 5.5, NOW + 900)
    clock.now = NOW + 5
    await minting.read(short.ticket)
    clock.now = NOW + 5.5
    refused = await refusal(minting, short.ticket)
    assert (refused.code, refused.message, refused.sub) == ("token_expired", "This ticket has expired.", "ada")
    await minting.read(long.ticket)
    clock.now = NOW + 900
    assert (await refusal(minting, long.ticket)).code == "token_expired"


async def test_a_ticket_of_a_ticket_lives_no_longer() -> None:
    clock = Clock()
    minting = tickets(clock=clock)
    first = await minting.mint(ADA, "s")
    clock.now += 600
    second = await minting.mint(await minting.read(first.ticket), "s")
    assert second.expires_at == first.expires_at


async def test_a_ticket_is_no_token_and_a_token_no_ticket() -> None:
    ticket = (await tickets().mint(ADA, "s")).ticket
    verifier = TokenVerifier(secret_keys(secrets_of(SECRET)), TokenRules(), now=Clock())
    with pytest.raises(TokenRefused) as raised:
        await verifier.verify(ticket)
    assert raised.value.reason == "bad_signature"
    given = token(session="s", owns=False, makes=True, issued_at=NOW)
    await verifier.verify(given)
    refused = await refusal(tickets(), given)
    assert (refused.reason, refused.code, refused.message) == (
        "bad_signature", "unauthenticated", "This ticket is not accepted.",
    )  # fmt: skip


async def test_tickets_are_read_on_both_sides_of_a_change_of_the_secret() -> None:
    before, both, after = (keys(SECRET), keys(OTHER_SECRET, SECRET), keys(OTHER_SECRET))
    old, new = [(await tickets(source).mint(ADA, "s")).ticket for source in (before, both)]
    for source, ticket in ((both, old), (both, new), (after, new)):
        assert (await tickets(source).read(ticket)).sub == "ada"
    assert (await refusal(tickets(after), old)).reason == "bad_signature"


async def test_keys_from_elsewhere_may_change_and_may_be_away() -> None:
    held = [b"\x00" * 32]

    async def from_redis(*, fresh: bool = False) -> Sequence[bytes]:
        if not held:
            raise ClientError("unavailable", "Redis is away.")
        return held

    ticket = (await tickets(from_redis).mint(ADA, "s")).ticket
    held.insert(0, b"\x01" * 32)
    await tickets(from_redis).read(ticket)
    held.clear()
    for asking in (tickets(from_redis).read(ticket), tickets(from_redis).mint(ADA, "s")):
        with pytest.raises(ClientError, match="away"):
            await asking


async def test_a_token_that_is_in_its_last_seconds_gets_none() -> None:
    with pytest.raises(ClientError) as refused:
        await tickets().mint(ADA._replace(expires_at=NOW), "s")
    assert refused.value.code == "token_expired"


async def test_a_key_that_another_gateway_has_made_meanwhile_is_looked_for() -> None:
    asked: list[bool] = []

    async def here(*, fresh: bool = False) -> Sequence[bytes]:
        asked.append(fresh)
        return [b"\x01" * 32] if fresh else [b"\x00" * 32]

    async def there(*, fresh: bool = False) -> Sequence[bytes]:
        return [b"\x01" * 32]

    assert (await tickets(here).read((await tickets(there).mint(ADA, "s")).ticket)).sub == "ada"
    assert asked == [False, True]
    assert (await refusal(tickets(here), "not.a.ticket")).reason == "malformed"
    assert asked == [False, True, False], "a ticket that is none says nothing about the keys"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"sub": None}, "no_sub"), ({"sub": ""}, "bad_sub"), ({"exp": None}, "no_exp"),
        ({"exp": NOW + 931}, "too_long_lived"),
        ({"session": None}, "malformed"), ({"session": "*"}, "malformed"), ({"session": ".."}, "malformed"),
        ({"owns": None}, "malformed"), ({"makes": 1}, "malformed"), ({"issued_at": None}, "malformed"),
    ],
)  # fmt: skip
async def test_a_ticket_of_another_form_is_refused(change: dict[str, Any], why: str) -> None:
    claims = {"sub": "ada", "session": "s", "owns": True, "makes": True, "issued_at": 0, "exp": NOW + 60, **change}
    [signing] = await keys()()
    given = {name: value for name, value in claims.items() if value is not None}
    assert (await refusal(tickets(), jwt.encode(given, signing, "HS256"))).reason == why


@pytest.mark.parametrize("ticket", ["", "x", "a.b.c", "é", "x" * 16385])
async def test_what_is_no_ticket_is_refused_counted_and_logged(monkeypatch: pytest.MonkeyPatch, ticket: str) -> None:
    monkeypatch.setattr("relay.auth.refusals._log._seldom._told", {})
    with structlog.testing.capture_logs() as lines:
        refused = await refusal(tickets(), ticket)
    assert refused.code == "unauthenticated"
    assert [(line["kind"], line["reason"]) for line in lines] == [("ticket", refused.reason)]
    assert metrics.auth_refusals.labels("ticket", refused.reason)._value.get() >= 1


async def test_a_ticket_is_no_secret_in_another_form() -> None:
    """Its key does not give away the secret, and differs from the secret's."""
    [derived] = await keys()()
    assert SECRET.encode() not in derived
    assert len(derived) >= 32
