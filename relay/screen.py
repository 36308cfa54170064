"""A terminal, or what stands in its place: stdout for text, stderr for everything else.

A person at a terminal sees what is going on; a pipe does not.
"""

from __future__ import annotations

import os
import sys

_STATES = {
    "connecting": "connecting", "reconnecting": "reconnecting", "degraded": "the relay cannot reach its log",
    "interrupted": "interrupted", "queued": "waiting for a worker", "preparing": "preparing", "thinking": "thinking",
    "retrying": "retrying", "no_worker": "waiting: no worker serves this queue at the moment",
}  # fmt: skip
_TROUBLES = ("reconnecting", "degraded", "interrupted")


class Screen:
    def __init__(self) -> None:
        self._person = sys.stderr.isatty()
        self._state = ""
        self._midway = False  # in a line of text
        self._shared = not sys.stdout.isatty() and _same_file()

    def write(self, text: str) -> None:
        """Text to stdout, at once. Raises BrokenPipeError where nobody reads any more."""
        self.state("")
        sys.stdout.buffer.write(text.encode())
        sys.stdout.buffer.flush()
        if text:
            self._midway = not text.endswith("\n")

    def state(self, state: str, detail: str | None = None) -> None:
        """A word about what is going on, gone when text comes. In the middle of a text only trouble has a place."""
        shown = _STATES.get(detail or "") or _STATES.get(state, "")
        if shown and self._midway:
            if self._person and state in _TROUBLES and shown != self._state:
                self.say(f"\nrelay: {shown} …")
                self._state = shown
            return
        if self._person and shown != self._state:
            sys.stderr.write(f"\r\x1b[K{shown + ' …' if shown else ''}")
            sys.stderr.flush()
        self._state = shown

    def restart(self) -> None:
        self.say("\nrelay: the answer begins again")
        self._midway = False

    def line(self) -> None:
        """Be at the beginning of a line."""
        if self._midway:
            self.write("\n")

    def done(self, code: int, note: str = "") -> int:
        """Finish the line, say the last word; returns the exit code."""
        self.state("")
        if sys.stdout.isatty():
            sys.stdout.write("\n")
            sys.stdout.flush()
        if note:
            start = "\n" if self._shared and self._midway else ""
            self.say(f"{start}relay: {note}")
        return code

    def say(self, sentence: str) -> None:
        sys.stderr.write(sentence + "\n")
        sys.stderr.flush()
        self._midway = self._midway and not self._shared


def _same_file() -> bool:
    """Whether stdout and stderr go to one file or pipe, as with `2>&1`."""
    try:
        out, err = os.fstat(sys.stdout.fileno()), os.fstat(sys.stderr.fileno())
    except OSError:  # there is none, or it was replaced by something that is no file
        return False
    return os.path.samestat(out, err)
