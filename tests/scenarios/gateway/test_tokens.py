"""Tokens in mid-answer: they expire and are replaced, and are revoked; what each client shows stays exact."""

from __future__ import annotations

import asyncio
import time

import pytest

from relay.client import connect
from relay.errors import Disconnected
from tests.fakes.script import Script
from tests.scenarios.client import Client, check
from tests.scenarios.clients.test_client import read
from tests.scenarios.credentials import SECRET, bearing, token
from tests.scenarios.event_source import EventSource
from tests.scenarios.processes import TIMEOUT_S, until
from tests.scenarios.world import Gateway, World

TOKENS = [f"wörd{number} 😀\n" for number in range(140)]
TEXT = "".join(TOKENS)
LIFE_S = 2  # of a short token, as a gateway counts: with the 30 s by which clocks may differ


def short(sub: str = "alice") -> str:
    """Good for about LIFE_S more."""
    return token(sub, iat=int(time.time()) - 60, exp=int(time.time()) - 30 + LIFE_S)


async def under_way(relay: World, count: int = 1) -> list[Gateway]:
    """Gateways with auth, and a model that takes longer than a short token lasts."""
    relay.settings["RELAY_AUTH_SECRET"] = SECRET
    relay.fake.script = Script(tokens=TOKENS, tokens_per_second=40)
    gateways = [await relay.gateway() for _ in range(count)]
    await relay.worker()
    return gateways


async def test_a_connection_whose_token_is_replaced_goes_on(relay: World) -> None:
    (gateway,) = await under_way(relay)
    async with Client(gateway.url, "s", headers=bearing(short())) as client:
        await client.subscribe()
        generation = await client.submit("?")
        await until(lambda: "token_expiring" in client.kinds, "it is told in time")
        newer = token()
        assert (await client.command(type="refresh", token=newer))["type"] == "refreshed"
        refused = await client.command(type="refresh", token=token("bob"))
        assert (refused["type"], refused["code"]) == ("error", "forbidden")
        assert (await client.ended(generation)).text == TEXT
        check(client, generation, TEXT)


async def test_one_that_is_not_closes_and_comes_back_with_its_cursor(relay: World) -> None:
    (gateway,) = await under_way(relay)
    client = Client(gateway.url, "s", headers=bearing(short()))
    await client.connect()
    await client.subscribe()
    generation = await client.submit("?")
    connections = 1
    while not client.ends[generation]:
        await asyncio.wait_for(client.gone.wait(), TIMEOUT_S)
        assert client.connection is not None
        assert client.connection.close_code == 4401
        await client.disconnect()
        client.headers = bearing(token())
        connections += 1
        await client.connect()
        assert (await client.subscribe())["recovered"] is True
        await client.ended(generation)
    await client.disconnect()
    assert connections == 2
    check(client, generation, TEXT)


async def test_our_client_asks_for_the_next_token_and_is_in_no_loop(relay: World) -> None:
    (gateway,) = await under_way(relay)
    asked = 0

    async def fresh() -> str:
        nonlocal asked
        asked += 1
        return short()

    began = time.monotonic()
    async with connect(gateway.url, token=fresh) as client:
        answer = await client.submit("s", "?")
        assert await read(answer) == (TEXT, 0, "complete")
    assert 2 <= asked <= 3 + (time.monotonic() - began)  # one a second at most


async def test_an_event_stream_ends_with_a_word_and_a_ticket_resumes_it(relay: World) -> None:
    (gateway,) = await under_way(relay)
    client = Client(gateway.url, "s")
    path = gateway.url + "/v1/sessions/s/events"
    async with EventSource(path, client, headers=bearing(short())) as stream:
        await stream.until(lambda: stream.events, "subscribed")
        _, answer, _ = await gateway.http("POST", "/v1/sessions/s/generations", {"content": "?"}, bearing(token()))
        generation = answer["generation"]
        await stream.ended()
        assert "token_expired" in stream.comments
        kind, error = stream.events[-1][1:]
        assert (kind, error["code"]) == ("error", "token_expired")
        last_id = stream.last_id
    again = EventSource(path, client, headers={**bearing(token(exp=int(time.time()) - 60)), "Last-Event-ID": last_id})
    async with again as refused:
        await refused.ended()
        assert refused.status == 401
    status, made, _ = await gateway.http("POST", "/v1/tickets", {"session": "s"}, bearing(token()))
    assert status == 200
    assert time.time() < made["expires_at"] <= time.time() + 15 * 60
    resumed = EventSource(f"{path}?ticket={made['ticket']}", client, headers={"Last-Event-ID": last_id})
    async with resumed as stream:
        await stream.until(lambda: client.ends[generation], "the end")
    check(client, generation, TEXT)
    once_more = Client(gateway.url, "s")
    async with EventSource(f"{path}?ticket={made['ticket']}", once_more) as stream:
        await stream.until(lambda: once_more.ends[generation], "the end")
    check(once_more, generation, TEXT)
    assert (await gateway.http("GET", f"/v1/sessions/s?ticket={made['ticket']}"))[0] == 401
    other = EventSource(f"{gateway.url}/v1/sessions/other/events?ticket={made['ticket']}", Client(gateway.url, "other"))
    async with other as refused:
        await refused.ended()
        assert refused.status == 403


