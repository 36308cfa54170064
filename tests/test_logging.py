"""Logs: an outage is one line at its beginning and one at its end."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from structlog.testing import capture_logs

from relay import logging

PART = re.compile(r"\(part `\w+`\)")


def test_a_trouble_is_a_warning_once_and_its_end_is_told() -> None:
    with capture_logs() as lines:
        trouble = logging.FailureLog(logging.get_logger("part"), "look_failed", session="s")
        trouble.succeeded()
        for _ in range(3):
            trouble.failed(RuntimeError("away"))
        trouble.succeeded()
        trouble.succeeded()
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
        trouble = logging.FailureLog(logging.get_logger("part"), "unavailable", settled_s=5, clock=lambda: now_s)
        for _ in range(20):  # one in two fails
            trouble.failed(RuntimeError("away"))
            trouble.succeeded()
            now_s += 4.9
        now_s += 0.1
        trouble.succeeded()
        trouble.succeeded()
    assert [line["log_level"] for line in lines] == ["warning", *["debug"] * 19, "info"]
    assert (lines[-1]["event"], lines[-1]["failures"]) == ("recovered", 20)


def test_a_failure_after_a_long_pause_is_told_though_nobody_has_tried_between() -> None:
    now_s = 100.0
    with capture_logs() as lines:
        trouble = logging.FailureLog(logging.get_logger("part"), "unavailable", settled_s=5, clock=lambda: now_s)
        for pause_s in (1, 60, 0):
            trouble.failed(RuntimeError("away"))
            now_s += pause_s
    assert [line["log_level"] for line in lines] == ["warning", "debug", "warning"]


def test_a_bug_is_an_error_with_its_traceback_once() -> None:
    with capture_logs() as lines:
        trouble = logging.FailureLog(logging.get_logger("part"), "message_failed")
        for _ in range(3):
            trouble.unexpected(ValueError("no message of ours"), channel="c")
    assert [line["log_level"] for line in lines] == ["error", "debug", "debug"]
    assert isinstance(lines[0]["exc_info"], ValueError)
    assert lines[0]["channel"] == "c"


def test_a_log_that_nobody_reads_any_more_breaks_nothing() -> None:
    """What drains then has to get to its end, and to say by its exit code that it did."""
    program = """
import sys
from pathlib import Path
from relay import logging
logging.configure("info")
sys.stdin.read()
for number in range(3):
    logging.get_logger("worker").info("finishing", running=number)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stderr is not None
    process.stderr.close()
    process.communicate(b"")
    assert process.returncode == 0


def test_what_anybody_can_cause_is_a_line_a_minute_with_a_count() -> None:
    now_s = 100.0
    with capture_logs() as lines:
        asked = logging.RateLimitedLog(logging.get_logger("part"), "bad_request", clock=lambda: now_s)
        for _ in range(1000):
            asked.log(detail="no method")
        now_s += 59
        asked.log(detail="no method")
        now_s += 1
        asked.log(detail="no address")
        asked.log("another kind", detail="no method")
    told = [line for line in lines if line["log_level"] != "debug"]
    assert [(line["detail"], line.get("unlogged")) for line in told] == [
        ("no method", None), ("no address", 1000), ("no method", None),
    ]  # fmt: skip
    assert len(lines) == 1003


def test_kinds_without_end_have_their_lines_together() -> None:
    with capture_logs() as lines:
        asked = logging.RateLimitedLog(logging.get_logger("part"), "bad_request", clock=lambda: 100.0)
        for number in range(10_000):
            asked.log(number)
    assert sum(line["log_level"] != "debug" for line in lines) <= 257


def test_kinds_of_long_ago_make_room() -> None:
    now_s = 0.0
    with capture_logs() as lines:
        asked = logging.RateLimitedLog(logging.get_logger("part"), "bad_request", clock=lambda: now_s)
        for number in range(1000):
            asked.log(number)
            now_s += 1
    assert all(line["log_level"] == "warning" for line in lines)


def test_two_bugs_are_two_lines_however_often_each_comes() -> None:
    with capture_logs() as lines:
        failing = logging.RateLimitedLog(logging.get_logger("part"), "command_failed", clock=lambda: 100.0)
        for _ in range(3):
            for divisor in ("nothing", "0"):
                try:
                    1 // int(divisor)
                except (ArithmeticError, ValueError) as error:
                    failing.unexpected(error, session="s")
    told = [line for line in lines if line["log_level"] == "error"]
    assert [(type(line["exc_info"]), line["session"]) for line in told] == [(ValueError, "s"), (ZeroDivisionError, "s")]
    assert len(lines) == 6


