"""The socket that a gateway listens on, where somebody else has it."""

from __future__ import annotations

import asyncio
import socket

import pytest
import uvicorn

from relay.auth.revocations import Revocations
from relay.errors import SettingsError
from relay.gateway.gateway import Gateway
from relay.gateway.server import listen, listen_shared, server
from relay.settings import load
from relay.store.requirements import RequirementsMonitor
from tests.scenarios.credentials import SECRET

HINT = "; choose another port with --port / RELAY_PORT, 0 for a free one"


def _bound(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    return sock


def test_a_port_in_use_is_a_sentence_that_names_the_flag() -> None:
    with _bound(0) as theirs:
        theirs.listen()
        port = theirs.getsockname()[1]
        with pytest.raises(SettingsError) as raised:
            listen("127.0.0.1", port)
    said = f"--host 127.0.0.1 --port {port} cannot be listened on: Address already in use{HINT}"
    assert str(raised.value) == said


def test_another_reason_has_no_such_advice() -> None:
    with pytest.raises(SettingsError) as raised:
        listen("192.0.2.1", 8080)
    assert str(raised.value).startswith("--host 192.0.2.1 --port 8080 cannot be listened on: ")
    assert HINT not in str(raised.value)


async def test_of_two_that_start_at_once_the_later_one_is_told_the_same() -> None:
    """Both bind, as neither listens yet; nothing is left behind of the one that is too late."""
    ours = listen("127.0.0.1", 0)
    port = ours.getsockname()[1]
    before = asyncio.all_tasks()
    with _bound(port) as theirs, ours:
        theirs.listen()
        gateway = server(load(redis_url="redis://127.0.0.1:1/0", port=port), handle_signals=False)
        with pytest.raises(SettingsError, match=f"--port {port} cannot be listened on: Address already in use{HINT}"):
            await asyncio.wait_for(gateway.serve(sockets=[ours]), 20)
    assert {task.get_name() for task in asyncio.all_tasks() - before} == set()


async def test_what_is_accepted_first_of_all_inherits_what_every_connection_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """uvicorn's own start listens: who connects in that moment is accepted."""
    found: list[int] = []

    async def startup(self: uvicorn.Server, sockets: list[socket.socket]) -> None:
        found.extend(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for sock in sockets)

    monkeypatch.setattr(uvicorn.Server, "startup", startup)
    ours = listen_shared("127.0.0.1", 0, 2)
    await server(load(redis_url="redis://127.0.0.1:1/0")).startup(sockets=ours)
    for sock in ours:
        sock.close()
    assert len(found) == 2
    assert all(found)


async def test_revocations_are_known_before_the_first_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise whoever comes back at once after a restart would be sent away again."""
    read: list[str] = []

    async def sync(_: Revocations) -> None:
        read.append("revocations")

    async def check_once(_: RequirementsMonitor) -> None: ...

    monkeypatch.setattr(Revocations, "sync", sync)
    monkeypatch.setattr(RequirementsMonitor, "check_once", check_once)
    for secret, expected in (("", []), (SECRET, ["revocations"])):
        read.clear()
        async with Gateway(load(redis_url="redis://127.0.0.1:1/0", auth_secret=secret)).running():
            assert read == expected
