"""What the metrics pages of gateway and worker say is what happened."""

from __future__ import annotations

from tests.fakes.script import Script
from tests.scenarios.client import Client, check
from tests.scenarios.processes import free_port
from tests.scenarios.world import World

TOKENS = [f"w{number} " for number in range(30)]


async def test_answers_are_counted_by_how_they_ended_and_timed(relay: World) -> None:
    gateway = await relay.gateway()
    worker = await relay.worker("--metrics-port", str(free_port()))
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        relay.fake.script = Script(tokens=TOKENS, hold_before=10)
        answered = await client.submit("q", "r1")
        stopped = await client.submit("q", "r2")
        await client.until(lambda: all(shown.count == 10 for shown in client.view.generations.values()), "ten tokens")
        relay.fake.script = Script(status=400, status_body="no")
        failed = await client.submit("q", "r3")
        await client.ended(failed)
        await relay.metrics_once(gateway, {"relay_connections": 1, "relay_subscriptions": 1, "relay_followers": 1})
        await relay.metrics_once(
            worker,
            {
                "relay_generations_running": 2,
                'relay_backlog_jobs{queues="own"}': 2,
                'relay_backlog_jobs{queues="all"}': 2,
                "relay_first_token_seconds_count": 2,
            },
        )
        await client.stop(stopped)
        relay.fake.release()
        await client.ended(answered)
        check(client, answered, "".join(TOKENS))
        in_worker = await relay.metrics_once(
            worker, {"relay_generations_running": 0, 'relay_backlog_jobs{queues="own"}': 0}
        )
        in_gateway = await relay.metrics_once(gateway, {'relay_backlog_jobs{queues="all"}': 0})
    assert in_worker['relay_generations_total{code="",reason="complete"}'] == 1
    assert in_worker['relay_generations_total{code="provider_error",reason="failed"}'] == 1
    assert in_gateway['relay_generations_total{code="",reason="stopped"}'] == 1, "counted by whoever wrote the end"
    assert in_worker['relay_generations_abandoned_total{why="ended"}'] == 1
    assert in_worker["relay_answer_seconds_count"] == 2
    assert in_worker["relay_first_token_seconds_sum"] <= 2 * in_worker["relay_answer_seconds_sum"]
    assert in_worker["relay_tokens_total"] == 30 + 10
    live = in_gateway['relay_frames_total{kind="live"}']
    assert live + in_gateway['relay_frames_total{kind="single"}'] >= len(client.frames)
    assert in_gateway['relay_submits_total{outcome="accepted"}'] == 3
    await relay.metrics_once(gateway, {"relay_connections": 0, "relay_subscriptions": 0})


async def test_a_metrics_port_in_use_ends_the_worker_with_one_line(relay: World) -> None:
    first = await relay.worker("--metrics-port", str(free_port()))
    serving = first.logged("serving")
    assert serving is not None
    second = await relay.worker("--metrics-port", str(serving["metrics_port"]), wait=False)
    assert await second.exited() == 2
    (line,) = second.stderr.read_text().splitlines()
    assert "RELAY_METRICS_PORT" in line
    assert "in use" in line
