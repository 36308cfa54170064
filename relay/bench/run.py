"""One run of `relay bench`: starts its own relay if no other is given; handles Ctrl-C, progress and the figures."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import sys

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from relay.bench.figures import table
from relay.bench.own_relay import own_relay
from relay.bench.sessions import Load, Sessions
from relay.errors import SettingsError

EXIT_GOOD, EXIT_BAD, EXIT_INTERRUPTED = 0, 1, 130
_SPARE_FILES = 64
_PROGRESS_S = 0.2


def run(load: Load, *, url: str | None, token: str, tokens_per_second: float, as_json: bool) -> int:
    """Print the figures to stdout; returns the exit code. Raises RelayError if no relay can be used."""
    _allow_files(load.sessions * load.viewers + _SPARE_FILES)
    if url is not None:
        return asyncio.run(_run(load, url, token, as_json))
    with own_relay(tokens_per_second, load.sessions) as own:
        return asyncio.run(_run(load, own, "", as_json))


async def _run(load: Load, url: str, token: str, as_json: bool) -> int:
    """Raises RelayError if the gateway cannot be used. After Ctrl-C, print the figures up to then."""
    sessions = Sessions(load, url, token)
    working = asyncio.create_task(sessions.run(), name="sessions")
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, working.cancel)
    await _watched(sessions, load, working)
    if not working.cancelled():
        working.result()
    report = sessions.tally.report(sessions.elapsed_s())
    if as_json:
        sys.stdout.write(json.dumps({"url": url, **load._asdict(), **report}) + "\n")
    else:
        sys.stdout.write(f"{load.sessions} sessions × {load.viewers} viewers at {url}\n\n{table(report)}\n")
    if not sessions.tally.good:
        return EXIT_BAD
    return EXIT_INTERRUPTED if working.cancelled() else EXIT_GOOD


async def _watched(sessions: Sessions, load: Load, working: asyncio.Task[None]) -> None:
    """Wait until the work is done, and show its progress on a terminal."""
    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"), TimeElapsedColumn()]
    whole = load.seconds if load.seconds is not None else load.sessions * load.answers
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        bar = progress.add_task("relay bench", total=whole, state="connecting")
        while not working.done():
            await asyncio.wait([working], timeout=_PROGRESS_S)
            tally = sessions.tally
            ended = tally.complete + tally.failures.total()
            progress.update(
                bar,
                completed=sessions.elapsed_s() if load.seconds is not None else ended,
                state=f"{tally.asked - ended} running, {ended} ended" if tally.asked else "connecting",
            )


def _allow_files(wanted: int) -> None:
    """Raise the limit on open files, which is often low: each connection is one. Raises SettingsError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and wanted > hard:
        raise SettingsError(f"--sessions × --viewers needs {wanted} open files, and this machine allows {hard}")
    if soft != resource.RLIM_INFINITY and wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
