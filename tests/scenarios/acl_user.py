"""The user of Redis that docs/operations.md describes, word for word."""

from __future__ import annotations

import shlex
from pathlib import Path

PREFIX = "relay"
USER = "relay"
PASSWORD = "a-long-password"

_PAGE = Path(__file__).parents[2] / "docs" / "operations.md"


def lines() -> list[list[str]]:
    """What a shell makes of each redis-cli line there that makes or changes the user, without the program's name."""
    blocks = _PAGE.read_text().split("```\n")[1::2]
    blocks = [block.replace("\\\n", " ") for block in blocks]
    return [shlex.split(block)[1:] for block in blocks if block.startswith(f"redis-cli ACL SETUSER {USER} ")]


def user_line() -> list[str]:
    return lines()[0]


def cluster_line() -> list[str]:
    return lines()[1]
