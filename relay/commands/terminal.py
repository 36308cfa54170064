"""A terminal, a pipe or a file: stdout for text, stderr for everything else.

On a terminal, the current state is shown and erased when it is over. Elsewhere stderr gets a line for each trouble, and
one when it is over. No control character of a text reaches a terminal; a pipe or a file gets the text byte for byte.
"""

from __future__ import annotations

import asyncio
import os
import sys

_STATES = {
    "connecting": "connecting", "asking": "asking",
    "unanswered": "the gateway has not answered yet", "reconnecting": "the connection is lost; reconnecting",
    "refused": "the gateway cannot do it now; trying again", "degraded": "the relay cannot reach its log",
    "interrupted": "interrupted", "queued": "waiting for a worker", "preparing": "preparing", "thinking": "thinking",
    "retrying": "trying again",
}  # fmt: skip
_DETAILS = {
    "no_worker": "no worker serves its queue", "after": "earlier answers come first",
    "provider": "the model failed", "worker_lost": "its worker was lost",
}  # fmt: skip
_TROUBLES = ("reconnecting", "refused", "degraded", "interrupted", "retrying")
_OVER = "going on"
_SLOW_S = 1.0
_MAX_DETAIL = 200  # characters
_ERASE = "\r\x1b[K"

# What a terminal obeys instead of showing it: C0 except \n and \t, DEL, C1; and what changes the direction of a text.
_CONTROL_CODES = (*range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_SHOWN = dict.fromkeys(_CONTROL_CODES, "\ufffd") | {
    code: chr(0x2400 + code) for code in range(0x20) if code in _CONTROL_CODES
}
_SHOWN |= {ord("\r"): "", 0x7F: "\u2421"}
_AS_JSON = {code: f"\\u{code:04x}" for code in _CONTROL_CODES}


def escape_controls(text: str) -> str:
    """The text without anything that a terminal obeys: an escape becomes ␛. Works character by character, so a text may
    come in pieces.
    """
    return text.translate(_SHOWN)


class Terminal:
    def __init__(self) -> None:
        self._person = sys.stderr.isatty()
        self._terminal = sys.stdout.isatty()
        self._shown = ""  # on a terminal: the state, which has a line of its own
        self._trouble = ""  # the trouble that has a line already
        self._midway = False  # in the middle of a line of text
        self._shared = (self._person and self._terminal) or (not self._terminal and _same_file())

    def write(self, text: str) -> None:
        """Write text to stdout at once. Raises BrokenPipeError if nobody reads any more."""
        self._put(escape_controls(text) if self._terminal else text)

    def lines(self, text: str) -> None:
        """Write whole lines of JSON; what a terminal would obey is escaped as in JSON."""
        self._put(text.translate(_AS_JSON) if self._terminal else text)

    def state(self, state: str, detail: str = "") -> None:
        """Show what is going on. On a terminal, text replaces it; in the middle of a text, only trouble is shown."""
        shown = _STATES.get(state, "")
        if shown and detail:
            shown += f" ({_DETAILS.get(detail, detail)[:_MAX_DETAIL]})"
        trouble = shown if state in _TROUBLES or detail == "no_worker" else ""
        if trouble and trouble == self._trouble:
            return
        over = bool(self._trouble) and not self._person
        self._trouble = ""
        if self._person and not self._midway:
            self._show(f"{shown} …" if shown else "")
        elif trouble:
            self.note(f"{trouble} …")
            self._trouble = trouble
        elif over:
            self.note(_OVER)

    def restart(self) -> None:
        self.note("the answer begins again")
        self._midway = False
        self._trouble = _STATES["retrying"]  # that state follows, and need not be shown

    def line(self) -> None:
        """Be at the beginning of a line."""
        if self._midway:
            self.write("\n")

    def done(self, code: int, note: str = "") -> int:
        """Finish the line and print the last note; returns the exit code."""
        self._show("")
        if self._terminal:
            sys.stdout.write("\n")
            sys.stdout.flush()
            self._midway = False
        if note:
            self.note(note)
        return code

    def note(self, sentence: str) -> None:
        """Print a separate line on stderr, wherever the text is."""
        self._show("")
        start = "\n" if self._shared and self._midway else ""
        self.say(f"{start}relay: {' '.join(sentence.split())}")

    def interrupted(self, sentence: str) -> None:
        """Print a note after a Ctrl-C, which the terminal may have echoed as ^C."""
        if self._person:
            self.say("")
        self.note(sentence)

    def say(self, sentence: str) -> None:
        sys.stderr.write(escape_controls(sentence) + "\n")
        sys.stderr.flush()
        self._midway = self._midway and not self._shared

    def _put(self, text: str) -> None:
        self._show("")
        sys.stdout.buffer.write(text.encode())
        sys.stdout.buffer.flush()
        if text:
            self._midway = not text.endswith("\n")

    def _show(self, shown: str) -> None:
        """Show it in its own line of the terminal, cut to the width."""
        if self._person and shown != self._shown:
            width = _columns() - 1
            sys.stderr.write(_ERASE + escape_controls(shown if len(shown) <= width else f"{shown[: width - 1]}…"))
            sys.stderr.flush()
            self._shown = shown


class WaitNotice:
    """What is shown from a request to the gateway until it is `answered`."""

    def __init__(self, screen: Terminal) -> None:
        self.over = False
        self._screen = screen
        self._hindered = False
        self._timer: asyncio.TimerHandle | None = None

    def asked(self) -> None:
        self._screen.state("asking")
        self._timer = asyncio.get_running_loop().call_later(_SLOW_S, self._slow)

    def told(self, state: str, detail: str) -> None:
        """Show why there is no answer yet. Once there is one, it has its own status."""
        if not self.over:
            self._hindered = state != "connected"
            self._screen.state(state if self._hindered else "asking", detail)

    def answered(self) -> None:
        self.over = True
        if self._timer is not None:
            self._timer.cancel()

    def _slow(self) -> None:
        if not self._hindered:
            self._screen.state("unanswered")


def _columns() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except OSError:
        return 80


def _same_file() -> bool:
    """Whether stdout and stderr go to one file or pipe, as with `2>&1`."""
    try:
        out, err = os.fstat(sys.stdout.fileno()), os.fstat(sys.stderr.fileno())
    except OSError:  # there is none, or it was replaced by something that is not a file
        return False
    return os.path.samestat(out, err)
