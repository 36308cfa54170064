"""The sessions under soak: each asks one question after the other, and every viewer of it is asked what it shows."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import cycle

from relay.protocol.view import FrameDict
from tests.fakes.provider import FakeProvider
from tests.fakes.script import Body, Script, prompt_of
from tests.scenarios.client import Client
from tests.soak.figures import Tally
from tests.soak.fleet import Fleet
from tests.soak.viewer import End, Viewer, ended

SLOW_S = 60.0  # an answer that takes longer is counted; under faults that is no broken promise
NEVER_S = 1e6
_AGAIN_S = 0.2
_WORDS = ["one ", "zwei ", "три ", "四", "🙂 ", "e\u0301 ", '"6"\n', "sieben, "]


class Model:
    """What the fake provider says. Each call of a question says something else: so two calls cannot be mistaken."""

    def __init__(self, chance: random.Random) -> None:
        self.asked: Counter[str] = Counter()
        self._chance = chance

    def __call__(self, body: Body) -> Script:
        question = prompt_of(body)
        self.asked[question] += 1
        tokens = says(question, self.asked[question])
        breaks = self._chance.randrange(len(tokens)) if self._chance.random() < 0.03 else None
        return Script(tokens=tokens, tokens_per_second=self._chance.choice([5, 10, 20, 400]), cut_after=breaks)


def says(question: str, call: int) -> list[str]:
    chance = random.Random(f"{question} {call}")
    return [f"{question}/{call} ", *chance.choices(_WORDS, k=chance.randint(5, 80))]


class Session:
    """One conversation. `run` asks until `over()`; `known`: how every answer so far went."""

    def __init__(
        self, number: int, viewers: int, fleet: Fleet, model: Model, chance: random.Random, tally: Tally,
        *, lose_data: bool,
    ) -> None:  # fmt: skip
        self.name = f"s{number}"
        self.viewers = [
            Viewer(self.name, f"{self.name} viewer {place}", codec, partial(fleet.url, number + place), tally)
            for place, codec in zip(range(viewers), cycle(["json", "msgpack"]))
        ]
        self.known: dict[str, End] = {}
        self._losses = fleet.losses
        self.asking: tuple[str, str] | None = None  # question and generation that all wait for
        self._fleet = fleet
        self._model = model
        self._chance = chance
        self._tally = tally
        self._lose_data = lose_data

    async def run(self, over: Callable[[], bool]) -> None:
        following = [asyncio.create_task(viewer.follow(), name=viewer.name) for viewer in self.viewers]
        try:
            turn = 0
            while not over():
                turn += 1
                await self._turn(f"{self.name} q{turn}", f"r{turn}")
                await asyncio.sleep(self._chance.uniform(0, 10))
        finally:
            for task in following:
                task.cancel()
            for outcome in await asyncio.gather(*following, return_exceptions=True):
                if isinstance(outcome, Exception):
                    self._tally.breaks("bug", f"{self.name}: {outcome!r}")

    async def _turn(self, question: str, request_id: str) -> None:
        asker, asked_s = self.viewers[0], self._tally.elapsed_s()
        command = {"type": "submit", "session": self.name, "request_id": request_id, "content": question}
        reply = await asker.ask(**command)
        if reply["type"] != "accepted":
            self._tally.answers[f"refused: {reply['code']}"] += 1
            return
        generation = reply["generation"]
        accepted_s = self._tally.elapsed_s()
        if self._chance.random() < 0.1:
            other = await self.viewers[-1].ask(**command)
            if other.get("generation") != generation and not self._losses.any_since(asked_s):
                self._tally.breaks("second_generation", f"{question}: {generation}, then {other}")
        stopped = await self._stop(generation) if self._chance.random() < 0.15 else None
        self.asking = (question, generation)
        outcomes = await asyncio.gather(*(self._end(viewer, generation) for viewer in self.viewers))
        self.asking = None
        self._tally.slow += self._tally.elapsed_s() - accepted_s > SLOW_S
        ends = [end for end in outcomes if end is not None]
        if not ends:
            self._judge_lost(question, generation)
            return
        if len(ends) < len(outcomes):
            self._tally.answers["lost with Redis after somebody had seen its end"] += 1
        lost = self._losses.any_since(asked_s)
        if lost:
            ends = await self._agreed(generation, ends)
        self._judge(question, generation, ends, None if lost else stopped)
        if not lost and (wrong := {end.question for end in ends} - {question}):
            self._tally.breaks("question", f"{question}, {generation}: shown under {wrong}")
        await self._judge_calls(question, generation, asked_s)

    async def _stop(self, generation: str) -> FrameDict:
        await asyncio.sleep(self._chance.uniform(0, 3))
        self._tally.fault("answer stopped by a viewer", self.name)
        return await self._chance.choice(self.viewers).ask(type="stop", session=self.name, generation=generation)

    async def _end(self, viewer: Viewer, generation: str) -> End | None:
        """As this viewer shows it; None: Redis has lost it, and it is gone."""
        if self._chance.random() < 0.3:
            self._tally.fault("viewer cut off", viewer.name)
            viewer.cut_now()
        return await viewer.outcome(generation, self._losses.patience_s if self._lose_data else None)

    async def _agreed(self, generation: str, ends: list[End]) -> list[End]:
        """What they show once they agree: an end that Redis has lost is void for whoever had seen it."""
        for _ in range(int(self._losses.patience_s / _AGAIN_S)):
            if len(set(ends)) == 1:
                break
            await asyncio.sleep(_AGAIN_S)
            ends = [end for viewer in self.viewers if (end := viewer.end_of(generation)) is not None] or ends
        return ends

    def shown_by(self) -> dict[str, set[str]]:
        """Answers that its viewers have seen no end of, and the gateways that show them."""
        found: dict[str, set[str]] = {}
        for viewer in self.viewers:
            gateway = self._fleet.gateway_at(viewer.gateway_url) if viewer.served else None
            for generation in viewer.unended if gateway is not None else ():
                found.setdefault(generation, set()).add(str(gateway))
        return found

    def _judge_lost(self, question: str, generation: str) -> None:
        """Nobody has seen an end of it, and nobody will."""
        if excuse := self._losses.excuse(generation):
            self._tally.answers[f"lost with Redis: {excuse}"] += 1
            return
        standing = "\n    ".join(viewer.standing() for viewer in self.viewers)
        self._tally.breaks("missing_end", f"{question}, {generation}, lost with Redis, was to be ended\n    {standing}")

    def give_up(self) -> None:
        """Faults are over for long enough: what has not ended never will."""
        if self.asking is not None:
            standing = "\n    ".join(viewer.standing() for viewer in self.viewers)
            self._tally.answers["no end"] += 1
            self._tally.breaks("missing_end", f"{self.asking}\n    {standing}")

    def _judge(self, question: str, generation: str, ends: list[End], stopped: FrameDict | None) -> None:
        reason, code, text, _ = ends[0]
        self._tally.answers[f"{reason} {code}".strip()] += 1
        self.known[generation] = ends[0]
        if len(set(ends)) > 1:
            self._tally.breaks("differs", f"{question}, {generation}: {ends}")
        texts = ["".join(says(question, call)) for call in range(1, self._model.asked[question] + 1)]
        if not (text in texts if reason == "complete" else text == "" or any(one.startswith(text) for one in texts)):
            self._tally.breaks("mixed", f"{question}, {generation}, {reason}: {text!r} is none of {texts}")
        if stopped is not None and stopped.get("already_ended") is False and reason != "stopped":
            self._tally.breaks("stop_lost", f"{question}, {generation}: ended {reason}")

    async def _judge_calls(self, question: str, generation: str, asked_s: float) -> None:
        """A provider is asked once for each claim, and again when the call before has failed."""
        calls = [call for call in self._fleet.world.fake.calls if call.prompt == question]
        claims = await self._fleet.claims(self.name, generation)
        self._tally.calls[len(calls)] += 1
        may_be = claims + sum(call.broke for call in calls[:-1])
        if len(calls) > may_be and not self._losses.any_since(asked_s):
            self._tally.breaks(
                "calls", f"{question}, {generation}: {len(calls)} calls, {claims} claims, {may_be} allowed"
            )

    async def look_again(self, url: str) -> None:
        """As somebody sees it who comes when all is over."""
        async with Client(url, self.name) as client:
            await client.subscribe()
            for generation, known in self.known.items():
                if self._lose_data and generation not in client.view.generations:
                    continue
                try:
                    shown = await client.ended(generation)
                except AssertionError as error:
                    self._tally.breaks("missing_end", f"for a newcomer: {error}")
                    return  # others would take as long
                if (now := ended(client.view, shown)) != known:
                    self._tally.breaks("differs", f"{generation} for a newcomer: {now}, it was {known}")


def judge_calls(fake: FakeProvider, tally: Tally) -> None:
    for call in fake.calls:
        if not call.finished and call.client_gone_at is None:
            tally.breaks("stream_open", f"of {call.prompt!r}, {call.sent} tokens sent")
