"""`relay queue`: what died is seen and gets its second chance, what runs is stopped, and a mistake is one line."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.provider import Script
from tests.scenarios.client import Client, check
from tests.scenarios.processes import Process, free_port, until
from tests.scenarios.redis_cluster import cluster
from tests.scenarios.world import Gateway, World, world

TOKENS = [f"wörd {number} " for number in range(30)]
QUESTION = "my secret question"


def queue_command(relay: World, *arguments: str, **settings: str) -> Process:
    return relay.spawn("relay", "queue", *arguments, **settings)


async def asked(relay: World, *arguments: str) -> str:
    """What it prints; fails the test unless that is all it has to say."""
    command = queue_command(relay, *arguments)
    assert await command.exited() == 0, command.stderr.read_text()
    shown = command.stdout.read_text()
    assert "secret" not in shown + command.stderr.read_text()
    return shown


async def jobs(relay: World, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(await asked(relay, "list", "default", *arguments, "--json"))
    return found


async def dies(relay: World, gateway: Gateway, client: Client, workers: int = 1) -> str:
    """A generation that loses so many workers and is dead then."""
    relay.fake.script = Script(tokens=TOKENS, hold_before=3)
    generation = await client.submit(QUESTION, priority="high")
    for attempt in range(1, workers + 1):
        worker = await relay.worker()
        await client.until(
            lambda attempt=attempt: (
                generation in client.view.generations
                and client.shown(generation).attempt == attempt
                and client.shown(generation).count == 3
            ),
            f"attempt {attempt}",
        )
        await worker.kill()
    await client.ended(generation)
    relay.fake.script = Script(tokens=TOKENS)
    return generation


async def letters(relay: World) -> int:
    return int(await relay.redis.zcard(f"{relay.prefix}:q:{{default}}:dead"))


@pytest.mark.slow
async def test_an_answer_that_lost_every_worker_is_seen_with_its_reason_and_answered_when_it_is_retried(
    relay: World,
) -> None:
    relay.settings = {"RELAY_LEASE_S": "1", "RELAY_MAX_TAKEOVERS": "2"}
    gateway = await relay.gateway()
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        generation = await dies(relay, gateway, client, workers=2)
        end = check(client, generation, "".join(TOKENS[:3]), "failed")
        assert end["error"]["code"] == "worker_lost"
        await until(lambda: letters(relay), "the letter")
        (seen,) = await jobs(relay, "--dead")
        assert {name: seen[name] for name in ("generation", "session", "state", "lost_workers", "reason", "owner")} == {
            "generation": generation, "session": "s", "state": "dead", "lost_workers": 2, "reason": "worker_lost",
            "owner": None,
        }  # fmt: skip
        assert (seen["priority"], seen["attempt"]) == ("high", 2)
        assert await jobs(relay, "--waiting", "--running") == []
        samples = await relay.metrics_once(gateway, {'relay_dead_jobs{queues="all"}': 1.0})
        assert samples['relay_dead_letters_total{reason="worker_lost"}'] == 1
        assert min((await relay.ttls()).values()) > 0

        await relay.worker()
        retried = (await asked(relay, "retry", generation)).strip()
        await client.ended(retried)
        check(client, retried, "".join(TOKENS))
        assert relay.fake.calls[-1].prompt == QUESTION
        assert await letters(relay) == 0
        assert [message["content"] for message in client.view.messages] == [QUESTION]
        assert await jobs(relay) == []
        assert min((await relay.ttls()).values()) > 0


@pytest.mark.slow
async def test_a_reaper_that_is_killed_before_the_letter_leaves_it_to_the_next(relay: World) -> None:
    relay.settings = {"RELAY_LEASE_S": "1", "RELAY_MAX_TAKEOVERS": "1"}
    doomed = await relay.gateway(RELAY_CRASH_AT="reap.reaped")
    client = Client(doomed.url, "s")
    await client.connect()
    await client.subscribe()
    relay.fake.script = Script(tokens=TOKENS, hold_before=3)
    generation = await client.submit(QUESTION)
    worker = await relay.worker()
    await client.until(lambda: generation in client.view.generations and client.shown(generation).count == 3, "three")
    await worker.kill()
    assert await doomed.exited() == -signal.SIGKILL
    assert await letters(relay) == 0
    await relay.gateway()
    await until(lambda: letters(relay), "the letter")
    (seen,) = await jobs(relay)
    assert (seen["generation"], seen["state"], seen["reason"]) == (generation, "dead", "worker_lost")
    await client.disconnect()


@pytest.mark.slow
async def test_a_retry_that_is_killed_anywhere_and_done_again_makes_one_answer(relay: World) -> None:
    relay.settings = {"RELAY_LEASE_S": "1", "RELAY_MAX_TAKEOVERS": "1"}
    gateway = await relay.gateway()
    for point in ("submit.enqueued", "submit.admitted", "retry.made"):
        async with Client(gateway.url, point) as client:
            await client.subscribe()
            dead = await dies(relay, gateway, client)
            await until(lambda: letters(relay), "the letter")
            interrupted = queue_command(relay, "retry", dead, RELAY_CRASH_AT=point)
            assert await interrupted.exited() == -signal.SIGKILL
            assert interrupted.stdout.read_text() == ""
            assert await letters(relay) == 1
            made = (await asked(relay, "retry", dead)).strip()
            calls = len(relay.fake.calls)
            worker = await relay.worker()
            await client.ended(made)
            check(client, made, "".join(TOKENS))

            async def tidy() -> bool:
                return await jobs(relay) == []

            await until(tidy, "nothing is left")
            assert len(relay.fake.calls) == calls + 1
            assert set(client.view.generations) == {dead, made}
            await worker.end()


@pytest.mark.slow
async def test_dropping_what_runs_closes_the_providers_stream_and_what_waits_is_never_asked(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS, hold_before=10)
    gateway = await relay.gateway()
    await relay.worker()
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        running = await client.submit(QUESTION)
        waiting = await client.submit(QUESTION, "r2", queue="nobody")
        await client.until(lambda: running in client.view.generations and client.shown(running).count == 10, "ten")
        shown = (await asked(relay)).splitlines()
        assert [line.split()[:4] for line in shown[:1]] == [["QUEUE", "WAITING", "RUNNING", "DEAD"]]
        assert [line.split()[:4] for line in shown[1:]] == [["default", "0", "1", "0"], ["nobody", "1", "0", "0"]]
        (seen,) = await jobs(relay)
        assert (seen["generation"], seen["state"], seen["lost_workers"]) == (running, "running", 0)
        assert seen["owner"]
        head, line = (await asked(relay, "list", "nobody", "--waiting")).splitlines()
        assert head.split()[:3] == ["GENERATION", "SESSION", "STATE"]
        assert line.split()[:3] == [waiting, "s", "waiting"]

        await asked(relay, "drop", running)
        await asked(relay, "drop", waiting, "--queue", "nobody")
        await until(lambda: relay.fake.calls[0].client_gone_at, "the provider sees the connection closed")
        await client.ended(running)
        await client.ended(waiting)
        relay.fake.release()
        check(client, running, "".join(TOKENS[:10]), "stopped")
        check(client, waiting, "", "stopped")
        assert len(relay.fake.calls) == 1
        counts = json.loads(await asked(relay, "--json"))
        assert [(one["queue"], one["waiting"], one["running"], one["dead"]) for one in counts] == [
            ("default", 0, 0, 0),
            ("nobody", 0, 0, 0),
        ]


async def test_a_mistake_is_one_line_and_exit_code_two(relay: World) -> None:
    away = f"redis://127.0.0.1:{free_port()}/0"
    mistakes = [
        (["retry", "g_unknown"], "there is no job g_unknown"),
        (["list", "nowhere"], "there is no queue nowhere"),
        (["--redis", away, "list", "default"], "Redis cannot be used"),
        (["--redis", "nonsense"], "RELAY_REDIS_URL"),
    ]
    commands = [queue_command(relay, *arguments) for arguments, _ in mistakes]
    for command, (arguments, sentence) in zip(commands, mistakes, strict=True):
        assert await command.exited() == 2, arguments
        (line,) = command.stderr.read_text().splitlines()
        assert line.startswith("relay: ")
        assert sentence in line
        assert command.stdout.read_text() == ""
    assert await relay.keys() == []


@pytest.mark.slow
async def test_a_dead_job_whose_session_was_deleted_cannot_bring_it_back(relay: World) -> None:
    relay.settings = {"RELAY_LEASE_S": "1", "RELAY_MAX_TAKEOVERS": "1"}
    gateway = await relay.gateway()
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        dead = await dies(relay, gateway, client)

    places = [f"{relay.prefix}:q:{{default}}:{name}" for name in ("dead", "letters")]

    async def nothing_is_asked_any_more() -> bool:
        return not await relay.redis.exists(*places)

    await until(lambda: letters(relay), "the letter")
    for place in places:
        await relay.redis.copy(place, f"{place}-before")
    assert (await gateway.http("DELETE", "/v1/sessions/s"))[0] == 204
    await until(nothing_is_asked_any_more, "its question is forgotten too")

    for place in places:  # as if its gateway had died before that
        await relay.redis.rename(f"{place}-before", place)
    retried = queue_command(relay, "retry", dead)
    assert await retried.exited() == 2
    assert "is gone" in retried.stderr.read_text()
    assert await letters(relay) == 1
    assert not [key for key in await relay.keys() if ":s:" in key and not key.endswith(":deleted")]
    await asked(relay, "drop", dead)
    assert await nothing_is_asked_any_more()


@pytest.mark.slow
async def test_on_a_cluster_it_is_the_same(tmp_path: Path) -> None:
    async with cluster(tmp_path) as servers, world(servers.url, tmp_path) as relay:
        relay.settings = {"RELAY_LEASE_S": "1", "RELAY_MAX_TAKEOVERS": "1"}
        gateway = await relay.gateway()
        async with Client(gateway.url, "s") as client:
            await client.subscribe()
            dead = await dies(relay, gateway, client)
            await until(lambda: letters(relay), "the letter")
            relay.fake.script = Script(tokens=TOKENS, hold_before=10)
            await relay.worker()
            retried = (await asked(relay, "retry", dead)).strip()
            await client.until(lambda: retried in client.view.generations and client.shown(retried).count == 10, "ten")
            (seen,) = await jobs(relay)
            assert (seen["generation"], seen["state"]) == (retried, "running")
            await asked(relay, "drop", retried)
            await until(lambda: relay.fake.calls[-1].client_gone_at, "the provider sees the connection closed")
            await client.ended(retried)
            check(client, retried, "".join(TOKENS[:10]), "stopped")
        assert [one["dead"] for one in json.loads(await asked(relay, "--json"))] == [0]
