"""A follower on a stage: its hints come from the test, its viewers keep book of what they are shown."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from redis.asyncio import Redis

from relay.errors import StorageError
from relay.follow.broadcast import Burst
from relay.follow.follower import Follower
from relay.follow.page_cache import PageCache
from relay.follow.replay import Trimmed
from relay.protocol.view import SessionView
from relay.redis.pubsub.subscriber import ChannelListener
from relay.store.keys import Keys
from relay.store.session.replies import Opened, Page
from relay.store.session.session_log import PAGE_BYTES, SessionLog
from tests.follow.distance import Distant
from tests.protocol.logs import in_order
from tests.store.in_memory import SESSION_TTL_S, Writer, admitted_and_claimed

MAX_FRAME_BYTES = 1200
WAIT_S = 10
LOST = b'{"error":{"code":"storage","message":"Sorry.","retryable":true}}'


async def no_orphans(session: str, generation: str) -> None:
    """Every job is known to its queue."""


class Hearsay:
    """A source whose messages the test delivers, drops, doubles and reorders as it likes."""

    def __init__(self) -> None:
        self.listener: ChannelListener | None = None
        self.channel = ""

    async def subscribe(self, channel: str, listener: ChannelListener) -> None:
        self.channel, self.listener = channel, listener
        listener.acknowledged()

    def unsubscribe(self, channel: str, listener: ChannelListener) -> None:
        if self.listener is listener:
            self.listener = None

    def say(self, *payloads: bytes) -> None:
        for payload in payloads:
            if self.listener is not None:
                self.listener.message(payload)


class Read(SessionLog):
    """The log as the follower reads it. What the test hangs in here happens between a read and its reply."""

    def __init__(self, redis: Redis) -> None:
        super().__init__(redis, redis, Keys("t"), session_ttl_s=SESSION_TTL_S, max_generations=1, max_requests=1)
        self.reads: list[int] = []  # the first seq of each
        self.page_bytes = PAGE_BYTES
        self.may_read = True
        self.failures: list[Exception] = []
        self.after_open: Callable[[], Awaitable[None]] | None = None
        self.after_range: Callable[[], Awaitable[None]] | None = None

    async def open(self, session: str, *, create: bool = True, known: str = "", sub: str = "") -> Opened | None:
        opened = await super().open(session, create=create, known=known, sub=sub)
        if self.after_open is not None:
            await self.after_open()
        return opened

    async def range(
        self, session: str, first: int, last: int | None = None, page_bytes: int = PAGE_BYTES
    ) -> Page | None:
        assert self.may_read
        self.reads.append(first)
        assert len(self.reads) <= 1000, "it reads without end"
        if self.failures:
            raise self.failures.pop()
        page = await super().range(session, first, last, min(page_bytes, self.page_bytes))
        if self.after_range is not None:
            await self.after_range()
        return page


class Held:
    """Holds up the replies of a log's reads: `asked` when the first has come so far, until `go`."""

    def __init__(self, read: Read) -> None:
        self.asked, self.go = asyncio.Event(), asyncio.Event()
        read.after_range = self._hold

    async def _hold(self) -> None:
        self.asked.set()
        await self.go.wait()


