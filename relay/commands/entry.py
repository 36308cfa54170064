"""Where the commands begin: a Ctrl-C that comes while Python still reads our modules ends them without a traceback."""

from __future__ import annotations

import os
import signal
from types import FrameType

EXIT_INTERRUPTED = 130


def relay() -> None:
    """Entry point of the `relay` console script."""
    begun = _starting()
    from relay.commands.main import main

    _started(begun)
    main()


def worker() -> None:
    """Entry point of the `relay-worker` console script."""
    begun = _starting()
    from relay_workers.cli import main

    _started(begun)
    main()


def leave(_number: int, _frame: FrameType | None) -> None:
    """For as long as nothing has begun that would have to end."""
    os._exit(EXIT_INTERRUPTED)


def _starting() -> bool:
    """False: whoever started us wants Ctrl-C ignored."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return False
    signal.signal(signal.SIGINT, leave)
    return True


def _started(begun: bool) -> None:
    if begun:
        signal.signal(signal.SIGINT, signal.default_int_handler)
