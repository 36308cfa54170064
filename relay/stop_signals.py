"""The signals that ask a process to stop, each as calmly as SIGTERM does."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable


def stop_signals() -> list[signal.Signals]:
    """SIGHUP, from a terminal that is closed, is not among them where it is ignored, as under `nohup`.

    SIGINT and SIGQUIT are, also where a shell has started us in the background with both ignored: nobody else sends
    them to a process there.
    """
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    return numbers


def on_stop_signal(told: Callable[[], object]) -> None:
    """Call this at each of them, for as long as the running event loop is open."""
    loop = asyncio.get_running_loop()
    for number in stop_signals():
        loop.add_signal_handler(number, told)