class Recorder:
    """A viewer as the gateway's: a cursor that keeps up or catches up. Any frame that is not the next one fails.

    `begun`: how many of its `frames` came before it was last told `subscribed`, and `recovered` what it was told then.
    """

    def __init__(self, follower: Follower) -> None:
        self.follower = follower
        self.view = SessionView(follower.session)
        self.version = follower.version
        self.frames: list[bytes] = []
        self.begun = 0
        self.recovered = False
        self.lives = 0
        self.told: list[str] = []
        self.deleted = False
        self.slow = False
        self._failure: AssertionError | None = None  # of a callback, where nobody would see it
        self._moved = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def join(self, cursor: tuple[str, int] | None = None) -> bool:
        """Begin as a subscribe does; whether the cursor was honoured."""
        recovered = cursor is not None and self.follower.honours(*cursor)
        self.follower.broadcast.viewers.add(self)
        self._subscribed(cursor[1] if cursor is not None and recovered else 0, recovered)
        return recovered

    def feed(self, burst: Burst) -> None:
        try:
            self._feed(burst)
        except AssertionError as error:
            self._failure = error
            self._moved.set()

    def _feed(self, burst: Burst) -> None:
        assert burst.first == self.view.last + 1
        assert burst.last == burst.first + len(burst.payloads) - 1
        if self.slow:
            self.version = self.follower.version
            self.follower.broadcast.keeping_up.discard(self)
            return
        for payload in burst.payloads:
            self._show(payload)
        assert self.view.last == burst.last

    def restart(self) -> None:
        self._subscribed(0, False)

    def degraded(self) -> None:
        self.told.append("degraded")

    def restored(self) -> None:
        self.told.append("restored")

    def unsubscribed(self) -> None:
        self.deleted = True

    def drain(self) -> None:
        """Take everything again, if it was slow."""
        self.slow = False
        if self not in self.follower.broadcast.keeping_up and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._catch_up())
            self._task.add_done_callback(lambda _: self._moved.set())

    async def reaches(self, seq: int) -> None:
        async with asyncio.timeout(WAIT_S):
            while self.view.last < seq:
                self._moved.clear()
                self._check()
                await self._moved.wait()
        self._check()

    def text(self, generation: str = "g1") -> str:
        """All that it was sent of an answer since it was last told `subscribed`, by no rule that forgives."""
        frames = map(msgspec.json.decode, self.frames[self.begun :])
        sent = [event for frame in frames for event in frame.get("events", [frame])]
        return "".join(
            event["text"] for event in sent if (event["type"], event["generation"]) == ("tokens", generation)
        )

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._task is not None and self._task.done():
            self._task.result()

    async def leave(self) -> None:
        self.follower.broadcast.viewers.discard(self)
        self.follower.broadcast.keeping_up.discard(self)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _subscribed(self, at: int, recovered: bool) -> None:
        self.lives += 1
        self.begun, self.recovered = len(self.frames), recovered
        self.version = self.follower.version
        frame = {
            "type": "subscribed", "session": self.view.session, "epoch": self.follower.epoch, "at": at,
            "head": self.follower.frontier, "recovered": recovered, "active": [],
        }  # fmt: skip
        self.view.apply(frame)
        self.view.last = at  # a viewer that is new here and brings a cursor
        self.follower.broadcast.keeping_up.discard(self)
        self._moved.set()
        if not self.slow:
            self.drain()

    def _show(self, frame: bytes) -> None:
        self.frames.append(frame)
        assert len(frame) <= MAX_FRAME_BYTES
        assert self.view.apply(msgspec.json.decode(frame)) == "applied"
        self._moved.set()

    async def _catch_up(self) -> None:
        while not self.slow:
            if self.view.last == self.follower.broadcast.flushed and self.view.epoch == self.follower.epoch:
                self.follower.broadcast.keeping_up.add(self)
                return
            life = self.lives
            try:
                replay = self.follower.replay(self.view.last, self.version)
                async for seq, frame in replay:
                    if life != self.lives or self.slow:
                        break
                    self._show(frame)
                    self.version = replay.version
                    assert self.view.last == seq
                    await asyncio.sleep(0)  # room in the sink comes late
            except Trimmed:
                self._subscribed(0, False)
            except StorageError:
                await asyncio.sleep(0)  # the log begins a new life; `restart` follows


def state(view: SessionView) -> dict[str, Any]:
    """What a person sees."""
    return {
        name: (shown.attempt, shown.count, in_order(shown.parts), shown.reasoning, shown.end is not None)
        for name, shown in view.generations.items()
    }


