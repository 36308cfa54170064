"""Who may do what: every action, by every kind of token, over every transport."""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.auth.signing import private_key, public_pem
from tests.auth.test_tokens import signed_by_hand
from tests.fakes.provider import Script
from tests.scenarios.credentials import SECRET, bearing, token
from tests.scenarios.processes import TIMEOUT_S
from tests.scenarios.world import Gateway, World

OK = "ok"
UNKNOWN = "g_00000000000000000000"  # a generation that never was


class Place(NamedTuple):
    """A session and one generation of it."""

    session: str
    generation: str
    kind: str  # mine: alice made it; theirs: bob did; absent: nobody


def good(sub: str | None = "alice", **claims: Any) -> str:
    return token(sub, **{"aud": "the-relay", **claims})


def ago(seconds: int) -> int:
    return int(time.time()) - seconds


ALL = "read submit stop delete"
Make = Callable[[str], str | None]  # session → token
TOKENS: dict[str, Make] = {
    "none": lambda _: None,
    "garbage": lambda _: "not.a.token",
    "expired": lambda _: good(iat=ago(7200), exp=ago(3600)),
    "not yet valid": lambda _: good(nbf=ago(-1800)),
    "wrong key": lambda _: good(key="another-secret-that-is-also-longer-than-32-bytes"),
    "wrong audience": lambda _: good(aud="another-service"),
    "no audience": lambda _: good(aud=None),
    "no algorithm": lambda _: good(key=None, algorithm="none"),
    "another algorithm": lambda _: good(algorithm="HS512", key=SECRET * 2),
    "no exp": lambda _: good(exp=None),
    "too long-lived": lambda _: good(exp=ago(-10 * 86400)),
    "no sub": lambda _: good(None),
    "revoked": lambda session: good("mallory", sessions=[session], iat=ago(60)),
    "revoked, without iat": lambda session: good("mallory", sessions=[session], iat=None),
    "other session": lambda _: good(sessions=["another", "other-*"], scope=ALL),
    "no session": lambda _: good(sessions=[], scope=ALL),
    "no scope": lambda session: good(sessions=[session], scope=""),
    "owner": lambda _: good(scope=ALL),
    "reader who owns": lambda _: good(scope=["read"]),
    "named": lambda session: good("carol", sessions=["x", session], scope=ALL),
    "by prefix": lambda session: good("carol", sessions=[session[:4] + "*"], scope=f"other {ALL}"),
    "default scopes": lambda session: good("carol", sessions=[session]),
    "reader": lambda session: good("carol", sessions=[session], scope="read"),
    "writer": lambda session: good("carol", sessions=[session], scope="submit"),
}
SCOPES = {
    "owner": ALL, "named": ALL, "by prefix": ALL, "default scopes": "read submit stop", "reader": "read",
    "reader who owns": "read", "writer": "submit",
}  # fmt: skip
ACTIONS = {"read": "read", "submit": "submit", "stop": "stop", "delete": "delete", "get": "read", "get one": "read",
           "events": "read", "events of one": "read", "ticket": "read"}  # fmt: skip
OVER_WEBSOCKET = ("read", "submit", "stop")
ABSENT_IS_FOUND = ("read", "submit", "events", "ticket")  # these make a session, or need none


def expected(name: str, action: str, place: Place) -> str:
    """What the contract says, put as one function."""
    if name == "expired":
        return "token_expired"
    if name in ("other session", "no session", "no scope"):
        return "forbidden"
    if name not in SCOPES:
        return "unauthenticated"
    if ACTIONS[action] not in SCOPES[name].split():
        return "forbidden"
    owns = name in ("owner", "reader who owns")
    makes = "submit" in SCOPES[name].split()
    mine = place.kind == "mine" or (place.kind == "absent" and makes) or not owns
    if action == "ticket":  # it is a promise to read; whose session it is counts when it is used
        return OK
    if not mine:
        return "forbidden" if action in ("read", "submit", "events") else "not_found"
    return OK if place.kind != "absent" or action in ABSENT_IS_FOUND else "not_found"


