"""A member that was added to a closed set, and to nothing else: mypy names each place that has to know of it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent


class HalfDone(NamedTuple):
    """`member`: as mypy calls it; `places`: the files in which it says that this is not handled."""

    file: str
    source: str
    replacement: str
    member: str
    places: list[str]


CHANGES = [
    HalfDone(
        "relay/protocol/commands.py",
        "Command = Hello | Refresh",
        (
            'class Pause(msgspec.Struct, frozen=True, tag="pause"):\n    session: str\n\n\n'
            "Command = Pause | Hello | Refresh"
        ),
        "Pause",
        ["relay/gateway/connection.py", "relay/protocol/commands.py"],
    ),
    HalfDone(
        "relay/protocol/events.py",
        '"restart", "end"]',
        '"restart", "end", "hook"]',
        "Literal['hook']",
        ["relay/follow/follower.py", "relay/protocol/view.py"],
    ),
    HalfDone(
        "relay/settings.py",
        '"app", "demo"]',
        '"app", "demo", "parrot"]',
        "Literal['parrot']",
        ["workers/relay_workers/providers/__init__.py"],
    ),
    HalfDone(
        "relay/store/session/replies.py",
        'Buried = Literal["buried",',
        'Buried = Literal["exhumed", "buried",',
        "Literal['exhumed']",
        ["relay/follow/recovery.py"],
    ),
    HalfDone(
        "relay/store/session/replies.py",
        '"ended", "leased"]',
        '"ended", "leased", "frozen"]',
        "Literal['frozen']",
        ["workers/relay_workers/consumer.py"],
    ),
    HalfDone(
        "relay/store/queue/enqueue.py",
        '"deleted", "forgotten", "foreign"]',
        '"deleted", "forgotten", "foreign", "too_dear"]',
        "Literal['too_dear']",
        ["relay/gateway/submissions.py", "relay/store/queue/admin.py"],
    ),
    HalfDone(
        "relay/store/queue/admin.py",
        '"waiting", "dead"]',
        '"waiting", "dead", "held"]',
        "Literal['held']",
        ["relay/commands/queue.py"],
    ),
    HalfDone(
        "relay/client/answer_items.py",
        "Item = Text |",
        "class Hook:\n    pass\n\n\nItem = Hook | Text |",
        "Hook",
        ["relay/commands/send.py", "relay/commands/tail.py"],
    ),
    HalfDone(
        "workers/relay_workers/providers/base.py",
        "Part = Text |",
        "class Sound(msgspec.Struct, frozen=True):\n    pass\n\n\nPart = Sound | Text |",
        "Sound",
        ["workers/relay_workers/asking/call.py", "workers/relay_workers/check.py"],
    ),
]


# The types of libraries cost most of the time, and do not matter here.
NOT_READ = """
[[tool.mypy.overrides]]
module = ["anthropic.*", "httpx.*", "openai.*", "pydantic.*", "pydantic_settings.*", "redis.*", "typer.*", "uvicorn.*"]
follow_imports = "skip"
"""


@pytest.mark.slow
def test_mypy_finds_every_place_that_a_new_member_concerns(tmp_path: Path) -> None:
    for part in ("relay", "workers"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text() + NOT_READ)
    for change in CHANGES:
        path = tmp_path / change.file
        text = path.read_text()
        assert text.count(change.source) == 1, change
        path.write_text(text.replace(change.source, change.replacement))
    mypy = [sys.executable, "-m", "mypy", "-p", "relay", "-p", "relay_workers", "--cache-dir", str(tmp_path / "cache")]
    said = subprocess.run(mypy, cwd=tmp_path, capture_output=True, text=True, check=False).stdout
    errors = re.findall(r"^(\S+?):\d+: error: (.*)$", said, re.MULTILINE)
    found = {
        change.member: sorted({file for file, error in errors if re.search(rf'"{re.escape(change.member)}[" ]', error)})
        for change in CHANGES
    }
    assert found == {change.member: change.places for change in CHANGES}, said