async def test_a_revocation_closes_everything_of_that_person_on_every_gateway_and_nothing_else(relay: World) -> None:
    gateways = await under_way(relay, 2)
    hers, his = bearing(token(iat=int(time.time()) - 5)), bearing(token("bob", sessions=["s"], scope="read"))
    viewers = [Client(gateway.url, "s", headers=hers) for gateway in gateways]
    bob = Client(gateways[1].url, "s", headers=his)
    for client in (*viewers, bob):
        await client.connect()
        await client.subscribe()
    generation = await viewers[0].submit("?")
    status, made, _ = await gateways[0].http("POST", "/v1/tickets", {"session": "s"}, hers)
    assert status == 200
    following = Client(gateways[1].url, "s")
    path = f"{gateways[1].url}/v1/sessions/s/events?ticket={made['ticket']}"
    async with EventSource(path, following) as stream:
        await stream.until(lambda: stream.events, "subscribed")
        revoke = relay.spawn("relay", "revoke", "alice")
        assert await revoke.exited() == 0, revoke.stderr.read_text()
        for client in viewers:
            await asyncio.wait_for(client.gone.wait(), TIMEOUT_S)
            assert client.connection is not None
            assert client.connection.close_code == 4503
        await stream.ended()
        assert stream.events[-1][1] == "error"
    for gateway in gateways:
        for headers, ticket in ((hers, ""), ({}, f"?ticket={made['ticket']}")):
            assert (await gateway.http("GET", "/v1/sessions/s/events" + ticket, None, headers))[0] == 401
    await bob.ended(generation)
    check(bob, generation, TEXT)
    await until(lambda: time.time() > int(time.time()) + 0.05, "the clock is past a second")
    newer = Client(gateways[1].url, "s", headers=bearing(token(iat=int(time.time()) + 1)))
    async with newer:
        await newer.subscribe()
        await newer.ended(generation)
        check(newer, generation, TEXT)
    for client in (*viewers, bob):
        await client.disconnect()


async def test_a_wait_ends_with_its_token(relay: World) -> None:
    (gateway,) = await under_way(relay)
    relay.fake.script = Script(tokens=["a", "b"], hold_before=1)
    path = "/v1/sessions/s/generations?wait=60"
    asking = [gateway.http("POST", path, {"content": "?"}, bearing(given)) for given in (short(), token())]
    expiring, other = [asyncio.create_task(one) for one in asking]
    status, answer, _ = await asyncio.wait_for(expiring, TIMEOUT_S)
    assert (status, answer["error"]["code"]) == (401, "token_expired")
    assert answer["error"]["generation"]
    status, _, _ = await gateway.http("POST", "/v1/admin/revoke", {"sub": "alice"}, bearing(token("o", scope="admin")))
    assert status == 200
    status, answer, _ = await asyncio.wait_for(other, TIMEOUT_S)
    assert (status, answer["error"]["code"]) == (401, "unauthenticated")


async def test_who_says_no_good_hello_is_told_why_and_let_go(relay: World) -> None:
    (gateway,) = await under_way(relay)
    with pytest.raises(Disconnected, match="token"):
        async with connect(gateway.url, token=token(key="another-secret-that-is-also-longer-than-32-bytes")) as client:
            await client.submit("s", "?")
    send = relay.send(gateway, "s", "?")
    assert await send.exited() == 1
    assert "wants a token" in send.stderr.read_text()
    assert "RELAY_TOKEN" in send.stderr.read_text()