def wire(gateway: Gateway) -> str:
    return gateway.url.replace("http", "ws", 1) + "/v1/ws"


async def place(gateway: Gateway, kind: str) -> Place:
    session = f"{kind[:4]}{secrets.token_hex(8)}"
    if kind == "absent":
        return Place(session, UNKNOWN, kind)
    made_by = good("alice" if kind == "mine" else "bob")
    path = f"/v1/sessions/{session}/generations?wait=20"
    status, answer, _ = await gateway.http("POST", path, {"content": "?"}, bearing(made_by))
    assert status == 200, answer
    return Place(session, answer["generation"], kind)


async def over_http(gateway: Gateway, action: str, given: str | None, at: Place) -> str:
    """`ok`, or the code of the error."""
    session, one = f"/v1/sessions/{at.session}", f"/v1/sessions/{at.session}/generations/{at.generation}"
    match action:
        case "submit":
            status, body, sent = await gateway.http("POST", session + "/generations", {"content": "?"}, bearing(given))
        case "stop":
            status, body, sent = await gateway.http("POST", one + "/stop", None, bearing(given))
        case "delete":
            status, body, sent = await gateway.http("DELETE", session, None, bearing(given))
        case "get":
            status, body, sent = await gateway.http("GET", session, None, bearing(given))
        case "get one":
            status, body, sent = await gateway.http("GET", one, None, bearing(given))
        case "events":
            return await first_event(gateway, session + "/events", bearing(given))
        case "events of one":
            return await first_event(gateway, f"{session}/events?generation={at.generation}", bearing(given))
        case "ticket":
            status, body, sent = await gateway.http("POST", "/v1/tickets", {"session": at.session}, bearing(given))
        case _:
            raise AssertionError(action)
    if status < 300:
        return OK
    assert ("www-authenticate" in sent) == (status == 401), sent
    return str(body["error"]["code"])


async def first_event(gateway: Gateway, path: str, headers: dict[str, str]) -> str:
    async with (
        httpx2.AsyncClient(trust_env=False, timeout=TIMEOUT_S) as http,
        http.stream("GET", gateway.url + path, headers=headers) as response,
    ):
        if response.status_code == 200:
            async for line in response.aiter_lines():
                if line.startswith("event: "):
                    return OK if line == "event: subscribed" else line
        return str(json.loads(await response.aread())["error"]["code"])


async def over_websocket(
    gateway: Gateway, action: str, given: str | None, at: Place, *, says_hello: bool, query: str = ""
) -> str:
    """`ok`, or the code of the error; a refused connection closes as it should."""
    commands = {
        "read": {"type": "subscribe"},
        "submit": {"type": "submit", "request_id": secrets.token_hex(4), "content": "?"},
        "stop": {"type": "stop", "generation": at.generation},
    }
    asked = {"id": "1", "session": at.session, **commands[action]}
    headers = {} if says_hello else bearing(given)
    async with connect(wire(gateway) + query, additional_headers=headers, proxy=None) as websocket:
        if says_hello and given is not None:
            await websocket.send(json.dumps({"type": "hello", "id": "0", "token": given}))
        code = ""
        with suppress(ConnectionClosed):  # it is refused already
            await websocket.send(json.dumps(asked))
        try:
            while True:
                frame = json.loads(await asyncio.wait_for(websocket.recv(), TIMEOUT_S))
                if frame["type"] == "error":
                    code = frame["code"]
                if frame.get("id") == "1":
                    return code if frame["type"] == "error" else OK
        except ConnectionClosed:
            assert websocket.close_code == (4401 if code == "token_expired" else 4501)
            return code


