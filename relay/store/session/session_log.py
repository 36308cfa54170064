"""The session log: all reads and writes of a session's slot in Redis.

The scripts decide (each file in lua/ says what, and why it is atomic); this class gives names and types to their
arguments and replies. Every method raises StorageError when Redis does not answer.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Iterable
from typing import Any, get_args

import msgspec

from relay.protocol import events
from relay.protocol.frames import Active
from relay.protocol.words import Reason, new_epoch
from relay.redis.address import Endpoint
from relay.redis.connections import AnyRedis, call, publish_verb, server_of
from relay.redis.read_limiter import ReadLimiter
from relay.store.jobs import Job
from relay.store.keys import Keys
from relay.store.scripts import Argument, Script, read_atomically, session_script
from relay.store.session.replies import (
    Admitted,
    AttemptProgress,
    Buried,
    Claim,
    ClaimRefused,
    Deleted,
    Moment,
    Opened,
    Page,
    RebuildResult,
    Request,
    Running,
    Span,
    Stopped,
    What,
    WhyRefused,
    WriteOutcome,
)  # fmt: skip
from relay.store.session.snapshots import Snapshots
from relay.store.session.versions import Trim

EMPTY_SESSION_TTL_S = 60
PAGE_BYTES = 1024 * 1024
MAX_TOMBSTONES = 2000
REFUSED_MS = 600_000  # how long a job that found no room stays refused; any other admit of it comes sooner
TRIM_ENTRIES = 500
TRIM_BYTES = 1024 * 1024
PIECE_BYTES = 64 * 1024
MAX_PIECES = 2000  # of a generation; `range` goes through them

# The words that scripts reply with; any other is our bug.
_WHAT: dict[bytes, What] = {word.encode(): word for word in get_args(What)}
_WHY_REFUSED: dict[bytes, WhyRefused] = {word.encode(): word for word in get_args(WhyRefused)}
_BURIED: dict[bytes, Buried] = {word.encode(): word for word in get_args(Buried)}


class Append(msgspec.Struct, frozen=True):
    """One event to append. `index`: of its first token; for a restart, the new attempt. `count`: of its tokens.

    `text`: of its tokens; for a status, the state. `text_bytes` and `crc32`: of the attempt's text with this batch.
    """

    kind: str
    body: bytes
    index: int = 0
    count: int = 0
    text: str = ""
    text_bytes: int = 0
    crc32: int = 0


class SessionLog:
    """Sessions under one prefix. `append` is the client for a worker's writes, `commands` for everything else.

    `snapshots`: what a session holds as of one moment.
    """

    def __init__(
        self,
        commands: AnyRedis,
        append: AnyRedis,
        keys: Keys,
        *,
        session_ttl_s: int,
        max_generations: int,
        max_requests: int,
        publish_verb: str | None = None,
        leases: AnyRedis | None = None,
    ) -> None:
        self.keys = keys
        self.snapshots = Snapshots(commands, keys, self.moment)
        self._commands = commands
        self._append = append
        self._leases = leases or append  # a renewal waits for no append
        self._ttl_ms = session_ttl_s * 1000
        self._verb = publish_verb  # None: the one that this kind of Redis needs
        self._bounds = (max_generations, max_requests)
        self._read_limiters: dict[Endpoint | None, ReadLimiter] = {}

    # What gateways do

    def answered_at(self, session: str) -> float:
        """When the server of this session last answered a read, by `timeouts.now`."""
        return self._limiter_of(session).answered_at

    async def open(self, session: str, *, create: bool = True, known: str = "", sub: str = "") -> Opened | None:
        """The state to begin following with. Makes the session if need be; without `create`, returns None instead.

        `sub`: its owner if this makes it, or finds it without events and without an owner.
        Raises Deleted if the session was deleted recently in the epoch `known`.
        """
        epoch = new_epoch() if create else ""
        reply = await self._read(_OPEN, session, epoch, EMPTY_SESSION_TTL_S * 1000, known, sub)
        if not reply:
            return None
        if reply[0] == b"deleted":
            raise Deleted
        epoch, head, floor, flat, trims, owner = reply
        names = [item.decode() for item in flat]
        active = [
            Active(name, int(attempt), state)
            for name, attempt, state in zip(names[::3], names[1::3], names[2::3], strict=True)
        ]
        return Opened(epoch.decode(), int(head), int(floor), active, int(trims), owner.decode())

    async def own(self, session: str, sub: str, *, make: bool) -> bool:
        """Whether it is theirs; `make`: it becomes theirs if it does not exist, or is nobody's and has no events."""
        opened = await self.open(session, create=make, sub=sub)
        return opened is not None and opened.sub == _name(sub)

    async def range(
        self, session: str, first: int, last: int | None = None, page_bytes: int = PAGE_BYTES
    ) -> Page | None:
        """One page of events from `first` on; None if the session does not exist."""
        reply = await self._read(_RANGE, session, first, "+" if last is None else last, page_bytes)
        if not reply:
            return None
        epoch, head, floor, flat, trims, sub, *rest = reply
        entries = [(int(seq), body) for seq, body in zip(flat[::2], flat[1::2], strict=True)]
        changes = tuple(map(Trim._make, zip(*(map(int, rest[column::3]) for column in range(3)), strict=True)))
        return Page(epoch.decode(), int(head), int(floor), entries, int(trims), changes, sub.decode())

    async def moment(self, session: str, limit: int, sub: str | None = None) -> Moment | None:
        """What it holds now, the newest `limit` of it; None if the session does not exist, or is not that of `sub`."""
        reply = await self._read(_MOMENT, session, limit, _only(sub))
        if not reply:
            return None
        epoch, head, generations, completed, flat = reply
        running = {
            name.decode(): Running(int(attempt), state.decode(), *map(int, counts))
            for name, attempt, state, *counts in zip(*(flat[column::6] for column in range(6)), strict=True)
        }
        newest, finished = ([name.decode() for name in found] for found in (generations, completed))
        return Moment(epoch.decode(), int(head), newest, finished, running)

    async def find_request(self, session: str, request_id: str) -> tuple[str, str] | None:
        """(generation, body hash) of an admitted request_id. Raises Deleted if it was deleted with its session."""
        found = await self.look_up(session, request_id)
        if found.deleted:
            raise Deleted
        return found.known

    async def look_up(self, session: str, request_id: str) -> Request:
        """What is known of a request_id, and whose the session is, at one moment."""
        value, deleted, (epoch, seq, sub) = await read_atomically(
            self._commands,
            ("HGET", self.keys.session(session, "requests"), request_id),
            ("ZSCORE", self.keys.session(session, "deleted"), f"r {request_id}"),
            ("HMGET", self.keys.session(session), "epoch", "seq", "sub"),
        )
        generation, _, body_hash = value.decode().partition(" ") if value is not None else ("", "", "")
        return Request(
            (generation, body_hash) if value is not None else None,
            deleted is not None,
            sub.decode() if sub is not None else "",
            epoch is None or (sub is None and seq == b"0"),
        )

    async def is_forgotten(self, session: str, request_id: str, generation: str) -> bool:
        """Whether only the request_id is left of a generation: it has ended, and was dropped by `max_generations`.

        A generation that Redis has lost is still listed in `generations`, or has lost its request_id as well.
        """
        known, state, position = await read_atomically(
            self._commands,
            ("HGET", self.keys.session(session, "requests"), request_id),
            ("HGET", self.keys.generation(session, generation), "state"),
            ("ZSCORE", self.keys.session(session, "generations"), generation),
        )
        return known is not None and known.decode().split(" ")[0] == generation and state is None and position is None

    async def span(self, session: str, generation: str, sub: str | None = None) -> Span | None:
        """None: there is no such generation, or the session is not that of `sub`."""
        (epoch, owner), first, (state, last) = await read_atomically(
            self._commands,
            ("HMGET", self.keys.session(session), "epoch", "sub"),
            ("ZSCORE", self.keys.session(session, "generations"), generation),
            ("HMGET", self.keys.generation(session, generation), "state", "last"),
        )
        if epoch is None or first is None or state is None:  # a lost one is still listed in `generations`
            return None
        if sub is not None and owner != sub.encode():
            return None
        return Span(epoch.decode(), int(float(first)), int(last) if last is not None else None)

    async def user_turn(self, session: str, generation: str, sub: str | None = None) -> tuple[str, str] | None:
        """(message_id, content) of the question that a generation answers; None as for `span`."""
        key = self.keys.generation(session, generation)
        (message_id, content), owner = await read_atomically(
            self._commands, ("HMGET", key, "message_id", "content"), ("HGET", self.keys.session(session), "sub")
        )
        if message_id is None or (sub is not None and owner != sub.encode()):
            return None
        return message_id.decode(), content.decode()

    async def admit(self, job: Job) -> Admitted | None:
        """Make the job's generation, once per request_id. None: `max_generations` are active already."""
        reply = await self._run(
            _ADMIT, job.session, new_epoch(), job.generation, job.request_id, job.body_hash, job.message_event(),
            job.queued_event(), *self._bounds, job.sub, *_flatten(_stored_fields(job)),
        )  # fmt: skip
        what, *rest = (item.decode() for item in reply)
        if what == "full":
            return None
        return Admitted(what == "admitted", *rest)

    async def admit_or_refuse(self, job: Job) -> Admitted | None:
        """Like `admit`, but None is final: nothing can admit it any more, and its job may be dropped."""
        while (admitted := await self.admit(job)) is None:
            what = await self._run(_REFUSE, job.session, job.generation, MAX_TOMBSTONES, REFUSED_MS)
            if what[0] == b"refused":
                return None
        return admitted  # perhaps by another process, which found room a moment later

    async def stop(self, session: str, generation: str, sub: str | None = None) -> Stopped | None:
        """End it as `stopped` now, whatever its worker does. None as for `span`."""
        what, *rest = await self._run(_STOP, session, generation, _only(sub))
        if what == b"unknown":
            return None
        ended = what == b"ended"
        return Stopped(generation, ended, *(item.decode() for item in rest))

    async def delete(
        self,
        session: str,
        tombstone_ms: int,
        epochs: Iterable[str] = (),
        generations: Iterable[str] = (),
        sub: str | None = None,
    ) -> list[Stopped] | None:
        """End what runs and forget everything. None: there is no such session, or none of `sub`, and was none lately.

        Returns what ran, and, as already ended, what is in the dead letters.
        `epochs` and `generations`: what the caller has shown of it. It must not come back either if Redis has lost it.
        """
        tombstones = [f"e {epoch}" for epoch in epochs] + [f"g {generation}" for generation in generations]
        what, *rest = await self._run(_DELETE, session, tombstone_ms, MAX_TOMBSTONES, _only(sub), *tombstones)
        if what == b"unknown":
            return None
        names = [item.decode() for item in rest]
        found = zip(names[::4], names[1::4], names[2::4], names[3::4], strict=True)
        return [Stopped(generation, what == "dead", owner, queue) for generation, what, owner, queue in found]

    async def rotate(self, session: str, epoch: str, *, missing: bool) -> None:
        """Begin a new epoch: Redis has lost a part of `epoch`; `missing`: entries in the middle of its log."""
        await self._run(_ROTATE, session, epoch, new_epoch(), int(missing))

    async def bury(
        self,
        session: str,
        generation: str,
        attempt: int,
        members: bytes,
        reason: Reason = "failed",
        sub: str = "",
    ) -> Buried:
        """End a lost generation of a session of `sub`, unless it is back, or its session is gone."""
        reply = await self._run(_BURY, session, generation, attempt, _without_braces(members), new_epoch(), reason, sub)
        return _BURIED[reply[0]]

    # What workers do

    async def claim(
        self, session: str, generation: str, worker: str, lease_ms: int, history_turns: int
    ) -> Claim | ClaimRefused:
        asked_s = time.monotonic()
        reply = await self._run(_CLAIM, session, generation, worker, lease_ms, history_turns)
        what, *rest = reply
        if what != b"claimed":
            return ClaimRefused(_WHY_REFUSED[what], int(rest[0]) if rest else 0)
        fence, attempt, shown, history, epoch, head, accepted, claimed, (handle, *counts) = rest
        return Claim(
            int(fence),
            int(attempt),
            shown == b"1",
            [item.decode() for item in history],
            epoch.decode(),
            int(head),
            {"accepted": int(accepted), "claimed": int(claimed)},
            AttemptProgress(handle.decode(), *map(int, counts)),
            asked_s,
        )

    async def append(
        self, session: str, generation: str, fence: int, n: int, lease_ms: int, event: Append
    ) -> WriteOutcome:
        """Append one event, exactly once."""
        reply = await self._write(
            _APPEND, session, generation, fence, n, lease_ms, event.kind, event.body, event.index, event.count,
            event.text, event.text_bytes, event.crc32,
        )  # fmt: skip
        return self._outcome(reply)

    async def end(
        self,
        session: str,
        generation: str,
        fence: int,
        reason: Reason,
        members: bytes,
        count: int,
        message_id: str = "",
        last_acked: int = 0,
    ) -> WriteOutcome:
        """The worker's `end`. `members`: a JSON object of what only the worker knows. `last_acked`: as for `renew`."""
        return self._outcome(
            await self._write(
                _END, session, generation, fence, reason, _without_braces(members), count, message_id, last_acked
            )
        )

    async def since_stop_ms(self, session: str, generation: str) -> int | None:
        """How long ago it was stopped, by Redis' clock. None: it was not stopped, or is forgotten."""
        key = self.keys.generation(session, generation)
        (reason, over), (seconds, microseconds) = await read_atomically(
            self._commands, ("HMGET", key, "reason", "over"), ("TIME",)
        )
        return int(seconds) * 1000 + int(microseconds) // 1000 - int(over) if reason == b"stopped" else None

    async def renew(
        self, session: str, generation: str, fence: int, lease_ms: int, last_acked: int = 0, resume_handle: str = ""
    ) -> WriteOutcome:
        """`last_acked`: the number of the last acknowledged append. `resume_handle`: kept for the next worker.

        A renewal counts as `written`, without a seq.
        """
        reply = await self._script(
            self._leases, _RENEW, session, generation, fence, lease_ms, last_acked, resume_handle
        )
        return WriteOutcome("written" if reply[0] == b"renewed" else _WHAT[reply[0]])

    async def rebuild(
        self, job: Job, fence: int, worker: str, lease_ms: int, epochs: Iterable[str], seq: int, times: dict[str, int]
    ) -> RebuildResult | WriteOutcome:
        """Make a generation again that Redis has lost, all or in part, while `worker` held it under `fence`.

        `epochs`: those that it has written in; `seq`: of its last acknowledged write. `times`: those of the claim.
        """
        fields = _stored_fields(job) | {name: str(at_ms) for name, at_ms in times.items()}
        what, *rest = await self._write(
            _REBUILD, job.session, job.generation, fence, worker, lease_ms, f" {' '.join(epochs)} ", seq, new_epoch(),
            job.request_id, job.body_hash, job.message_event(), job.queued_event(), job.sub, *_flatten(fields),
        )  # fmt: skip
        if what != b"rebuilt":
            return WriteOutcome(_WHAT[what])
        new_fence, epoch, head, attempt, *counts = rest
        return RebuildResult(int(new_fence), epoch.decode(), int(head), int(attempt), *map(int, counts))

    async def release(self, session: str, generation: str, fence: int) -> bool:
        """Give up the claim, if it is still held. False: Redis has lost the generation."""
        reply = await self._run(_RELEASE, session, generation, fence)
        return bool(reply[0] != b"unknown")

    # What reapers do

    async def generation_fields(self, session: str, generation: str) -> dict[str, str] | None:
        """state, fence, claims, handed, lease, claimed, accepted, queue, owner, attempt, dead, language, unserved.

        Fields that are not stored are left out. None: it was not admitted, or Redis has lost its session.
        """
        names = [
            "state", "fence", "claims", "handed", "lease", "claimed", "accepted", "queue", "owner", "attempt", "dead",
            "language", "unserved",
        ]  # fmt: skip
        exists, values = await read_atomically(
            self._commands,
            ("EXISTS", self.keys.session(session)),
            ("HMGET", self.keys.generation(session, generation), *names),
        )
        if not exists or values[0] is None:
            return None
        return {name: value.decode() for name, value in zip(names, values, strict=True) if value is not None}

    async def reap(self, session: str, generation: str, fence: str, members: bytes, dead: str = "") -> bool:
        """End it as `failed` unless it was claimed meanwhile. True if it has ended now, by this call or another.

        `dead`: why its job belongs in the dead letters; "": it does not.
        """
        what = (await self._run(_REAP, session, generation, fence, _without_braces(members), dead))[0]
        return bool(what != b"alive")

    async def unserved(self, session: str, generation: str) -> bool:
        """Tell its viewers that no living worker serves its queue. False: they know, or a worker has claimed it."""
        body = events.encode(events.Status(generation, 1, "queued", "no_worker"))
        return bool((await self._run(_UNSERVED, session, generation, body))[0] == b"written")

    async def dead(self, session: str, generation: str) -> str:
        """Why the job of an ended generation belongs in the dead letters; "" if it does not."""
        found = await call(self._commands, "HGET", self.keys.generation(session, generation), "dead")
        return found.decode() if found is not None else ""

    async def trim(self, session: str, generation: str) -> bool:
        """Merge a page of an ended generation's batches; True if there are more."""
        reply = await self._run(_TRIM, session, generation, TRIM_ENTRIES, PIECE_BYTES, TRIM_BYTES, MAX_PIECES)
        return bool(reply[0] == b"more")

    async def _read(self, script: Script, session: str, *arguments: Argument) -> Any:
        async with self._limiter_of(session).slot():
            return await self._run(script, session, *arguments)

    def _limiter_of(self, session: str) -> ReadLimiter:
        server = server_of(self._commands, self.keys.session(session))
        if server not in self._read_limiters:
            self._read_limiters[server] = ReadLimiter()
        return self._read_limiters[server]

    def _run(self, script: Script, session: str, *arguments: Argument) -> Awaitable[Any]:
        return self._script(self._commands, script, session, *arguments)

    def _write(self, script: Script, session: str, *arguments: Argument) -> Awaitable[Any]:
        return self._script(self._append, script, session, *arguments)

    async def _script(self, redis: AnyRedis, script: Script, session: str, *arguments: Argument) -> Any:
        verb = self._verb or await publish_verb(redis)
        return await script(redis, self.keys.session(session), session, self._ttl_ms, verb, *arguments)

    @staticmethod
    def _outcome(reply: list[bytes]) -> WriteOutcome:
        seq = int(reply[1]) if len(reply) > 1 else 0
        epoch = reply[2].decode() if len(reply) > 2 else ""
        return WriteOutcome(_WHAT[reply[0]], seq, epoch)


