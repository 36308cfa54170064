"""The life of one session under the shaker: asked, watched, stopped, rotated, deleted; then every viewer is judged."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx2

from relay.store.session.session_log import SessionLog
from tests.scenarios.checker import judge
from tests.shaker.figures import Model, Tally
from tests.shaker.viewers import Book, StreamViewer, Viewer, WebSocketViewer

SETTLED_WITHIN_S = 120.0


class Life:
    """`near`: the session's log by a way that nothing shakes. `model`: what its provider says. `calm`: whether nobody
    can have lost Redis from sight."""

    def __init__(
        self,
        name: str,
        urls: list[str],
        near: SessionLog,
        model: Model,
        tally: Tally,
        chance: random.Random,
        calm: Callable[[], bool],
    ) -> None:
        self.name = name
        self._urls = urls
        self._near = near
        self._model = model
        self._tally = tally
        self._chance = chance
        self._calm = calm
        self._viewers: list[Viewer] = []
        self._streams: list[StreamViewer] = []
        self._asked: dict[str, str] = {}  # generation → question
        self._deleted: dict[str, float] = {}  # generation → loop time of the answer to the DELETE
        self._shown_deleted: set[tuple[str, str]] = set()
        self._stopped: set[str] = set()  # by a stop that found them unended
        self._rotated = False
        self._http = httpx2.AsyncClient(trust_env=False, timeout=httpx2.Timeout(30))

    async def run(self) -> None:
        try:
            for _ in range(self._chance.randint(1, 3)):
                self._comes()
            for number in range(self._chance.randint(2, 4)):
                await self._turn(f"{self.name} q{number}")
            await self._settle()
            await self._judge()
            await self._call("DELETE", "")
        finally:
            for viewer in (*self._viewers, *self._streams):
                await viewer.aclose()
            await self._http.aclose()

    # What befalls it

    async def _turn(self, question: str) -> None:
        generation = await self._ask(question)
        befalls: list[Callable[[str], Any]] = [
            self._nothing, self._nothing, self._is_stopped, self._is_streamed, self._is_streamed, self._is_rotated,
            self._two_tabs, self._two_tabs, self._is_deleted,
        ]  # fmt: skip
        await asyncio.sleep(self._chance.uniform(0, 1.2))
        chosen = self._chance.choice(befalls)
        self._tally.done[chosen.__name__.strip("_").replace("_", " ")] += 1
        await chosen(generation)
        await asyncio.sleep(self._chance.uniform(0, 1.5))

    async def _ask(self, question: str) -> str:
        reply = await self._call("POST", "/generations", {"content": question, "request_id": question})
        self._asked[reply["generation"]] = question
        return str(reply["generation"])

    async def _nothing(self, generation: str) -> None:
        pass

    async def _is_stopped(self, generation: str) -> None:
        reply = await self._call("POST", f"/generations/{generation}/stop")
        if reply.get("already_ended") is False:
            self._stopped.add(generation)

    async def _is_rotated(self, generation: str) -> None:
        self._rotated = True
        opened = await self._near.open(self.name, create=False)
        if opened is not None:
            await self._near.rotate(self.name, opened.epoch, missing=False)

    async def _is_streamed(self, generation: str) -> None:
        """From the start, or live, begun at any time around its end."""
        for _ in range(3):
            live = self._chance.random() < 0.7
            book = Book(f"{self.name} stream {len(self._streams)}", self._event, self._alarm, live=live)
            stream = StreamViewer(self.name, book, self._urls, self._chance, generation)
            if self._chance.random() < 0.7:
                stream.steady.set()  # on one connection to the end, which has to come by itself
            self._streams.append(stream)
            await asyncio.sleep(self._chance.uniform(0, 0.5))

    async def _two_tabs(self, generation: str) -> None:
        self._comes()
        await asyncio.sleep(self._chance.choice([0, 0.06, 0.12, 0.2]))
        self._comes()

    async def _is_deleted(self, generation: str) -> None:
        """Whoever comes after the answer sees nothing of it, by whichever gateway."""
        await self._call("DELETE", "")
        now = asyncio.get_running_loop().time()
        self._deleted |= dict.fromkeys(self._asked, now)
        self._asked.clear()
        for _ in range(3):
            self._comes()

    def _comes(self) -> None:
        kind = self._chance.choice([WebSocketViewer, WebSocketViewer, StreamViewer])
        name = f"{self.name} viewer {len(self._viewers)}"
        book = Book(name, self._event, self._alarm, live=self._chance.random() < 0.15)
        self._viewers.append(kind(self.name, book, self._urls, self._chance))

    def _event(self, book: Book, generation: str) -> None:
        deleted_s = self._deleted.get(generation)
        if deleted_s is not None and book.asked_s > deleted_s and (book.name, generation) not in self._shown_deleted:
            self._shown_deleted.add((book.name, generation))
            self._tally.count("deleted", f"{book.name}, {generation}")

    def _alarm(self, book: Book) -> None:
        if self._calm() and not self._rotated:  # another epoch is found by a loss as a rule, and told like one
            self._tally.count("alarm", book.name)

    async def _call(self, method: str, path: str, body: Any = None) -> Any:
        """By any gateway, until it is answered: all that is called here is idempotent."""
        while True:
            url = self._chance.choice(self._urls)
            try:
                answer = await self._http.request(method, f"{url}/v1/sessions/{self.name}{path}", json=body)
            except httpx2.HTTPError:
                continue
            if answer.status_code in (200, 202, 204, 404):
                return answer.json() if answer.content else None
            if answer.status_code not in (429, 503):
                self._tally.count("bug", f"{method} {path}: {answer.status_code} {answer.text}")
                return {"generation": ""}
            await asyncio.sleep(0.2)

    # What has to be true

    async def _settle(self) -> None:
        """Everything has ended, everybody stays, and all have all of it."""
        for viewer in (*self._viewers, *self._streams):
            viewer.steady.set()
        await self._within(self._all_ended, lambda: ["the log"], "missing_end")
        await self._within(self._all_there, self._absent, "hung")
        for stream in self._streams:
            name = f"{stream.book.name}: {stream.book.record[-1:]}"
            await self._within(partial(self._is_over, stream), partial(list, [name]), "hung")

    async def _within(self, condition: Callable[[], Any], who: Callable[[], list[str]], what: str) -> None:
        try:
            async with asyncio.timeout(SETTLED_WITHIN_S):
                while not await condition():  # noqa: ASYNC110 - what is waited for happens elsewhere
                    await asyncio.sleep(0.05)
        except TimeoutError:
            for name in who():
                self._tally.count(what, name)

    async def _all_ended(self) -> bool:
        spans = [await self._near.span(self.name, generation) for generation in self._asked]
        return all(span is not None and span.last is not None for span in spans)

    async def _all_there(self) -> bool:
        opened = await self._near.open(self.name, create=False)
        self._head = f"{opened.epoch}:{opened.head}" if opened is not None else ""
        return not self._absent()

    def _absent(self) -> list[str]:
        return [
            f"{viewer.book.name} at {viewer.book.cursor} of {self._head}: {viewer.book.record[-2:]}"
            for viewer in self._viewers
            if viewer.book.cursor != self._head
        ]

    async def _is_over(self, stream: StreamViewer) -> bool:
        return stream.over.is_set()

    async def _judge(self) -> None:
        for viewer in (*self._viewers, *self._streams):
            if viewer.task.done() and not viewer.task.cancelled() and viewer.task.exception() is not None:
                self._tally.count("bug", f"{viewer.book.name}: {viewer.task.exception()!r}")
        for stream in self._streams:
            if stream.after_end:
                self._tally.count("hung", f"{stream.book.name}: {stream.after_end} behind its end, and no close")
        for generation, question in self._asked.items():
            await self._judge_answer(generation, question)

    async def _judge_answer(self, generation: str, question: str) -> None:
        found = await self._near.snapshots.generation(self.name, generation)
        span = await self._near.span(self.name, generation)
        if found is None or span is None or span.last is None:
            return  # counted as without an end
        said, reason, calls = found["text"], found["reason"], self._model.said.get(question, [])
        self._tally.done[f"answers {reason}"] += 1
        if not (said in calls if reason == "complete" else any(call.startswith(said) for call in calls or [""])):
            self._tally.count("log", f"{question}: {said[:80]!r} …, {len(calls)} calls")
        if generation in self._stopped and reason != "stopped":
            self._tally.count("stop", f"{question}: {reason}")
        for viewer in self._viewers:
            if span.last > viewer.book.began_at:
                self._tally.judged(judge(viewer.book.record, generation, said, reason, voided=calls), viewer.book.name)
        for stream in self._streams:
            if stream.only == generation and stream.over.is_set() and not stream.came_too_late:
                verdict = judge(stream.book.record, generation, said, reason, voided=calls, holes=True)
                self._tally.judged(verdict, stream.book.name)
