"""Named points at which a test may kill the process: `RELAY_CRASH_AT=submit.enqueued` and the like.

The crash order of submit, claim and end is a promise; only a process that really dies there tests it honestly.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "RELAY_CRASH_AT"

_AT = os.environ.get(VARIABLE, "")


def crashpoint(name: str) -> None:
    """Die here, as by `kill -9`, if this is the requested point."""
    if name == _AT:
        os.kill(os.getpid(), signal.SIGKILL)
