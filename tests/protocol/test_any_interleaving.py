"""Whatever happens between a log and its viewers, all of them show the same; and none is ever silently wrong."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from relay.protocol import events
from relay_workers.writing.batching import Batch, Batcher, Kind
from tests.examples import tries
from tests.protocol.logs import STATES, TEXTS, VALUES, Body, Story, message
from tests.protocol.network import Life, Screen, state

NAMES = st.sampled_from(["g1", "g2", "g3"])
NUMBER = st.integers(0, 60)
SCREENS = 4


class Batching:
    """One attempt's tokens on their way into the log: batched, and divided after a reply that was lost."""

    def __init__(self, story: Story, size: int) -> None:
        self._story = story
        self._batcher = Batcher(size, 50, story.attempt)
        self._now_ms = 0.0

    def bodies(self, kind: Kind, texts: list[str], wait_ms: float, divide: int) -> list[Body]:
        for text in texts:
            self._batcher.add(kind, text, self._now_ms)
        self._now_ms += wait_ms
        batches = []
        while (batch := self._batcher.take(self._now_ms)) is not None:
            batches += _divided(batch, divide)
        return [self._body(batch) for batch in batches]

    def rest(self) -> list[Body]:
        self._batcher.close()
        batches = []
        while (batch := self._batcher.take(self._now_ms)) is not None:
            batches.append(batch)
        return [self._body(batch) for batch in batches]

    def _body(self, batch: Batch) -> Body:
        said = self._story.tokens if batch.kind == "tokens" else self._story.reasoning
        body = said(batch.texts)
        made = events.Tokens if batch.kind == "tokens" else events.Reasoning
        assert body == events.encode(
            made(self._story.generation, batch.attempt, batch.index, len(batch.texts), batch.text)
        )
        return body


def _divided(batch: Batch, at: int) -> list[Batch]:
    """The batch; or its halves; or, what a flush falls back to, its tokens."""
    if at % 3 == 0 or len(batch.texts) == 1:
        return [batch]
    return list(batch.singles()) if at % 3 == 1 else list(batch.split(1 + at % (len(batch.texts) - 1)))


