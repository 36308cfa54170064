"""Ctrl-C while a command is still starting. Imports next to nothing: it has to be there before everything else."""

from __future__ import annotations

import os
import signal
from types import FrameType

EXIT_INTERRUPTED = 130


def starting() -> None:
    """Until `begun`, a Ctrl-C ends this process without a traceback."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # or whoever started us wants it ignored
        signal.signal(signal.SIGINT, leave)


def begun() -> None:
    """A command runs, inside click, which takes a KeyboardInterrupt for an end; before, nobody would."""
    if signal.getsignal(signal.SIGINT) is leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def leave(_number: int, _frame: FrameType | None) -> None:
    """For as long as nothing has begun that would have to end."""
    os._exit(EXIT_INTERRUPTED)
