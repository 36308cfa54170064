"""Replies of the session log: one type for each kind."""

from __future__ import annotations

from typing import Literal, NamedTuple

from relay.protocol.frames import Active
from relay.store.session.versions import LogVersion, Trim


class Deleted(Exception):
    """The epoch that the caller followed, or the request that it asked about, was deleted with its session."""


class Opened(NamedTuple):
    """A session at one moment; `floor`: at and below this seq the log cannot be replayed from the middle.

    `trims`: how often some of its entries were merged or removed. `sub`: the session's owner, "" if nobody.
    """

    epoch: str
    head: int
    floor: int
    active: list[Active]
    trims: int = 0
    sub: str = ""

    @property
    def version(self) -> LogVersion:
        return LogVersion(self.floor, self.trims)


class Running(NamedTuple):
    """How much of an unfinished answer there was at some moment; within an epoch an attempt only grows."""

    attempt: int
    state: str
    text_bytes: int
    reasoning_bytes: int
    data: int


class Moment(NamedTuple):
    """What a session held at one moment: ids by submit, ids by completion, and the unfinished ones."""

    epoch: str
    head: int
    generations: list[str]
    completed: list[str]
    running: dict[str, Running]


class Page(NamedTuple):
    """Entries (seq, body) of one range read, with head, version (versions.py) and `sub` (`Opened`) at that moment."""

    epoch: str
    head: int
    floor: int
    entries: list[tuple[int, bytes]]
    trims: int = 0
    changes: tuple[Trim, ...] = ()
    sub: str = ""

    @property
    def version(self) -> LogVersion:
        return LogVersion(self.floor, self.trims, self.changes)


class Request(NamedTuple):
    """What a session knows of a request_id. `known`: the generation that it made, and its body hash.

    `deleted`: it went with its session. `sub`: the session's owner, "" if nobody. `is_free`: who asks may become that,
    as the session does not exist, or is nobody's and has no events.
    """

    known: tuple[str, str] | None
    deleted: bool
    sub: str
    is_free: bool


class Admitted(NamedTuple):
    """`fresh`: this call made the generation. Otherwise `generation` is the one that holds the request_id.

    `state`: also `deleted`, `forgotten`, and `foreign`: the session is not that of the job's `sub`.
    """

    fresh: bool
    generation: str
    body_hash: str
    state: str

    def accepts(self, generation: str) -> bool:
        """Whether the job's generation exists and is its own; otherwise the job must be dropped."""
        return self.generation == generation and self.state not in ("deleted", "forgotten", "foreign")


class AttemptProgress(NamedTuple):
    """How far the previous worker got in its attempt: tokens and data written, crc32 of the text, resume handle."""

    resume_handle: str
    tokens: int
    reasoning: int
    crc32: int
    data: int = 0


class Claim(NamedTuple):
    """The right to write a generation. `shown`: the attempt has shown something that a restart must void.

    `times`: when it was accepted and first claimed, by Redis' clock in ms. `asked_s`: when the claim was asked for, by
    this process's `time.monotonic`: the lease began then or later. `fresh`: this worker has admitted the generation
    itself, or may have, so nobody else has checked that its job still has a row.
    """

    fence: int
    attempt: int
    shown: bool
    history: list[str]
    epoch: str
    head: int
    times: dict[str, int]
    progress: AttemptProgress = AttemptProgress("", 0, 0, 0)
    asked_s: float = 0.0
    fresh: bool = False


Buried = Literal["buried", "known", "deleted"]  # by this call; it exists, running or ended; its session is gone


class RebuildResult(NamedTuple):
    """What the log has of a rebuilt generation: its attempt, and counts of text tokens, reasoning tokens and data.

    `crc32`: of that text.
    """

    fence: int
    epoch: str
    head: int
    attempt: int
    tokens: int
    reasoning: int
    data: int
    crc32: int


WhyRefused = Literal["unknown", "ended", "leased"]


class ClaimRefused(NamedTuple):
    """A claim that was not granted; `leased`: another worker holds it for `left_ms` more."""

    why: WhyRefused
    left_ms: int = 0


What = Literal["written", "repeated", "stale", "ended", "unknown", "behind"]


class WriteOutcome(NamedTuple):
    """What became of a write; `unknown`, `behind`: Redis has lost something.

    `seq` and `epoch`: of the event, if it was written.
    """

    what: What
    seq: int = 0
    epoch: str = ""


class Stopped(NamedTuple):
    """`owner`: the worker to notify, if one has it; `queue`: where its job is."""

    generation: str
    already_ended: bool
    owner: str = ""
    queue: str = ""


class Span(NamedTuple):
    """Where a generation is in its log: the seqs of its first event and of its end, if it has ended."""

    epoch: str
    first: int
    last: int | None
