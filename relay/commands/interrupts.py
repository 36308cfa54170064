"""Ctrl-C while a command is still starting. Imports almost nothing, because it must work before everything else."""

from __future__ import annotations

import os
import signal
from types import FrameType

EXIT_INTERRUPTED = 130


def starting() -> None:
    """Until `begun`, a Ctrl-C ends this process without a traceback."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # otherwise our parent wants it ignored
        signal.signal(signal.SIGINT, leave)


def begun() -> None:
    """A command runs inside click, which from now on handles KeyboardInterrupt."""
    if signal.getsignal(signal.SIGINT) is leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def leave(_number: int, _frame: FrameType | None) -> None:
    """Exit at once; used while there is nothing to clean up."""
    os._exit(EXIT_INTERRUPTED)
