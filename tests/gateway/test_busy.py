"""A gateway that is too busy to listen takes nobody for silent: neither Redis nor a client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from relay.auth.identity import UNRESTRICTED
from relay.gateway import follower_pool as hub_module
from relay.gateway import http, requests
from relay.gateway.follower_pool import FollowerPool
from tests.follow.following import Stage
from tests.store.in_memory import Clock, redis_in_memory, session_log_on


async def busy_for_turns() -> None:
    for _ in range(4):
        time.sleep(0.2)  # noqa: ASYNC251 - it is the loop that is to be blocked
        await asyncio.sleep(0)


async def test_a_look_before_a_follower_is_lent_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock().install(monkeypatch)
    monkeypatch.setattr(hub_module, "SYNC_WITHIN_S", 0.3)
    async with redis_in_memory() as redis:
        stage = Stage(redis, session_log_on(redis))
        hub = FollowerPool(stage.another, stage.log.own, linger_s=10)
        await stage.tokens("private")
        watching = await hub.acquire("s", access=UNRESTRICTED)
        await stage.log.delete("s", 60_000)
        look = watching.sync

        async def look_while_busy() -> None:
            await busy_for_turns()
            await look()

        monkeypatch.setattr(watching, "sync", look_while_busy)
        lent = await hub.acquire("s", access=UNRESTRICTED)
        assert lent is not watching
        hub.release(watching)
        hub.release(lent)
        await hub.aclose()


async def test_it_is_ready_while_redis_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ping_while_busy(*given: Any) -> None:
        await busy_for_turns()

    monkeypatch.setattr(http, "READY_TIMEOUT_S", 0.3)
    monkeypatch.setattr(http, "ping", ping_while_busy)
    gateway = SimpleNamespace(
        draining=asyncio.Event(),
        redis=SimpleNamespace(commands=None),
        session_log=SimpleNamespace(keys=SimpleNamespace(queues="")),
        requirements=SimpleNamespace(problem=""),
    )
    monkeypatch.setattr(http, "gateway_of", lambda request: gateway)
    assert (await http.ready(None)).status_code == 200  # type: ignore[arg-type]


async def test_a_body_that_lies_in_the_socket_has_arrived(monkeypatch: pytest.MonkeyPatch) -> None:
    async def stream() -> AsyncIterator[bytes]:
        yield b"{"
        await busy_for_turns()
        yield b"}"

    monkeypatch.setattr(requests, "BODY_TIMEOUT_S", 0.3)
    request: Any = SimpleNamespace(headers={"content-type": "application/json"}, stream=stream)
    assert await requests.json_body(request, 10) == b"{}"
