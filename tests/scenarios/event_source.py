"""A reader of Server-Sent Events, judged like every other client: its frames go through the same rules.

httpx2 parses the stream: only CR, LF and CRLF end a line. Where it differs from the standard (it gives an event without
data, takes `retry: +5`, keeps a byte order mark, and takes a CR at the very end for two), it is not the milder one on
anything that a gateway writes. It passes over comments: these are noted as the bytes go by.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from types import TracebackType
from typing import Any

import httpx2
import msgspec

from relay.protocol.view import FrameDict
from tests.scenarios import credentials
from tests.scenarios.client import Client
from tests.scenarios.processes import TIMEOUT_S

_ACCEPT = {"Accept": "text/event-stream"}


class Overheard(httpx2.AsyncByteStream):
    """A response's body, and what it shows on its way to the parser: that something came, and the comments in it."""

    def __init__(self, response: httpx2.Response, came: Callable[[list[str]], Coroutine[Any, Any, None]]) -> None:
        self._response = response
        self._came = came

    async def __aiter__(self) -> AsyncIterator[bytes]:
        rest = b""
        async for chunk in self._response.aiter_bytes():
            *lines, rest = (rest + chunk).split(b"\n")
            await self._came([line[1:].decode().removeprefix(" ") for line in lines if line.startswith(b":")])
            yield chunk


class EventSource:
    """One response. `client` holds the state, over as many responses as are given the same one."""

    def __init__(
        self, url: str, client: Client, method: str = "GET", body: Any = None, headers: dict[str, str] | None = None
    ) -> None:
        self.client = client
        self.status = 0
        self.headers: dict[str, str] = {}
        self.events: list[tuple[str | None, str, FrameDict]] = []  # (id, event, data)
        self.comments: list[str] = []
        self.retry: int | None = None
        self.body = b""  # of a refusal
        self.over = asyncio.Event()
        self.heard_at = 0.0  # loop time of the last bytes
        self._last_id = ""
        self._http = httpx2.AsyncClient(trust_env=False, timeout=httpx2.Timeout(TIMEOUT_S))
        given = {**_ACCEPT, **credentials.HEADERS, **(headers or {})}
        self._request = self._http.build_request(method, url, json=body, headers=given)
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
        (outcome,) = await asyncio.gather(self._task, return_exceptions=True)
        await self._response.aclose()
        await self._http.aclose()
        if isinstance(outcome, Exception) and error is None:
            raise outcome  # what was read broke a rule

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
            heard = httpx2.Response(
                200, headers={"Content-Type": self.headers["content-type"]}, request=self._request,
                stream=Overheard(self._response, self._came),
            )  # fmt: skip
            async for event in httpx2.EventSource(heard, max_event_size=None):
                async with self._news:
                    self._take(event)
                    self._news.notify_all()
        except httpx2.HTTPError:
            pass  # cut; whoever waits will notice
        finally:
            self.over.set()
            async with self._news:
                self._news.notify_all()

    async def _came(self, comments: list[str]) -> None:
        self.heard_at = asyncio.get_running_loop().time()
        self.comments += comments
        async with self._news:
            self._news.notify_all()

    def _take(self, event: httpx2.ServerSentEvent) -> None:
        if event.retry is not None:
            self.retry = event.retry
        # It tells the last id, whichever event that came with; no two events of a session have the same.
        name = event.id if event.id != self._last_id else None
        self._last_id = event.id
        if not event.data:
            return  # no event, says the standard
        assert event.data.splitlines() == [event.data], "who breaks lines wherever Unicode may reads something else"
        frame = msgspec.json.decode(event.data)
        assert frame["type"] == event.event
        self.events.append((name, event.event, frame))
        if self.client.view.waiting and frame["type"] == "subscribed":
            frame = {**frame, "id": self.client.view.subscribe()["id"]}  # an HTTP request is a subscribe
        if self.client.holes and "seq" in frame:
            first = frame.get("from", frame["seq"])
            assert first > self.client.view.last
            self.client.view.last = first - 1
        self.client.take(frame, event.data.encode())
