"""The signals that ask a process to stop, all treated like SIGTERM."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable


def stop_signals() -> list[signal.Signals]:
    """SIGHUP, from a terminal that is closed, is left out if it is ignored, as under `nohup`.

    SIGINT and SIGQUIT are included even if a shell started us in the background with both ignored: there, only
    somebody who means this process sends them.
    """
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    return numbers


def on_stop_signal(callback: Callable[[], object]) -> None:
    """Call `callback` at each of them, for as long as the running event loop is open."""
    loop = asyncio.get_running_loop()
    for number in stop_signals():
        loop.add_signal_handler(number, callback)
