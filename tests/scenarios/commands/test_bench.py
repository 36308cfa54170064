"""`relay bench` as a command: figures that add up, an exit code to rely on, and nothing left behind."""

from __future__ import annotations

import json
import re
import signal
import sys
from pathlib import Path

import pytest

from tests.fakes.script import Script
from tests.scenarios.processes import Process, alive, children, until
from tests.scenarios.world import World

TOKENS = [f"w{number} " for number in range(30)]


async def test_a_run_on_its_own_relay_measures_it_and_leaves_nothing_behind(tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    # What would lead it elsewhere does not count: a run without --url touches nobody's data.
    environment = {"TMPDIR": str(temporary), "RELAY_REDIS_URL": "redis://127.0.0.1:1/0", "OPENAI_API_KEY": "sk-none"}
    flags = ["--sessions", "5", "--viewers", "3", "--tokens-per-second", "2000", "--ramp-s", "0.1", "--json"]
    bench = Process(["relay", "bench", *flags], tmp_path, "bench", environment)
    assert await bench.exited() == 0, bench.stderr.read_text()
    assert bench.stderr.read_text() == "", "nobody watches, so there is no progress to show"
    report = json.loads(bench.stdout.read_text())
    assert report["good"] is True
    assert report["answers"] == {"asked": 5, "complete": 5, "failed": 0, "unfinished": 0}
    assert report["exactness"] == {"lost": 0, "doubled": 0, "reordered": 0, "wrong_text": 0}
    assert (report["failures"], report["errors"], report["reconnects"]) == ({}, {}, 0)
    measured = report["ms"]
    assert measured["first_token"]["p50"] >= 300, "the demo provider takes that long"
    for figures in measured.values():
        assert 0 < figures["p50"] <= figures["p95"] <= figures["p99"] <= figures["max"]
    assert measured["accepted"]["max"] < measured["total"]["max"]
    assert report["tokens"] > 15 * 100
    assert report["frames"] > 0
    assert not list(temporary.iterdir())


async def test_it_goes_on_asking_for_as_long_as_it_is_told(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS)
    gateway = await relay.gateway()
    await relay.worker()
    bench = relay.spawn("relay", "bench", "--url", gateway.url, "--sessions", "3", "--seconds", "60", "--ramp-s", "0")
    await relay.fake.wait_for(lambda fake: len(fake.calls) > 9)
    bench.signal(signal.SIGINT)
    assert await bench.exited() == 130, bench.stderr.read_text()
    shown = bench.stdout.read_text()
    assert "3 sessions × 2 viewers at " + gateway.url in shown
    counts = re.search(r"(\d+) of (\d+) complete, 0 failed", shown)
    assert counts is not None
    complete, asked = map(int, counts.groups())
    assert 6 < asked - 3 <= complete <= asked
    assert "0 events lost, 0 doubled, 0 reordered; 0 answers with a wrong text" in shown


async def test_answers_that_fail_are_counted_by_why_and_make_the_exit_code_one(relay: World) -> None:
    relay.fake.script = Script(status=400, status_body="no")
    gateway = await relay.gateway()
    await relay.worker()
    bench = relay.spawn("relay", "bench", "--url", gateway.url, "--sessions", "4", "--ramp-s", "0", "--json")
    assert await bench.exited() == 1
    report = json.loads(bench.stdout.read_text())
    assert report["good"] is False
    assert report["failures"] == {"provider_error": 4}
    assert report["answers"] == {"asked": 4, "complete": 0, "failed": 4, "unfinished": 0}


async def test_ctrl_c_shows_what_is_known_so_far(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS, hold_before=10)
    gateway = await relay.gateway()
    await relay.worker()
    bench = relay.spawn("relay", "bench", "--url", gateway.url, "--sessions", "3", "--ramp-s", "0", "--json")
    await relay.fake.wait_for(lambda fake: len(fake.calls) == 3)
    await relay.metrics_once(gateway, {'relay_submits_total{outcome="accepted"}': 3})
    bench.signal(signal.SIGINT)
    assert await bench.exited() == 130
    report = json.loads(bench.stdout.read_text())
    assert report["answers"] == {"asked": 3, "complete": 0, "failed": 0, "unfinished": 3}
    relay.fake.release()


@pytest.mark.skipif(sys.platform != "linux", reason="looks for children under /proc")
async def test_killed_it_takes_its_own_relay_with_it(tmp_path: Path) -> None:
    bench = Process(["relay", "bench", "--sessions", "2", "--seconds", "60"], tmp_path, "bench", {})
    (own,) = await until(lambda: children(bench.pid), "its own relay")
    (server,) = await until(lambda: children(own), "the embedded server")
    await bench.kill()
    await until(lambda: not alive(own) and not alive(server), "both are gone")


async def test_a_gateway_that_cannot_be_reached_is_one_line(relay: World) -> None:
    gateway = await relay.gateway()
    await gateway.kill()
    for url in (gateway.url, "nonsense"):
        bench = relay.spawn("relay", "bench", "--url", url)
        assert await bench.exited() == 2
        (line,) = bench.stderr.read_text().splitlines()
        assert url.removeprefix("http") in line
