"""What the commands show on a terminal, in a pipe, and where both outputs are one file."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from relay.client import Applied
from relay.commands.tail import lines
from relay.commands.terminal import Terminal, WaitNotice
from tests.scenarios.processes import until

_MAKE = "from relay.commands.terminal import Terminal; screen = Terminal(); "
_SEND = _MAKE + "screen.write({text!r}); {more}screen.done(1, 'No.')"


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


def test_in_a_file_of_its_own_the_text_is_the_answers_and_nothing_else(tmp_path: Path) -> None:
    assert printed("half", "", tmp_path / "out", tmp_path / "err") == (b"half", b"relay: No.\n")


OBEYED = [
    *(chr(code) for code in range(0x20) if chr(code) not in "\n\t"),
    *(chr(code) for code in range(0x7F, 0xA0)),
    *"\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",
]


class Outputs:
    """stdout and stderr of one screen, each a terminal or a pipe."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, stdout: bool, stderr: bool) -> None:
        self._reads = []
        self._writes = []
        for name, terminal in (("stdout", stdout), ("stderr", stderr)):
            reads, writes = os.openpty() if terminal else os.pipe()
            if terminal:
                tty.setraw(writes)
            stream = os.fdopen(writes, "w", encoding="utf-8")
            self._reads.append(reads)
            self._writes.append(stream)
            monkeypatch.setattr(sys, name, stream)

    def read(self, which: int) -> str:
        """All that is there by now."""
        got = b""
        while select.select([self._reads[which]], [], [], 0)[0]:
            got += os.read(self._reads[which], 65536)
        return got.decode()

    def close(self) -> None:
        for stream in self._writes:
            stream.close()
        for reads in self._reads:
            os.close(reads)


@contextmanager
def outputs(monkeypatch: pytest.MonkeyPatch, *, stdout: bool, stderr: bool) -> Iterator[Outputs]:
    with monkeypatch.context() as patched:
        made = Outputs(patched, stdout=stdout, stderr=stderr)
        try:
            yield made
        finally:
            made.close()


def test_no_control_character_of_a_text_reaches_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """However it is cut: a terminal joins what a model says in two tokens."""
    with outputs(monkeypatch, stdout=True, stderr=True) as seen:
        screen = Terminal()
        for character in OBEYED:
            screen.write(f"a{character}")
            screen.write(f"[31m\tb{character}\n")
        text = seen.read(0)
        screen.done(1, "a \x1b[31mreason\x9b\u202e")
        said = seen.read(1)
    assert [character for character in text if character in OBEYED] == []
    assert text.count("[31m\tb") == len(OBEYED)
    assert text.count("\n") == len(OBEYED)
    assert "␛[31m" in text
    assert "relay: a ␛[31mreason��\n" in said


def test_a_line_end_of_two_characters_is_one_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    with outputs(monkeypatch, stdout=True, stderr=False) as seen:
        screen = Terminal()
        screen.write("one\r")
        screen.write("\ntwo")
        assert seen.read(0) == "one\ntwo"


def test_json_on_a_terminal_says_the_same_without_what_a_terminal_obeys(monkeypatch: pytest.MonkeyPatch) -> None:
    event: dict[str, object] = {"type": "tokens", "text": "ü" + "".join(OBEYED) + "\n\t"}
    line = lines(Applied(1, 1, [event]))[0]
    with outputs(monkeypatch, stdout=True, stderr=False) as seen:
        Terminal().lines(line)
        text = seen.read(0)
    assert [character for character in text if character in OBEYED] == []
    assert json.loads(text) == {"seq": 1, **event}


def test_a_pipe_gets_the_text_byte_for_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(OBEYED) + "ü\r\n\t"
    with outputs(monkeypatch, stdout=False, stderr=True) as seen:
        screen = Terminal()
        screen.write(text)
        screen.lines(text)
        assert seen.read(0) == text * 2


def test_where_nobody_watches_each_trouble_is_a_line_and_so_is_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with outputs(monkeypatch, stdout=False, stderr=False) as seen:
        screen = Terminal()
        for state in ("connecting", "asking", "queued", "preparing", "thinking", "streaming"):
            screen.state(state)
        screen.write("half")
        assert seen.read(1) == ""
        for state in ("reconnecting", "reconnecting", "degraded"):
            screen.state(state)
        screen.write(" of it")
        screen.state("degraded")
        screen.state("streaming")
        screen.state("queued", "no_worker")
        screen.state("retrying", "worker_lost")
        screen.restart()
        screen.state("retrying")
        screen.state("streaming")
        screen.done(1, "No.")
        assert seen.read(1).splitlines() == [
            "relay: the connection is lost; reconnecting …",
            "relay: the relay cannot reach its log …",
            "relay: going on",
            "relay: waiting for a worker (no worker serves its queue) …",
            "relay: trying again (its worker was lost) …",
            "relay: the answer begins again",
            "relay: going on",
            "relay: No.",
        ]
        assert seen.read(0) == "half of it"


def test_a_state_on_a_terminal_keeps_to_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    with outputs(monkeypatch, stdout=True, stderr=True) as seen:
        columns = os.get_terminal_size(sys.stderr.fileno()).columns or 80
        screen = Terminal()
        screen.state("refused", "x" * 300)
        (shown,) = seen.read(1).split("\r\x1b[K")[1:]
        assert len(shown) == columns - 1
        screen.write("text")
        assert seen.read(1) == "\r\x1b[K"


def test_in_the_middle_of_a_text_a_terminal_shows_trouble_in_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    with outputs(monkeypatch, stdout=True, stderr=True) as seen:
        screen = Terminal()
        screen.write("half")
        screen.state("thinking")
        screen.state("retrying", "provider")
        screen.state("retrying", "provider")
        assert seen.read(1) == "\nrelay: trying again (the model failed) …\n"


async def test_on_a_terminal_a_gateway_that_is_slow_to_answer_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.commands.terminal._SLOW_S", 0.01)
    with outputs(monkeypatch, stdout=True, stderr=True) as seen:
        slow = WaitNotice(Terminal())
        slow.asked()
        said: list[str] = []

        def slowness_is_told() -> bool:
            said.append(seen.read(1))
            return "the gateway has not answered yet" in "".join(said)

        await until(slowness_is_told)
        slow.told("refused", "unavailable: Not now.")
        assert "trying again (unavailable: Not now.) …" in seen.read(1)
        slow.answered()
        slow.told("reconnecting", "")
        assert seen.read(1) == ""


async def test_what_is_in_the_way_is_not_taken_for_slowness(monkeypatch: pytest.MonkeyPatch) -> None:
    with outputs(monkeypatch, stdout=True, stderr=True) as seen:
        waiting = WaitNotice(Terminal())
        waiting.asked()
        waiting.told("reconnecting", "")
        seen.read(1)
        waiting._slow()
        assert seen.read(1) == ""
        waiting.told("connected", "")
        assert "asking" in seen.read(1)
        waiting.answered()
