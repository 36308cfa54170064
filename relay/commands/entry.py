"""Entry points of the commands: a Ctrl-C while Python still loads our modules ends them without a traceback."""

from __future__ import annotations

from relay.commands.interrupts import starting


def relay() -> None:
    """Entry point of the `relay` console script."""
    starting()
    from relay.commands.main import main

    main()


def worker() -> None:
    """Entry point of the `relay-worker` console script."""
    starting()
    from relay_workers.cli import main

    main()
