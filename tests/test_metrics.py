"""Metrics: in one place, with closed label sets, in the docs, and true for several processes behind one port."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

from prometheus_client import Counter, Gauge, Histogram

from relay import metrics
from relay.store.queue.reaper import Action, Idle

OURS = [found for found in vars(metrics).values() if isinstance(found, Counter | Gauge | Histogram)]
DOCS = Path(__file__).parent.parent / "docs" / "operations.md"
ROW = re.compile(r"\| `(?P<name>relay_[a-z_]+)(?:\{(?P<labels>[a-z,]+)\})?` \| (?P<kind>[a-z]+) \| .+ \|")
LABELS = {
    "type", "code", "kind", "outcome", "cause", "reason", "why", "part", "what", "queues", "provider", "moment",
    "field", "parameter",
}  # fmt: skip


def _in_a_process(place: str, directory: Path, program: str) -> str:
    environment = {"PYTHONPATH": str(Path(__file__).parent.parent)}
    if place:
        environment |= {metrics.DIRECTORY: str(directory), metrics.PROCESS_VARIABLE: place}
    command = [sys.executable, "-c", "from relay import metrics\n" + program]
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def _samples(text: str) -> set[str]:
    return {line for line in text.splitlines() if line.startswith("relay_")}


def test_no_label_is_one_whose_values_a_client_could_choose() -> None:
    assert {label for metric in OURS for label in metric._labelnames} <= LABELS


def test_every_gauge_is_of_the_living() -> None:
    assert [
        metric._name for metric in OURS if isinstance(metric, Gauge) if metric._multiprocess_mode[:4] != "live"
    ] == []


def test_figures_of_several_processes_add_up_and_counters_outlive_their_process(tmp_path: Path) -> None:
    work = "metrics.frames.labels('live').inc(3); metrics.connections.inc(2); metrics.answer_s.observe(0.2);"
    show = "print(metrics.text().decode())"
    _in_a_process("0", tmp_path, work)
    both = _samples(_in_a_process("1", tmp_path, work + show))
    assert {
        'relay_frames_total{kind="live"} 6.0',
        "relay_connections 4.0",
        'relay_answer_seconds_bucket{le="0.25"} 2.0',
        'relay_answer_seconds_bucket{le="0.1"} 0.0',
        "relay_answer_seconds_count 2.0",
    } <= both
    metrics.forget(str(tmp_path), "0")
    after = _samples(_in_a_process("0", tmp_path, "metrics.frames.labels('live').inc();" + show))
    assert {'relay_frames_total{kind="live"} 7.0', "relay_connections 2.0"} <= after
    assert len(list(tmp_path.glob("counter_*"))) == 2, "a replacement goes on in the file of the dead"


def test_one_process_alone_writes_no_files(tmp_path: Path) -> None:
    shown = _in_a_process("", tmp_path, "metrics.connections.inc(); print(metrics.text().decode())")
    assert "relay_connections 1.0" in shown.splitlines()
    assert not list(tmp_path.iterdir())


def test_the_docs_list_every_metric_with_its_kind_and_labels() -> None:
    rows = [match.groups() for line in DOCS.read_text().splitlines() if (match := ROW.fullmatch(line))]
    assert sorted(rows) == sorted(
        (
            metric._name + "_total" * isinstance(metric, Counter),
            ",".join(metric._labelnames) or None,
            metric._type,
        )
        for metric in OURS
    )


def test_the_docs_list_whatever_a_reaper_may_find_or_do() -> None:
    row = next(line for line in DOCS.read_text().splitlines() if line.startswith("| `relay_reaped_total{what}`"))
    assert set(re.findall(r"`(\w+)`", row)) == {*get_args(Idle), *get_args(Action), "trimmed"}
