"""A reader of Server-Sent Events, judged like every other client: its frames go through the same rules."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

import httpx2
import msgspec

from relay.protocol.view import Frame
from tests.scenarios.client import Client
from tests.scenarios.processes import TIMEOUT_S

_ACCEPT = {"Accept": "text/event-stream"}


class EventSource:
    """One response. `client` holds the state, over as many responses as are given the same one."""

    def __init__(
        self, url: str, client: Client, method: str = "GET", body: Any = None, headers: dict[str, str] | None = None
    ) -> None:
        self.client = client
        self.status = 0
        self.headers: dict[str, str] = {}
        self.events: list[tuple[str | None, str, Frame]] = []  # (id, event, data)
        self.comments: list[str] = []
        self.retry: int | None = None
        self.body = b""  # of a refusal
        self.over = asyncio.Event()
        self.heard_at = 0.0  # loop time of the last line
        self._http = httpx2.AsyncClient(trust_env=False, timeout=httpx2.Timeout(TIMEOUT_S))
        self._request = self._http.build_request(method, url, json=body, headers={**_ACCEPT, **(headers or {})})
        client.holes = "generation=" in url or method == "POST"  # of one generation only: seqs rise with holes
        self._news = client.news
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> EventSource:
        try:
            response = await self._http.send(self._request, stream=True)
        except BaseException:
            await self._http.aclose()
            raise
        self.status, self.headers = response.status_code, dict(response.headers)
        self._response = response
        self.heard_at = asyncio.get_running_loop().time()
        self._task = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._response.aclose()
        await self._http.aclose()

    @property
    def last_id(self) -> str:
        return next(name for name, _, _ in reversed(self.events) if name is not None)

    def types(self) -> list[str]:
        return [kind for _, kind, _ in self.events]

    async def until(self, condition: Any, what: str) -> None:
        """Wait until a condition holds; looked at after every event."""
        try:
            async with asyncio.timeout(TIMEOUT_S), self._news:
                await self._news.wait_for(condition)
        except TimeoutError:
            raise AssertionError(f"{what} did not come; the last events: {self.events[-5:]}") from None

    async def heard(self, within_s: float) -> None:
        """Until the next event, or that long."""
        try:
            async with asyncio.timeout(within_s), self._news:
                await self._news.wait()
        except TimeoutError:
            pass  # comments are no events

    async def ended(self) -> None:
        """Until the server has closed the stream."""
        await asyncio.wait_for(self.over.wait(), TIMEOUT_S)

    async def _read(self) -> None:
        try:
            if self.status != 200:
                self.body = await self._response.aread()
                return
            lines: list[str] = []
            async for line in self._response.aiter_lines():
                self.heard_at = asyncio.get_running_loop().time()
                if line:
                    lines.append(line)
                else:
                    async with self._news:
                        self._take(lines)
                        self._news.notify_all()
                    lines = []
        except httpx2.HTTPError:
            pass  # cut; whoever waits will notice
        finally:
            self.over.set()
            async with self._news:
                self._news.notify_all()

    def _take(self, lines: list[str]) -> None:
        fields: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(": ")
            if name in ("", ":"):
                self.comments.append(value)
            fields[name] = value
        if "retry" in fields:
            self.retry = int(fields["retry"])
        if "data" in fields:
            frame = msgspec.json.decode(fields["data"])
            assert frame["type"] == fields["event"]
            self.events.append((fields.get("id"), fields["event"], frame))
            if self.client.view.waiting and frame["type"] == "subscribed":
                frame = {**frame, "id": self.client.view.subscribe()["id"]}  # an HTTP request is a subscribe
            if self.client.holes and "seq" in frame:
                first = frame.get("from", frame["seq"])
                assert first > self.client.view.last
                self.client.view.last = first - 1
            self.client.take(frame, fields["data"].encode())