class Stage:
    """One session's log, its follower, and the messages that were published and not delivered yet."""

    def __init__(
        self,
        redis: Redis,
        session_log: SessionLog,
        *,
        window_bytes: int = 4096,
        shelf_bytes: int = 16_000_000,
        chance: random.Random | None = None,
    ) -> None:
        """`chance`: what the follower reads takes a while, there and back."""
        self.redis = redis
        self.log = session_log
        self.read = Read(redis if chance is None else Distant(redis, chance))  # type: ignore[arg-type]  # all it needs
        self.source = Hearsay()
        self.shelf = PageCache(shelf_bytes)
        self._window_bytes = window_bytes
        self.follower = self.another("s")
        self.in_flight: list[bytes] = []
        self.writers: dict[str, Writer] = {}
        self.viewers: list[Recorder] = []
        self._published = ("", 0)

    def another(self, session: str) -> Follower:
        """One more, which hears what the last one that was made hears."""
        return Follower(
            session,
            self.read,
            self.source,
            self.shelf,
            window_bytes=self._window_bytes,
            max_frame_bytes=MAX_FRAME_BYTES,
            lost_after_s=60,
            lost_members=LOST,
            orphaned=no_orphans,
        )

    async def writer(self, generation: str = "g1") -> Writer:
        if generation not in self.writers:
            self.writers[generation] = await admitted_and_claimed(self.log, generation)
            await self.overhear()
        return self.writers[generation]

    async def tokens(self, *texts: str, generation: str = "g1") -> None:
        """Write one batch for each text; the messages are in flight then."""
        writer = await self.writer(generation)
        for text in texts:
            assert (await writer.tokens(text)).what == "written"
        await self.overhear()

    async def overhear(self) -> None:
        """Put what was published since last time in flight."""
        page = await self.log.range("s", 1)
        if page is None:
            return
        epoch, last = self._published
        after = last if epoch == page.epoch else 0
        self.in_flight += [b"%s %d %s" % (page.epoch.encode(), seq, body) for seq, body in page.entries if seq > after]
        self._published = (page.epoch, page.head)

    def deliver(self) -> None:
        """Everything that is in flight, in order."""
        payloads, self.in_flight = self.in_flight, []
        self.source.say(*payloads)

    async def lose_everything(self) -> None:
        await self.redis.flushall()
        self.writers = {}

    async def copy(self) -> list[tuple[bytes | str, bytes]]:
        """Everything that Redis holds now, as a replica or a snapshot on disk would have it."""
        return [(key, await self.redis.dump(key) or b"") for key in await self.redis.keys()]

    async def go_back_to(self, copy: list[tuple[bytes | str, bytes]]) -> None:
        await self.redis.flushall()
        for key, value in copy:
            await self.redis.restore(key, 0, value)

    def viewer(self, cursor: tuple[str, int] | None = None) -> Recorder:
        viewer = Recorder(self.follower)
        viewer.join(cursor)
        self.viewers.append(viewer)
        return viewer

    async def everybody_has_everything(self, *, removed: bool = False) -> Page:
        """After one look of the follower; then what they show is what the log says.

        `removed`: answers may be gone from it; who has seen one to its end goes on showing it.
        """
        await self.follower.sync()
        page = await self.log.range("s", 1)
        assert page is not None
        assert (self.follower.epoch, self.follower.frontier) == (page.epoch, page.head)
        reference = SessionView("s")
        reference.epoch, reference.waiting = page.epoch, False
        for seq, body in page.entries:
            reference.last = seq - 1  # what was forgotten leaves holes
            assert reference.apply({"session": "s", "seq": seq, **msgspec.json.decode(body)}) == "applied"
        for viewer in self.viewers:
            viewer.drain()
            await viewer.reaches(page.head)
            assert viewer.view.cursor == reference.cursor
            gone = viewer.view.generations.keys() - reference.generations.keys() if removed else set()
            assert all(viewer.view.generations[name].end is not None for name in gone)
            assert {name: one for name, one in state(viewer.view).items() if name not in gone} == state(reference)
        return page

    async def aclose(self) -> None:
        for viewer in self.viewers:
            await viewer.leave()
        await self.follower.aclose()
