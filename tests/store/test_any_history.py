"""Whatever workers, Redis' clock, pub/sub and viewers do: the log holds what its rightful writers wrote, each token
once and in order, and every viewer ends with just that. Real scripts, real follower."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from relay.store.session.replies import Claim
from tests.examples import tries
from tests.follow.following import Recorder, Stage
from tests.store.hands import Call, ExpectedAnswer, Fate, WorkerModel
from tests.store.in_memory import LEASE_MS, Clock, head, job_of, redis_in_memory, session_log_on, snapshot

T = TypeVar("T")

NAMES = st.sampled_from(["g1", "g1", "g1", "g2"])
NUMBER = st.integers(0, 30)
TEXTS = st.lists(st.sampled_from(["a", "bb ", "日本", "😀", '"\n']), min_size=1, max_size=5)
FATES: st.SearchStrategy[Fate] = st.sampled_from(["ok", "ok", "ok", "lost", "fails", "late"])
VIEWERS = 4


class History(RuleBasedStateMachine):
    """One session with two answers. `late`: calls that are still on their way, or will come a second time."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.patch = pytest.MonkeyPatch()
        self.clock = Clock()
        self.clock.install(self.patch)
        self.answers: dict[str, ExpectedAnswer] = {}
        self.late: list[Call] = []
        self.lost: list[bytes] = []
        self.looks: list[asyncio.Task[None]] = []
        self.chance = random.Random(0)  # how long Redis takes to hear the follower, and to be heard
        self.stage = self._do(self._staged())

    async def _staged(self) -> Stage:
        redis = redis_in_memory()
        stage = Stage(redis, session_log_on(redis), window_bytes=300, chance=self.chance)
        await stage.follower.start()
        stage.viewer()
        return stage

    @initialize(seed=st.integers(0, 10**6))
    def is_some_way_off(self, seed: int) -> None:
        self.chance.seed(seed)

    # Workers

    @rule(name=NAMES, waits=st.sampled_from([True, True, False]))
    def is_claimed(self, name: str, waits: bool) -> None:
        """By another worker, whether or not the last one is alive."""
        answer = self._answer(name)
        if waits:
            self.clock.advance(ms=LEASE_MS)
        claim = self._do(self.stage.log.claim("s", name, f"w{len(answer.holders)}", LEASE_MS, 0))
        if not isinstance(claim, Claim):
            assert claim.why == ("ended" if answer.ended else "leased")
            assert answer.ended or not waits
            return
        assert not answer.ended
        assert self.clock.now_ms >= answer.leased_until_ms, "taken from a worker that was alive"
        WorkerModel(self.stage.log, self.clock, answer, claim)

    @rule(name=NAMES, which=NUMBER, texts=TEXTS)
    def says(self, name: str, which: int, texts: list[str]) -> None:
        for hand in self._hands(name, which):
            hand.says(texts)

    @rule(name=NAMES, which=NUMBER, restarts=st.booleans())
    def notes_or_restarts(self, name: str, which: int, restarts: bool) -> None:
        for hand in self._hands(name, which):
            hand.restarts() if restarts else hand.notes()

    @rule(name=NAMES, which=NUMBER, fates=st.lists(FATES, min_size=1, max_size=4))
    def writes(self, name: str, which: int, fates: list[Fate]) -> None:
        """Tries of the write in hand, and of what follows it."""
        for hand in self._hands(name, which):
            for fate in fates:
                self._later(self._do(hand.tries(fate)))

    @rule(name=NAMES, which=NUMBER, singles=st.booleans())
    def falls_back(self, name: str, which: int, singles: bool) -> None:
        for hand in self._hands(name, which):
            hand.divides(singles=singles)

    @rule(name=NAMES, which=NUMBER, fate=FATES)
    def ends(self, name: str, which: int, fate: Fate) -> None:
        for hand in self._hands(name, which):
            self._later(self._do(hand.ends(fate)))

    @precondition(lambda self: self.late)
    @rule(place=NUMBER, again=st.booleans())
    def comes_late(self, place: int, again: bool) -> None:
        place %= len(self.late)
        self._do(self.late[place]() if again else self.late.pop(place)())  # type: ignore[arg-type]

    @rule(name=NAMES)
    def is_stopped(self, name: str) -> None:
        stopped = self._do(self.stage.log.stop("s", name))
        if name not in self.answers:
            assert stopped is None
            return
        answer = self.answers[name]
        assert stopped is not None
        assert stopped.already_ended == (answer.ended is not None)
        answer.ended = answer.ended or "stopped"

    @rule(name=NAMES)
    def is_trimmed(self, name: str) -> None:
        self._do(self.stage.log.trim("s", name))

    # Pub/sub

    @rule(place=NUMBER)
    def is_heard(self, place: int) -> None:
        self._overhear()
        if in_flight := self.stage.in_flight:
            self._say(in_flight.pop(0 if place < 20 else place % len(in_flight)))

    @rule(place=NUMBER, twice=st.booleans())
    def is_not_heard_or_twice(self, place: int, twice: bool) -> None:
        self._overhear()
        if in_flight := self.stage.in_flight:
            place %= len(in_flight)
            self._say(in_flight[place]) if twice else self.lost.append(in_flight.pop(place))

    @rule()
    def is_subscribed_again(self) -> None:
        assert self.stage.source.listener is not None
        self._in_loop(self.stage.source.listener.acknowledged)

    @rule(cancelled=st.sampled_from([False, False, False, True]))
    def is_looked_at(self, cancelled: bool) -> None:
        """Whatever comes next, comes while the look is under way; whoever asked for it may leave before it is over."""

        async def look() -> None:
            self.looks.append(asyncio.create_task(self.stage.follower.sync()))

        self._do(look())
        if cancelled:
            self.looks[-1].cancel()

    # Viewers

    @rule(which=NUMBER)
    def joins_or_comes_back(self, which: int) -> None:
        """With its cursor; below the floor, or ahead of what is heard, that is not honoured."""
        if len(self.stage.viewers) < VIEWERS:
            self._in_loop(self.stage.viewer)
            return
        viewer = self._viewer(which)
        self._do(viewer.leave())
        cursor = viewer.view.cursor
        self._in_loop(lambda: viewer.join((cursor.epoch, cursor.seq) if cursor else None))

    @rule(which=NUMBER, slow=st.booleans())
    def is_slow_or_drains(self, which: int, slow: bool) -> None:
        viewer = self._viewer(which)
        if slow:
            viewer.slow = True
        else:
            self._in_loop(viewer.drain)

    @rule(turns=st.integers(1, 5))
    def time_passes(self, turns: int) -> None:
        async def turn() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)

        self._do(turn())

    # What must be true

    @invariant()
    def the_log_holds_what_its_rightful_writers_wrote(self) -> None:
        for name, answer in self.answers.items():
            found = self._do(snapshot(self.stage.log, name))
            assert (found["text"], found["attempt"]) == (answer.text, answer.attempt)
            assert (found["state"] == "ended") == (answer.ended is not None)
            assert found.get("reason") == answer.ended

    def teardown(self) -> None:
        try:
            self._do(self._everybody_agrees())
        finally:
            self._do(self.stage.aclose())
            self._do(self.stage.redis.aclose())
            self.loop.close()
            self.patch.undo()

    async def _everybody_agrees(self) -> None:
        for outcome in await asyncio.gather(*self.looks, return_exceptions=True):
            assert outcome is None or isinstance(outcome, asyncio.CancelledError)
        await self.stage.everybody_has_everything()
        self.stage.source.say(*self.lost, *self.stage.in_flight)  # all of it once more, and late
        await self.stage.everybody_has_everything()
        for viewer in self.stage.viewers:
            assert viewer.view.last == await head(self.stage.log)
            assert not viewer.view.unproven
            assert set(viewer.view.generations) == set(self.answers)
            for name, shown in viewer.view.generations.items():
                answer = self.answers[name]
                assert (shown.text, shown.attempt) == (answer.text, answer.attempt)
                assert (shown.end and shown.end["reason"]) == answer.ended

    # Its hands

    def _do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(coroutine)

    def _in_loop(self, callback: Any) -> None:
        async def call() -> None:
            callback()

        self._do(call())

    def _say(self, payload: bytes) -> None:
        self._in_loop(lambda: self.stage.source.say(payload))

    def _answer(self, name: str) -> ExpectedAnswer:
        if name not in self.answers:
            admitted = self._do(self.stage.log.admit(job_of(name)))
            assert admitted is not None
            assert admitted.fresh
            self.answers[name] = ExpectedAnswer(name)
        return self.answers[name]

    def _hands(self, name: str, which: int) -> list[WorkerModel]:
        """The rightful one mostly; now and then one that has lost its claim and does not know it."""
        holders = self.answers[name].holders if name in self.answers else []
        return [holders[-1 if which < 20 else which % len(holders)]] if holders else []

    def _later(self, call: Call | None) -> None:
        if call is not None:
            self.late.append(call)

    def _overhear(self) -> None:
        self._do(self.stage.overhear())

    def _viewer(self, which: int) -> Recorder:
        return self.stage.viewers[which % len(self.stage.viewers)]


History.TestCase.settings = tries(25, steps=30)
TestHistory = History.TestCase