def _stored_fields(job: Job) -> dict[str, str]:
    fields = {
        "queue": job.queue,
        "message_id": job.message_id,
        "content": job.content,
        "retry_of": job.retry_of,
        "metadata": msgspec.json.encode(job.metadata).decode() if job.metadata is not None else None,
        "language": job.language,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _only(sub: str | None) -> str:
    """Whose a session must be, as scripts take it: "" is anybody's."""
    return "" if sub is None else _name(sub)


def _name(sub: str) -> str:
    if not sub:
        raise ValueError("an owner has a name")
    return sub


def _flatten(fields: dict[str, str]) -> list[str]:
    return [part for pair in fields.items() for part in pair]


def _without_braces(members: bytes) -> bytes:
    """A JSON object without its braces, to splice into another."""
    return members[1:-1]


_OPEN = session_script("open")
_MOMENT = session_script("moment")
_ADMIT = session_script("admit")
_CLAIM = session_script("claim")
_APPEND = session_script("append")
_END = session_script("end")
_REFUSE = session_script("refuse")
_STOP = session_script("stop")
_DELETE = session_script("delete")
_REAP = session_script("reap")
_UNSERVED = session_script("unserved")
_TRIM = session_script("trim")
_REBUILD = session_script("rebuild")
_ROTATE = session_script("rotate")
_BURY = session_script("bury")
_RENEW = session_script("renew")
_RELEASE = session_script("release")
_RANGE = session_script("range")
