"""Logs: an outage is one line at its beginning and one at its end."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from io import StringIO

import pytest
from structlog.testing import capture_logs

from relay import logging
from tests.logs_as_before import logs_as_before


def test_a_trouble_is_a_warning_once_and_its_end_is_told() -> None:
    with capture_logs() as lines:
        trouble = logging.Trouble(logging.get("part"), "look_failed", session="s")
        trouble.over()
        for _ in range(3):
            trouble.failed(RuntimeError("away"))
        trouble.over()
        trouble.over()
        trouble.failed(RuntimeError("away again"))
    assert [(line["log_level"], line["event"]) for line in lines] == [
        ("warning", "look_failed"), ("debug", "look_failed"), ("debug", "look_failed"), ("info", "recovered"),
        ("warning", "look_failed"),
    ]  # fmt: skip
    assert lines[3]["failures"] == 3
    assert all(line["session"] == "s" for line in lines)


def test_where_many_try_a_trouble_is_over_when_nothing_has_failed_for_a_while() -> None:
    now_s = 100.0
    with capture_logs() as lines:
        trouble = logging.Trouble(logging.get("part"), "unavailable", settled_s=5, clock=lambda: now_s)
        for _ in range(20):  # one in two fails
            trouble.failed(RuntimeError("away"))
            trouble.over()
            now_s += 4.9
        now_s += 0.1
        trouble.over()
        trouble.over()
    assert [line["log_level"] for line in lines] == ["warning", *["debug"] * 19, "info"]
    assert (lines[-1]["event"], lines[-1]["failures"]) == ("recovered", 20)


def test_a_failure_after_a_long_pause_is_told_though_nobody_has_tried_between() -> None:
    now_s = 100.0
    with capture_logs() as lines:
        trouble = logging.Trouble(logging.get("part"), "unavailable", settled_s=5, clock=lambda: now_s)
        for pause_s in (1, 60, 0):
            trouble.failed(RuntimeError("away"))
            now_s += pause_s
    assert [line["log_level"] for line in lines] == ["warning", "debug", "warning"]


def test_a_bug_is_an_error_with_its_traceback_once() -> None:
    with capture_logs() as lines:
        trouble = logging.Trouble(logging.get("part"), "message_failed")
        for _ in range(3):
            trouble.broke(ValueError("no message of ours"), channel="c")
    assert [line["log_level"] for line in lines] == ["error", "debug", "debug"]
    assert isinstance(lines[0]["exc_info"], ValueError)
    assert lines[0]["channel"] == "c"


class _Gone(StringIO):
    """A terminal that was closed."""

    def write(self, text: str) -> int:
        raise OSError(errno.EIO, "Input/output error")

    def flush(self) -> None:
        raise OSError(errno.EIO, "Input/output error")


def test_a_log_that_nobody_reads_any_more_breaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What drains then has to get to its end."""
    monkeypatch.setattr(sys, "stderr", _Gone())
    with logs_as_before():
        logging.configure("info")
        logging.get("worker").info("finishing", running=1)


def test_what_libraries_say_is_a_line_of_json_too() -> None:
    program = """
import logging
from relay import logging as ours
ours.configure("info")
logging.getLogger("uvicorn.error").warning("Invalid %s request.", "HTTP")
logging.getLogger("uvicorn.error").info("Started")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("asyncio").error("Task failed", exc_info=True)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in ran.stderr.splitlines()]
    assert [(line["part"], line["level"], line["event"]) for line in lines] == [
        ("uvicorn.error", "warning", "Invalid HTTP request."),
        ("asyncio", "error", "Task failed"),
    ]
    assert all(line["timestamp"] for line in lines)
    assert "ZeroDivisionError" in lines[1]["exception"]
