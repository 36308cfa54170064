"""What `relay send` prints where both of its outputs are one file, and where they are two."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from relay.screen import Screen

_SEND = "from relay.screen import Screen; screen = Screen(); screen.write({text!r}); {more}screen.done(1, 'No.')"


def printed(text: str, more: str, out: Path, err: Path | None) -> tuple[bytes, bytes]:
    script = _SEND.format(text=text, more=more)
    with out.open("wb") as stdout, (err or out).open("ab") as stderr:
        subprocess.run(
            [sys.executable, "-c", script],
            stdout=stdout,
            stderr=subprocess.STDOUT if err is None else stderr,
            check=True,
        )
    return out.read_bytes(), b"" if err is None else err.read_bytes()


@pytest.mark.parametrize(
    ("text", "more", "shown"),
    [
        ("half", "", b"half\nrelay: No.\n"),
        ("whole\n", "", b"whole\nrelay: No.\n"),
        ("", "", b"relay: No.\n"),
        ("half", "screen.say('\\nrelay: stopping'); ", b"half\nrelay: stopping\nrelay: No.\n"),
    ],
    ids=["in a line", "behind a line", "before any", "after another word"],
)
def test_in_one_file_the_last_word_has_a_line_of_its_own(text: str, more: str, shown: bytes, tmp_path: Path) -> None:
    assert printed(text, more, tmp_path / "both", None)[0] == shown


def test_a_status_with_a_detail_that_has_words_is_told_in_these(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen._person = True
    for detail in (None, "no_worker", "of a later release"):
        screen.state("queued", detail)
    assert capsys.readouterr().err.split("\r\x1b[K")[1:] == [
        "waiting for a worker …", "waiting: no worker serves this queue at the moment …", "waiting for a worker …",
    ]  # fmt: skip


def test_in_a_file_of_its_own_the_text_is_the_answers_and_nothing_else(tmp_path: Path) -> None:
    assert printed("half", "", tmp_path / "out", tmp_path / "err") == (b"half", b"relay: No.\n")