def said(program: str, *, before: str = "", **environment: str) -> list[dict[str, Any]]:
    """The lines on the stderr of a process whose log is configured as ours are."""
    configured = f"""
{before}
import logging, warnings
from relay import logging as ours
ours.configure("info")
{program}
"""
    ran = subprocess.run(
        [sys.executable, "-c", configured],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    return [json.loads(line) for line in ran.stderr.splitlines()]


def test_what_libraries_say_is_a_line_of_json_too() -> None:
    lines = said("""
logging.getLogger("uvicorn.error").info("Started")
for name in ("uvicorn.error", "websockets.server", "redis", "httpx", "httpx2", "openai", "anthropic"):
    logging.getLogger(name).warning("It is %s.", "so")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("asyncio").error("Task failed", exc_info=True)
warnings.warn("It will be otherwise.")
""")
    assert [(line["part"], line["level"], line["event"]) for line in lines[:-1]] == [
        *(
            (name, "warning", "It is so.")
            for name in ("uvicorn.error", "websockets.server", "redis", "httpx", "httpx2", "openai", "anthropic")
        ),
        ("asyncio", "error", "Task failed"),
    ]
    assert all(line["timestamp"] for line in lines)
    assert "ZeroDivisionError" in lines[-2]["exception"]
    assert (lines[-1]["part"], "It will be otherwise." in lines[-1]["event"]) == ("py.warnings", True)


def test_a_line_of_a_librarys_comes_once_a_minute_from_each_place() -> None:
    lines = said("""
for number in range(100):
    logging.getLogger("uvicorn.error").warning("Unsupported upgrade request.")
    logging.getLogger("uvicorn.error").warning(f"{number} is too many.")
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
""")
    assert [line["event"] for line in lines] == ["Unsupported upgrade request.", "0 is too many."]


def test_what_would_be_a_traceback_of_pythons_is_a_line_too() -> None:
    lines = said("""
import threading
threading.Thread(target=lambda: 1 / 0).start()
class Resource:
    def __del__(self): raise KeyError("nobody can catch this")
Resource()
raise ValueError("the end")
""")
    assert {(line["event"], line["exception"].splitlines()[-1]) for line in lines} == {
        ("uncaught", "ZeroDivisionError: division by zero"),
        ("uncaught", "KeyError: 'nobody can catch this'"),
        ("uncaught", "ValueError: the end"),
    }


def test_a_librarys_own_switch_shows_no_request() -> None:
    """It adds a handler of its own to the root before ours is there, and prints whole requests."""
    lines = said(
        """
for name in ("openai", "openai._base_client", "anthropic", "anthropic._base_client", "httpx2", "httpcore2"):
    for level in (logging.DEBUG, logging.INFO):
        logging.getLogger(name).log(level, "Request options: %s", {"prompt": "a secret"})
    logging.getLogger(name).warning("It is so.")
""",
        before="import anthropic, openai",
        OPENAI_LOG="debug",
        ANTHROPIC_LOG="debug",
    )
    assert [line["event"] for line in lines] == ["It is so."] * 6


def test_each_warning_of_pythons_is_a_kind_of_its_own_and_no_argument_of_a_bad_line_is_told() -> None:
    program = """
import logging, sys, threading, warnings
from relay import logging as ours
ours.configure("info")
warnings.warn("one")
for _ in range(3):
    warnings.warn("two")
logging.getLogger("theirs").error("a %d %d", "a secret")
thread = threading.Thread(target=sys.exit)
thread.start()
thread.join()
"""
    ran = subprocess.run([sys.executable, "-W", "always", "-c", program], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in ran.stderr.splitlines()]
    assert [(line["part"], line["event"].partition("Warning: ")[2][:3] or line["event"]) for line in lines] == [
        ("py.warnings", "one"), ("py.warnings", "two"), ("theirs", "unreadable_log_line"),
    ]  # fmt: skip
    assert "secret" not in ran.stderr


def told_in(node: ast.AST) -> set[str]:
    """Names of the events that this call or comprehension logs."""
    match node:
        case ast.Call(
            func=ast.Attribute(attr="info" | "warning" | "error" | "exception", value=logger), args=[name, *_]
        ):
            return strings(name) if re.search(r"logger$|get_logger\(.*\)$", ast.unparse(logger)) else set()
        case ast.Call(func=ast.Attribute(attr="FailureLog" | "RateLimitedLog"), args=[_, name, *_]):
            return strings(name)
        case ast.comprehension(target=ast.Name(id="event"), iter=ast.Tuple(elts=names)):
            return set().union(*map(strings, names))
    return set()


def strings(node: ast.AST) -> set[str]:
    return {node.value} if isinstance(node, ast.Constant) and isinstance(node.value, str) else set()


def test_the_documents_have_every_event_of_the_log_and_no_other() -> None:
    root = Path(__file__).parents[1]
    sources = [path for part in ("relay", "workers") for path in (root / part).rglob("*.py")]
    trees = [ast.parse(path.read_text()) for path in sources]
    found = {name for tree in trees for node in ast.walk(tree) for name in told_in(node)}
    assert len(found) > 75
    told = (root / "docs" / "operations.md").read_text()
    assert sorted(name for name in found if f"`{name}`" not in told) == []
    table = told.partition("| events | |\n|---|---|\n")[2].partition("\n\n")[0]
    names = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", PART.sub("", row.split("|")[1]))}
    assert len(names) > 75
    assert sorted(names - found) == []