async def test_every_action_by_every_token_over_every_transport(relay: World) -> None:
    relay.fake.script = Script(tokens=["Yes"])
    relay.settings |= {"RELAY_AUTH_SECRET": SECRET, "RELAY_AUTH_AUDIENCE": "the-relay"}
    gateway = await relay.gateway()
    await relay.worker()
    admin = good("operator", scope="admin")
    status, _, _ = await gateway.http("POST", "/v1/admin/revoke", {"sub": "mallory"}, bearing(admin))
    assert status == 200
    places = {kind: await place(gateway, kind) for kind in ("mine", "theirs", "absent")}
    wrong = []

    async def cell(name: str, action: str, kind: str, transport: str) -> None:
        at = places[kind]
        changes = action in ("delete", "submit") or (kind == "absent" and action in ABSENT_IS_FOUND)
        if changes and expected(name, action, at) == OK:
            at = await place(gateway, kind)  # of its own: the others must find what they expect
        given = TOKENS[name](at.session)
        if transport == "http":
            found = await over_http(gateway, action, given, at)
        else:
            found = await over_websocket(gateway, action, given, at, says_hello=transport == "hello")
        if found != expected(name, action, at):
            wrong.append((name, action, kind, transport, found, expected(name, action, at)))

    cells = [
        *itertools.product(TOKENS, [action for action in ACTIONS if action != "read"], places, ["http"]),
        *itertools.product(TOKENS, OVER_WEBSOCKET, places, ["hello", "handshake"]),
    ]
    several = asyncio.Semaphore(16)

    async def in_turn(*cell_: str) -> None:
        async with several:
            await cell(*cell_)

    await asyncio.gather(*(in_turn(*one) for one in cells))
    assert wrong == []


async def test_with_a_public_key_no_other_signature_counts_and_tickets_only_read(relay: World, tmp_path: Path) -> None:
    """The key of tickets is in Redis here: two gateways must read each other's."""
    relay.fake.script = Script(tokens=["Yes"])
    private = private_key("RS256")
    (tmp_path / "key.pem").write_text(public_pem(private))
    relay.settings["RELAY_AUTH_KEY_FILE"] = str(tmp_path / "key.pem")
    gateway, other = await relay.gateway(), await relay.gateway()
    await relay.worker()
    right = token("alice", key=private, algorithm="RS256", scope=ALL)
    path = "/v1/sessions/mine/generations?wait=20"
    status, answer, _ = await gateway.http("POST", path, {"content": "?"}, bearing(right))
    assert status == 200, answer
    at = Place("mine", answer["generation"], "mine")
    claims = {"sub": "alice", "scope": ALL, "exp": int(time.time()) + 60}
    found = {}
    for name, given in {
        "right": right,
        "the public key as a secret": signed_by_hand({"alg": "HS256"}, claims, public_pem(private)),
        "no algorithm": token(key=None, algorithm="none"),
        "another key": token(key=private_key("RS256", 1), algorithm="RS256"),
        "another family": token(key=private_key("ES256"), algorithm="ES256"),
        "a secret": token(),
    }.items():
        codes = [
            await over_http(gateway, action, given, at) for action in ("get", "get one", "events", "stop", "ticket")
        ]
        for says_hello in (True, False):
            codes += [await over_websocket(gateway, one, given, at, says_hello=says_hello) for one in OVER_WEBSOCKET]
        found[name] = set(codes)
    assert found.pop("right") == {OK}
    assert set(map(frozenset, found.values())) == {frozenset({"unauthenticated"})}
    for made_at, used_at in ((gateway, other), (other, gateway)):
        _, made, _ = await made_at.http("POST", "/v1/tickets", {"session": "mine"}, bearing(right))
        query = f"?ticket={made['ticket']}"
        assert await first_event(used_at, "/v1/sessions/mine/events" + query, {}) == OK
        assert await first_event(used_at, "/v1/sessions/theirs/events" + query, {}) == "forbidden"
        assert (await used_at.http("GET", "/v1/sessions/mine" + query))[0] == 401
        ticketed = [
            await over_websocket(used_at, one, None, at, says_hello=False, query=query) for one in OVER_WEBSOCKET
        ]
        assert ticketed == [OK, "forbidden", "forbidden"]
        assert await over_http(used_at, "get", made["ticket"], at) == "unauthenticated", "a ticket is no token"