class Interleaving(RuleBasedStateMachine):
    """The server of tests/protocol/network.py, up to four screens, and every fault that may lie between them."""

    def __init__(self) -> None:
        super().__init__()
        self.lives = [Life("e1")]
        self.stories: dict[str, Story] = {}
        self.batching: dict[str, Batching] = {}
        self.screens = [Screen(self.life)]
        self.screens[0].answer(self.life, self.stories)

    @property
    def life(self) -> Life:
        return self.lives[-1]

    # What is written

    @rule(name=NAMES, texts=st.lists(TEXTS, min_size=1, max_size=6), wait_ms=st.sampled_from([0, 10, 100]), at=NUMBER)
    def says(self, name: str, texts: list[str], wait_ms: float, at: int) -> None:
        self._write(name, lambda _, batching: batching.bodies("tokens", texts, wait_ms, at))

    @rule(name=NAMES, texts=st.lists(TEXTS, min_size=1, max_size=3), at=NUMBER)
    def reasons(self, name: str, texts: list[str], at: int) -> None:
        self._write(name, lambda _, batching: batching.bodies("reasoning", texts, 100, at))

    @rule(name=NAMES, status=st.sampled_from(STATES), value=VALUES, which=st.booleans())
    def notes(self, name: str, status: events.State, value: Any, which: bool) -> None:
        self._write(name, lambda story, _: [story.status(status) if which else story.data(value)])

    @rule(name=NAMES, skipped=st.integers(0, 2))
    def restarts(self, name: str, skipped: int) -> None:
        self._write(name, lambda story, _: [story.restart(skipped)])
        self.batching[name] = Batching(self.stories[name], 3)

    @rule(name=NAMES, reason=st.sampled_from(["complete", "stopped", "failed"]))
    def ends(self, name: str, reason: str) -> None:
        self._write(
            name, lambda story, batching: [*(batching.rest() if reason != "stopped" else []), story.end(reason)]
        )

    @rule(name=NAMES, piece_bytes=st.sampled_from([1, 200, 10_000]))
    def is_trimmed(self, name: str, piece_bytes: int) -> None:
        if name in self.stories and self.stories[name].ended:
            self.life.trim(name, piece_bytes)

    @precondition(lambda self: len(self.lives) < 4)
    @rule()
    def loses_everything(self) -> None:
        """A new epoch; whoever still writes says all of its attempt again, the others are gone."""
        life = Life(f"e{len(self.lives) + 1}")
        self.stories = {name: story for name, story in self.stories.items() if not story.ended}
        for story in self.stories.values():
            for body in story.again():
                life.write(body)
        self.lives.append(life)

    # What travels

    @rule(which=NUMBER, upto=NUMBER, merge=st.booleans(), room=st.sampled_from([0, 100, 2000]))
    def is_sent(self, which: int, upto: int, merge: bool, room: int) -> None:
        screen = self._screen(which)
        screen.send(screen.sent + 1 + upto, merge=merge, room=room)

    @rule(which=NUMBER, place=NUMBER, times=st.sampled_from([1, 1, 1, 2]))
    def comes_in_any_order(self, which: int, place: int, times: int) -> None:
        screen = self._screen(which)
        if screen.wire:
            frame = screen.wire.pop(0 if place < 30 else place % len(screen.wire))
            for _ in range(times):
                screen.take(frame)

    @rule(which=NUMBER, place=NUMBER)
    def comes_twice(self, which: int, place: int) -> None:
        screen = self._screen(which)
        if screen.wire:
            screen.take(screen.wire[place % len(screen.wire)])

    @rule(which=NUMBER, place=NUMBER)
    def is_lost(self, which: int, place: int) -> None:
        screen = self._screen(which)
        if screen.wire:
            screen.wire.pop(place % len(screen.wire))

    # What viewers do

    @precondition(lambda self: len(self.screens) < SCREENS)
    @rule(start=st.sampled_from(["start", "start", "live"]))
    def joins(self, start: str) -> None:
        self.screens.append(Screen(self.life, start=start))

    @rule(which=NUMBER)
    def reconnects(self, which: int) -> None:
        self._screen(which).ask()

    @rule(which=NUMBER)
    def is_answered(self, which: int) -> None:
        screen = self._screen(which)
        if screen.asked is not None:
            screen.answer(self.life, self.stories)

    @rule(which=NUMBER)
    def is_told(self, which: int) -> None:
        self._tell(self._screen(which))

    # What must be true

    @invariant()
    def nobody_is_silently_wrong(self) -> None:
        """What a screen shows is what the log was when it stood there."""
        for screen in self.screens:
            if screen.view.epoch is None or not screen.whole or screen.start == "live":
                continue
            life = next(life for life in self.lives if life.epoch == screen.view.epoch)
            if screen.view.last >= life.floor:  # below it pieces may hold what comes later
                assert state(screen.view) == life.shown[screen.view.last]

    def teardown(self) -> None:
        for screen in self.screens:
            self._catch_up(screen)
            assert screen.view.epoch == self.life.epoch
            assert screen.view.last == self.life.head
            assert not screen.view.unproven
            shown, truth = state(screen.view), self.life.shown[-1]
            if screen.whole and screen.start == "start":
                assert shown == truth
            for name, known in screen.view.generations.items():
                whole = truth["generations"][name][3] if name in truth["generations"] else ""
                assert whole == known.text or (known.partial and whole.endswith(known.text))

    def _catch_up(self, screen: Screen) -> None:
        """A network that is whole again: few rounds are enough."""
        for _ in range(4):
            if screen.asked is not None:
                screen.answer(self.life, self.stories)
            self._tell(screen)
            screen.send(self.life.head, merge=False, room=0)
            while screen.wire and screen.asked is None:
                screen.take(screen.wire.pop(0))
            if screen.asked is None and screen.view.last == self.life.head:
                return
            if screen.asked is None:
                screen.ask()  # what it lacks was lost, and nothing behind it has shown that

    def _tell(self, screen: Screen) -> None:
        if screen.life is not self.life or 0 < screen.sent < self.life.floor:
            screen.tell(self.life, self.stories)

    def _write(self, name: str, bodies: Any) -> None:
        if name not in self.stories:
            self.stories[name] = Story(name)
            self.batching[name] = Batching(self.stories[name], 3)
            self.life.write(message(name))
            self.life.write(self.stories[name].status("queued"))
        if not self.stories[name].ended:
            for body in bodies(self.stories[name], self.batching[name]):
                self.life.write(body)

    def _screen(self, which: int) -> Screen:
        return self.screens[which % len(self.screens)]


Interleaving.TestCase.settings = tries(80, steps=60)
TestInterleaving = Interleaving.TestCase
