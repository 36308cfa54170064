"""Logs: an outage is one line at its beginning and one at its end."""

from __future__ import annotations

from structlog.testing import capture_logs

from relay import logging


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
