"""Two hundred answers while workers are killed, frozen, woken and told to go, providers fail, and viewers stop some."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from relay import embedded
from relay.store.keys import Keys
from tests.fakes.provider import Call, FakeProvider
from tests.fakes.script import Body, Script, prompt_of
from tests.scenarios.client import Client, check
from tests.scenarios.hands import Hands
from tests.scenarios.leftovers import nothing_is_left
from tests.scenarios.processes import until
from tests.scenarios.world import Gateway, World, world

SESSIONS, TURNS, WORKERS, FAULTS = 40, 5, 5, 40
LEASE_S = 2.0
ENDS_WITHIN_S = 120.0
HALF_WAY_S = 1.0  # a request that was being made when its worker was frozen goes out so soon after it has woken
WORDS = ["one ", "zwei ", "три ", "四", "🙂 ", "e\u0301 ", '"6"\n', "sieben, "]
FAILURES = {"provider_error", "provider_timeout", "provider_rate_limited", "provider_refused", "truncated"}
FILTER = json.dumps({"error": {"code": "content_filter", "message": "as scripted"}})


class Model:
    """Each call of a question says something else, so two cannot be mistaken; a third of them fail somewhere."""

    def __init__(self, fake: FakeProvider, chance: random.Random) -> None:
        self.asked: Counter[str] = Counter()
        self.at_once: list[tuple[Call, float]] = []  # open when another call for the same question came, and when
        self._fake = fake
        self._chance = chance

    def __call__(self, body: Body) -> Script:
        question = prompt_of(body)
        self.asked[question] += 1
        open_calls = [call for call in self._fake.calls if call.prompt == question and not _is_over(call)]
        self.at_once += [(call, time.monotonic()) for call in open_calls]
        tokens = [f"{question}/{self.asked[question]} ", *self._chance.choices(WORDS, k=self._chance.randint(4, 40))]
        return Script(tokens=tokens, tokens_per_second=self._chance.choice([20, 50, 200]), **self._fault(len(tokens)))

    def _fault(self, many: int) -> dict[str, Any]:
        if self._chance.random() > 0.35:
            return {}
        place = self._chance.choice([0, self._chance.randrange(many), many])
        return self._chance.choice(
            [
                {"status": self._chance.choice([500, 502, 503, 529, 401])},
                {"status": 429, "status_headers": {"retry-after": "0.5"}},
                {"status": 400, "status_body": FILTER},
                *({name: place} for name in ("close_after", "cut_after", "reset_after", "error_after")),
                *({name: place} for name in ("garbage_after", "hold_before")),
            ]
        )


class Job:
    """What was asked, and what came of it."""

    def __init__(self, session: str, question: str, generation: str) -> None:
        self.session = session
        self.question = question
        self.generation = generation
        self.reason = self.code = self.text = ""
        self.attempt = 0
        self.stopped = False


class Talk:
    """One session: two viewers at two gateways, one question after the other, some stopped from the second one."""

    def __init__(self, name: str, gateways: list[Gateway], chance: random.Random) -> None:
        self.name = name
        self.jobs: list[Job] = []
        self.viewers = [Client(gateways[0].url, name), Client(gateways[1].url, name, "msgpack")]
        self._chance = chance

    async def run(self) -> None:
        first, second = self.viewers
        for viewer in self.viewers:
            await viewer.connect()
            await viewer.subscribe()
        for turn in range(TURNS):
            question = f"<{self.name} q{turn}>"
            job = Job(self.name, question, await first.submit(question, f"r{turn}"))
            self.jobs.append(job)
            if self._chance.random() < 0.2:
                await self._stop(job, second)
            for viewer in self.viewers:
                await viewer.ended(job.generation, ENDS_WITHIN_S)
            await asyncio.sleep(self._chance.uniform(0, 1))

    async def _stop(self, job: Job, viewer: Client) -> None:
        tokens = self._chance.choice([0, 1, self._chance.randrange(20)])
        await viewer.until(partial(_has, viewer, job.generation, tokens), "tokens to stop behind", ENDS_WITHIN_S)
        reply = await viewer.stop(job.generation)
        assert reply["type"] == "stopping", reply
        job.stopped = not reply["already_ended"]

    def judge(self, calls: dict[str, list[Call]]) -> None:
        """Both viewers were sent the same, once and in order, and it is what the provider said."""
        for job in self.jobs:
            shown = self.viewers[0].shown(job.generation)
            assert shown.end is not None
            job.reason, job.text, job.attempt = shown.end["reason"], shown.text, shown.end["attempt"]
            job.code = (shown.end.get("error") or {}).get("code", "")
            said = ["".join(call.script.tokens) for call in calls.get(job.question, [])]
            for viewer in self.viewers:
                check(viewer, job.generation, job.text, job.reason, voided=said)
                assert viewer.ends[job.generation] == 1
                assert not viewer.after_end


@pytest.fixture
async def alone(tmp_path: Path) -> AsyncIterator[World]:
    """With a Redis of its own."""
    with embedded.embedded_server() as url:
        async with world(url, tmp_path) as relay:
            yield relay


@pytest.mark.slow
async def test_two_hundred_answers_under_every_fault_at_once(alone: World, chance: random.Random) -> None:
    relay = alone
    relay.settings = {
        "RELAY_LEASE_S": str(LEASE_S), "RELAY_GRACE_S": "1", "RELAY_MAX_TAKEOVERS": "50", "RELAY_BREAKER_OPEN_S": "1",
        "RELAY_PROVIDER_RETRY_MS": "50", "RELAY_FIRST_TOKEN_TIMEOUT_S": "6", "RELAY_TOKEN_TIMEOUT_S": "6",
    }  # fmt: skip
    model = relay.fake.script = Model(relay.fake, chance)
    hands = Hands(relay, chance, LEASE_S)
    gateways = [await relay.gateway(), await relay.gateway()]
    await hands.start(WORKERS)
    talks = [Talk(f"s{number}", gateways, chance) for number in range(SESSIONS)]
    over = asyncio.Event()
    suffering = asyncio.create_task(hands.suffer(over, FAULTS, (0.2, 1.5)))
    try:
        async with asyncio.TaskGroup() as tasks:
            for talk in talks:
                tasks.create_task(talk.run())
    finally:
        over.set()
        await suffering

    await nothing_is_left(relay)
    await until(lambda: all(_is_over(call) for call in relay.fake.calls), "every stream is closed")
    calls: dict[str, list[Call]] = {}
    for call in relay.fake.calls:
        calls.setdefault(call.prompt, []).append(call)
    jobs = []
    for talk in talks:
        talk.judge(calls)
        jobs += talk.jobs
    _tell(jobs, hands, relay.fake.calls)
    assert len(jobs) == SESSIONS * TURNS
    for job in jobs:
        try:
            _judge_text(job, calls, hands)
        except AssertionError as error:
            raise AssertionError(f"{job.__dict__}\n{_story(calls.get(job.question, []), hands)}") from error
        await _judge_log(relay, job)
        await _judge_calls(relay, job, calls.get(job.question, []))
    _judge_overlaps(model, jobs, hands, calls)
    await _judge_newcomers(talks, gateways)
    await _judge_metrics(relay, jobs, hands, gateways)
    assert not [key for key in await relay.redis.keys("*") if await relay.redis.pttl(key) == -1]
    for hand in hands.running:
        await hand.process.end()
        assert (hand.process.code, bool(hand.process.logged("stopped"))) == (0, True)
    for talk in talks:
        for viewer in talk.viewers:
            await viewer.disconnect()


def _judge_text(job: Job, calls: dict[str, list[Call]], hands: Hands) -> None:
    """What is shown is the last attempt's, and that is the last call's: all of it, or as far as it came."""
    assert job.reason in (("stopped",) if job.stopped else ("complete", "failed"))
    asked = calls.get(job.question, [])
    said = ["".join(call.script.tokens) for call in asked]
    assert job.attempt <= len(asked) + (job.reason != "complete")
    if job.reason == "failed":
        assert job.code in FAILURES
    if job.reason == "complete" or job.text:
        shown = next(place for place, one in enumerate(said) if one.startswith(job.text))
        assert job.reason != "complete" or job.text == said[shown]
        # A stop may come before the next attempt was opened, though its call was made.
        assert job.stopped or all(_stray(late, calls, hands) for late in asked[shown + 1 :])


async def _judge_log(relay: World, job: Job) -> None:
    entries: Any = await relay.redis.xrange(Keys(relay.prefix).session(job.session, "log"))
    own = [fields[b"e"] for _, fields in entries if fields[b"g"] == job.generation.encode()]
    assert [b'"type":"end"' in event for event in own] == [False] * (len(own) - 1) + [True]


async def _judge_calls(relay: World, job: Job, calls: list[Call]) -> None:
    """A provider is asked once for each claim, and again only where it has failed."""
    claims = int(await relay.redis.hget(Keys(relay.prefix).generation(job.session, job.generation), "claims") or 0)
    good = [call for call in calls if not _is_to_fail(call.script)]
    assert len(good) <= claims, (job.__dict__, claims)


def _judge_overlaps(model: Model, jobs: list[Job], hands: Hands, calls: dict[str, list[Call]]) -> None:
    """Two calls for one answer are open at once only where the worker of the first has lost its lease unawares.

    Frozen, that is, perhaps with the request of the first half-way out. A machine that many share may starve one for as
    long, and then it says itself that it was stale.
    """
    generations = {job.question: job.generation for job in jobs}
    for earlier, at_s in model.at_once:
        hung_up_just_before = earlier.client_gone_at is not None and earlier.client_gone_at - at_s < 0.2
        late = next(call for call in calls[earlier.prompt] if call.started_at >= at_s)
        hand = hands.who(earlier)
        was_stale = hand.was_frozen(earlier.started_at - HALF_WAY_S, at_s) or hand.lost(generations[earlier.prompt])
        excused = (was_stale and not hand.made(late)) or _stray(late, calls, hands)
        assert hung_up_just_before or excused, _story(calls[earlier.prompt], hands)


def _stray(call: Call, calls: dict[str, list[Call]], hands: Hands) -> bool:
    """Its worker was frozen with the request half-way out, and another one has asked meanwhile."""
    hand = hands.who(call)
    others = [one.started_at for one in calls[call.prompt] if one.started_at < call.started_at and not hand.made(one)]
    return any(
        0 <= call.started_at - woke_s < HALF_WAY_S and any(at_s > froze_s for at_s in others)
        for froze_s, woke_s in hand.naps(HALF_WAY_S)  # it may have been awake in between, and not for long enough
    )


async def _judge_newcomers(talks: list[Talk], gateways: list[Gateway]) -> None:
    for number, talk in enumerate(talks):
        async with Client(gateways[number % 2].url, talk.name) as client:
            await client.subscribe()
            for job in talk.jobs:
                await client.ended(job.generation)
                check(client, job.generation, job.text, job.reason)


async def _judge_metrics(relay: World, jobs: list[Job], hands: Hands, gateways: list[Gateway]) -> None:
    stopped = 0.0
    for gateway in gateways:
        stopped += (await relay.metrics(gateway)).get('relay_generations_total{code="",reason="stopped"}', 0)
    assert stopped == sum(job.stopped for job in jobs)
    for hand in hands.running:
        metrics = await relay.metrics_once(hand.process, {"relay_generations_running": 0})
        by_outcome: Counter[str] = Counter()
        for sample, value in metrics.items():
            if outcome := re.match(r'relay_provider_calls_total\{outcome="(\w+)"', sample):
                by_outcome[outcome[1]] += int(value)
        made = sum(hand.made(call) for call in relay.fake.calls)
        assert made <= by_outcome.total() <= made + by_outcome["abandoned"], (hand.name, made, by_outcome)
        assert not [name for name, value in metrics.items() if name.startswith("relay_unexpected_errors") and value]


def _story(calls: list[Call], hands: Hands) -> str:
    """Each call in a line, its times from the first one's start."""
    began_s = calls[0].started_at if calls else 0.0
    lines = []
    for call in calls:
        hand = hands.who(call)
        gone = f"hung up at {call.client_gone_at - began_s:.3f}" if call.client_gone_at else f"finished {call.finished}"
        naps = [(round(began - began_s, 3), round(ended - began_s, 3)) for began, ended in hand.frozen]
        lines.append(
            f"{call.started_at - began_s:.3f} {call.api} by {hand.name} (frozen {naps}, going {hand.going}): "
            f"{call.sent} tokens, {gone}, {call.script}"
        )
    return "\n".join(lines)


def _tell(jobs: list[Job], hands: Hands, calls: list[Call]) -> None:
    print(f"answers {Counter(f'{job.reason} {job.code}'.strip() for job in jobs)}")
    print(f"attempts {Counter(job.attempt for job in jobs)}, {len(calls)} calls, workers {hands.befell}")


def _is_over(call: Call) -> bool:
    return call.finished or call.client_gone_at is not None


def _is_to_fail(script: Script) -> bool:
    places = (script.close_after, script.cut_after, script.reset_after, script.error_after, script.garbage_after)
    return script.status is not None or any(place is not None for place in (*places, script.hold_before))


def _has(viewer: Client, generation: str, tokens: int) -> bool:
    shown = viewer.view.generations.get(generation)
    return tokens == 0 or (shown is not None and (shown.count >= tokens or shown.end is not None))
