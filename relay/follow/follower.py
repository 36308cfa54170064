"""The follower: one session's log, followed by one process for all its viewers.

It subscribes, waits for the acknowledgement and opens the session. From then on it applies each live event that starts
where the last one ended. It syncs (reads the log) after a gap, an epoch change or a lost subscription, and when nothing
is heard while an answer is open. Viewers are cursors into it: those that keep up get each burst of events at once,
joined; the others read what they lack when they have room.

If Redis has lost events that were already shown, the log gets a new epoch and every viewer starts again. Answers that
are missing then come back from their workers, or the follower ends them. A session that comes back as somebody else's
is another one, and counts as deleted here.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from logging import INFO
from typing import assert_never

from relay import logging, metrics
from relay.errors import StorageError
from relay.follow.broadcast import Broadcast
from relay.follow.loss_detection import LossKind, detect_loss
from relay.follow.missing import MissingGenerations
from relay.follow.page_cache import PageCache, SessionPages
from relay.follow.recovery import Recovery
from relay.follow.replay import Replay
from relay.follow.visibility import Visibility
from relay.follow.window import OutOfOrder, Window
from relay.protocol import events
from relay.protocol.frames import Active
from relay.redis.pubsub.subscriber import ChannelSource
from relay.store.session.replies import Deleted, Opened, Page
from relay.store.session.session_log import SessionLog
from relay.store.session.versions import UNTRIMMED, LogVersion

SYNC_EVERY_S = 2.0  # while a generation is open and nothing is heard of it
IDLE_SYNC_S = 20.0  # otherwise; also keeps an empty session remembered while it has viewers
_RETRY_S = (0.5, 8.0)  # at first, at most; anything heard meanwhile ends the pause
_MAX_PAST_EPOCHS = 16

logger = logging.get_logger("follower")
# Shared by all followers: thousands of them may meet the same outage or loss. Each syncs again within 8 s.
_sync_failures = logging.FailureLog(logger, "look_failed", settled_s=20.0)
_degraded, _restored, _lost, _reloaded, _events_out_of_order = (
    logging.RateLimitedLog(logger, event)
    for event in ("degraded", "restored", "log_lost", "session_began_anew", "out_of_order")
)


class Follower:
    """`frontier`: the last seq applied. `broadcast` knows how much of that viewers have been given.

    `sub`: the session's owner, as far as we know; "" if nobody. `deleted`: the session was deleted, or is somebody
    else's now; later subscribers need another follower.
    """

    def __init__(
        self,
        session: str,
        session_log: SessionLog,
        source: ChannelSource,
        page_cache: PageCache,
        *,
        window_bytes: int,
        max_frame_bytes: int,
        lost_after_s: float,
        lost_members: bytes,
        orphaned: Callable[[str, str], Awaitable[None]],
    ) -> None:
        """recovery.py explains the last three."""
        self.session = session
        self.sub = ""
        self.epoch = ""
        self.frontier = 0
        self.version = UNTRIMMED  # of the log, as far as we know
        self.deleted = False
        self.active: dict[str, Active] = {}
        self.broadcast = Broadcast()
        self.missing = MissingGenerations(lost_after_s)
        self._recovery = Recovery(
            self, session_log, self.missing, lost_after_s=lost_after_s, lost_members=lost_members, orphaned=orphaned
        )
        self._visibility = Visibility(self._degraded, self._restored, lambda: session_log.answered_at(session))
        self._past_epochs: deque[str] = deque(maxlen=_MAX_PAST_EPOCHS)
        self._shown_before = False  # events of an epoch before this one
        self._entries_missing = False  # a replay found that entries are missing
        self._session_log = session_log
        self._source = source
        self._channel = session_log.keys.session(session, "events")
        self.window = Window(window_bytes)
        self.pages = SessionPages(session, session_log, page_cache)
        self._max_frame_bytes = max_frame_bytes
        self._sync_requested = asyncio.Event()
        self._heard_at = 0.0
        self._expecting = False
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._out_of_order = False  # an event was out of order: our bug; nothing is shown until the log is read again
        self._sync_lock = asyncio.Lock()
        self._next_sync: asyncio.Task[None] | None = None  # not begun yet: all who ask for a sync share it
        self._syncs: set[asyncio.Task[None]] = set()  # at most two: one reads, one waits for it
        self._task: asyncio.Task[None] | None = None

    async def start(self, maker: str = "") -> None:
        """Begin to follow. `maker`: the session's owner if this makes it.

        Raises StorageError. It waits for Redis without a limit; the caller sets one.
        """
        self.sub = maker
        await self._source.subscribe(self._channel, self)
        self._sync_requested.clear()  # anything heard from here on, before the session is open, sets it again
        await self._reload()
        self._watch_silence()
        self._task = asyncio.create_task(self._watch(), name=f"follower {self.session}")

    async def aclose(self) -> None:
        self._closed = True
        self._source.unsubscribe(self._channel, self)
        if self._timer is not None:
            self._timer.cancel()
        tasks = [*self._syncs] if self._task is None else [self._task, *self._syncs]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._visibility.close()
        self.pages.clear()

    # Hints from pub/sub

    def acknowledged(self) -> None:
        self._request_sync("subscription")

    def message(self, payload: bytes) -> None:
        epoch, seq_text, body = payload.split(b" ", 2)
        seq = int(seq_text)
        if self._out_of_order:
            return
        if epoch.decode() != self.epoch:
            self._request_sync("epoch")
        elif seq == 0:
            self._request_sync("deleted")
        elif seq == self.frontier + 1:
            if seq == 1 and not self.sub:  # until a session has events, somebody may become its owner
                self._request_sync("owner")
                if self._shown_before:
                    return  # perhaps it is another session now: the sync shows this event, or none
            self._apply(seq, body)
        elif seq > self.frontier:
            self._request_sync("hole")

    def lost(self) -> None:
        self._request_sync("lost")

    # What viewers ask

    @property
    def degraded(self) -> bool:
        return self._visibility.degraded

    def honours(self, epoch: str, seq: int) -> bool:
        """Whether a cursor can be continued from."""
        self.broadcast.flush()  # so that no cursor is ahead of the viewers that keep up
        return epoch == self.epoch and (seq == 0 or self.floor <= seq <= self.broadcast.flushed)

    def expect_event(self) -> None:
        """An event is being written right now; sync if it does not arrive soon."""
        self._expecting, self._heard_at = True, time.monotonic()
        self._watch_silence()

    def last_shown(self, generation: str) -> Active | None:
        """The last state of it that was shown, unless it has ended. Redis may have lost it since."""
        return self.active.get(generation) or self.missing.known(generation)

    def awaits_end(self, generation: str) -> bool:
        """Whether its end is still to come after the frontier: it runs, or may come back."""
        return generation in self.active or generation in self.missing

    def shown_to_viewers(self) -> tuple[list[str], list[str]]:
        """The epochs, and the generations not ended, that viewers here have been shown."""
        return [*self._past_epochs, self.epoch], [*self.active, *self.missing]

    @property
    def floor(self) -> int:
        return self.version.floor

    def replay(self, after: int, version: LogVersion = UNTRIMMED) -> Replay:
        """What follows `after`, up to what is flushed. `version`: the log version of all that the reader has."""
        upto = self.broadcast.flushed
        return Replay(self, self.pages, after, upto, max_frame_bytes=self._max_frame_bytes, version=version)

    def report_newer_log(self) -> None:
        self._request_sync("epoch")

    def report_missing_entries(self, epoch: str) -> None:
        self._entries_missing = self._entries_missing or epoch == self.epoch
        self._request_sync("missing")

    async def sync(self) -> None:
        """Make sure that the frontier is the log's head as of now. Raises StorageError.

        Syncs are shared: all who ask while one is running share the next. A sync goes on when its callers have gone.
        """
        if self._closed:
            raise StorageError("sync: the session is no longer followed here")
        if self._next_sync is None:
            self._next_sync = asyncio.create_task(self._sync_in_turn(), name=f"sync {self.session}")
            self._syncs.add(self._next_sync)
            self._next_sync.add_done_callback(self._sync_finished)
        sync = self._next_sync
        await asyncio.wait([sync])
        if sync.cancelled():
            raise StorageError("sync: the session is no longer followed here")
        sync.result()

    # How it syncs

    async def _sync_in_turn(self) -> None:
        async with self._sync_lock:
            self._next_sync = None
            try:
                await self._read_to_head()
            except Deleted:
                self._on_deleted()

    def _sync_finished(self, sync: asyncio.Task[None]) -> None:
        self._syncs.discard(sync)
        if self._next_sync is sync:
            self._next_sync = None  # cancelled before its turn
        if not sync.cancelled():
            sync.exception()  # marks it as retrieved: its callers may have gone; the next sync meets the same error

    async def _read_to_head(self) -> None:
        """Apply what the log has and we lack. Pub/sub goes on while we wait for a page: `asked` is from before."""
        if self.frontier == 0 and not self.deleted:
            # Keeps an empty session while it has viewers.
            await self._session_log.open(self.session, known=self.epoch, sub=self.sub)
        while not self.deleted:
            asked, newest = self.frontier, self.window.newest()
            page = await self._session_log.range(self.session, max(asked, 1))
            if page is None or page.epoch != self.epoch or self._is_others(page.epoch, page.sub) or self._out_of_order:
                await self._reload()
                return
            if (lost := "missing" if self._entries_missing else detect_loss(page, asked, newest)) is not None:
                await self._rotate_and_reload(lost, page.head)
                return
            if self.frontier < page.floor:
                await self._reload()  # what lies between was trimmed: only the whole log is still true
                return
            self.broadcast.flush()  # a viewer that falls behind what is known so far keeps the older version
            self.version = page.version
            self.sub = page.sub or self.sub  # within an epoch, somebody may become the owner of what was nobody's
            if self.frontier == asked and newest is None and page.entries and page.entries[0][0] == asked:
                self.window.add(*page.entries[0])  # for the next sync to compare with
            self._apply_all(page)
            if self.frontier >= page.head:
                return

    def _apply_all(self, page: Page) -> None:
        """Apply what of a page pub/sub has not brought meanwhile. Above the floor nothing is missing in it."""
        for seq, body in page.entries:
            if seq == self.frontier + 1:
                self._apply(seq, body)

    async def _rotate_and_reload(self, lost: LossKind, head: int) -> None:
        """In this epoch a seq would mean two events, or none: no cursor is valid any more."""
        _lost.log(session=self.session, epoch=self.epoch, lost=lost, frontier=self.frontier, head=head)
        await self._session_log.rotate(self.session, self.epoch, missing=lost == "missing")
        await self._reload()

    async def _watch(self) -> None:
        bug, failures = logging.FailureLog(logger, "follower_failed", session=self.session), 0
        while not self.deleted:
            await self._until_sync_needed(failures)
            self._sync_requested.clear()
            self._visibility.check_began()
            try:
                await self.sync()
                await self._recovery.seek_missing()
                await self._recovery.seek_orphans()
                _sync_failures.succeeded()
                bug.succeeded()
                failures = 0
                self._restore_if_complete()
            except StorageError as error:
                metrics.storage_errors.labels("follower").inc()
                _sync_failures.failed(error, session=self.session)
                failures += 1
            except Exception as error:  # a follower must not die silently: its viewers would never hear again
                metrics.bugs.labels("follower").inc()
                bug.unexpected(error)
                failures += 1

    async def _until_sync_needed(self, failures: int) -> None:
        """Wait until there is a reason to sync: a failure to retry, missing answers, or a request."""
        pause_s = self.missing.look_every_s if self.missing else None
        if failures:
            first, most = _RETRY_S
            pause_s = min(first * 2 ** min(failures - 1, 10), most) * random.uniform(0.5, 1)
        try:
            async with asyncio.timeout(pause_s):
                await self._sync_requested.wait()
        except TimeoutError:
            pass

    def _restore_if_complete(self) -> None:
        if not self.missing:
            self._visibility.restored()

    def _degraded(self) -> None:
        _degraded.log(session=self.session)
        self.broadcast.degraded()

    def _restored(self) -> None:
        _restored.log(level=INFO, session=self.session)
        self.broadcast.restored()

    def _watch_silence(self) -> None:
        """Sync when nothing has been heard for too long; one timer, armed for that moment."""
        if self._closed:
            return  # a sync was still running
        now = time.monotonic()
        every_s = SYNC_EVERY_S if self.active or self._expecting else IDLE_SYNC_S
        due_s = self._heard_at + every_s - now
        if due_s <= 0:
            self._heard_at, due_s = now, every_s
            self._expecting = False
            self._request_sync("silence")
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(due_s, self._watch_silence)

    async def _reload(self) -> None:
        """Show the whole log, up to its head, to every viewer: the epoch changed, or nothing less would be true.

        Events applied while we wait for the reply belong to the old state and are dropped with it.
        """
        opened = await self._opened()
        while opened.epoch in self._past_epochs:  # an old copy of Redis: seqs of that epoch were given twice since
            await self._session_log.rotate(self.session, opened.epoch, missing=False)
            opened = await self._opened()
        if self.epoch and self._is_others(opened.epoch, opened.sub):
            self._on_deleted()  # before anything of the new owner's is shown
            return
        self.sub = opened.sub
        if (opened.epoch, opened.head) == (self.epoch, self.frontier) and not self._out_of_order:
            return
        earlier, were_active, shown = self.epoch, self.active, self.frontier > 0
        self._reset_to(opened)
        if earlier:
            metrics.epochs.inc()
            _reloaded.log(session=self.session, epoch=opened.epoch, head=opened.head)
            if earlier != self.epoch:
                self._shown_before = self._shown_before or shown
                self._past_epochs.append(earlier)
                self.missing.add(
                    [one for name, one in were_active.items() if name not in self.active], time.monotonic()
                )
                self._visibility.lost()
            self.missing.reloaded(self.active)
            self.broadcast.restart()
            self._sync_requested.set()  # events may have been applied to the old epoch while we read the new one

    def _is_others(self, epoch: str, sub: str) -> bool:
        """Whether that is the owner of another session of this name.

        One of nobody's may get an owner, but not what was shown in an epoch before: perhaps it was somebody else's.
        """
        was_shown = self._shown_before or (epoch != self.epoch and self.frontier > 0)
        return sub != self.sub and (self.sub != "" or was_shown)

    async def _opened(self) -> Opened:
        # After a loss the session must not become anybody's: whoever finds out first restores its owner.
        opened = await self._session_log.open(self.session, known=self.epoch, sub=self.sub)
        if opened is None:
            raise StorageError("open: Redis did not make the session that it was asked to make")
        return opened

    def _on_deleted(self) -> None:
        """The session was deleted, or is another now: tell the viewers; nothing follows."""
        self.deleted = True
        self.broadcast.unsubscribed()

    def _reset_to(self, opened: Opened) -> None:
        # Another gateway may have rotated the log because of it already.
        self._entries_missing = self._entries_missing and opened.epoch == self.epoch
        self._out_of_order = False
        self.epoch, self.version = opened.epoch, opened.version
        self.frontier = opened.head
        self.broadcast.reset(opened.head)
        self.active = {known.generation: known for known in opened.active}
        self.window.clear()
        self._heard_at = time.monotonic()

    def _apply(self, seq: int, body: bytes) -> None:
        self._heard_at = time.monotonic()
        self._expecting = False
        try:
            self.window.add(seq, body)
            self.broadcast.add(seq, events.live_frame(self.session, seq, body))
        except OutOfOrder as error:
            metrics.bugs.labels("follower").inc()
            _events_out_of_order.unexpected(
                error, session=self.session, epoch=self.epoch, seq=seq, frontier=self.frontier
            )
            self._out_of_order = True
            self._request_sync("order")
            return
        self.frontier = seq
        self._track(events.read_header(body))

    def _track(self, header: events.Header) -> None:
        """Keep `active` and `missing` up to date."""
        if self.missing:
            self.missing.heard(header)
            if not self.missing:
                self._sync_requested.set()  # a sync confirms that all is well again; what was heard is flushed before
        generation, kind = header.generation, events.known(header.type)
        if generation is None or kind == "message":
            return
        if kind == "end":
            self.active.pop(generation, None)
            return
        known = self.active.get(generation)
        state = known.state if known else "queued"
        match kind:
            case "status":
                state = header.state
            case "restart":
                state = "retrying"
            case "tokens":
                state = "streaming"
            case "reasoning" | "data" | None:  # None: from a later release
                pass
            case _:
                assert_never(kind)
        if known is None or (known.attempt, known.state) != (header.attempt, state):
            self.active[generation] = Active(generation, header.attempt, state)
            if len(self.active) == 1:
                self._watch_silence()

    def _request_sync(self, cause: str) -> None:
        metrics.repairs.labels(cause).inc()
        self._sync_requested.set()
