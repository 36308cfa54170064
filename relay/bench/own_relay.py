"""The relay that a bench starts by itself: `relay dev` in a separate process, with the demo provider."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, cast

from relay.embedded import die_with_parent
from relay.errors import RelayError

_END_WITHIN_S = 10.0
_COMMAND = (sys.executable, "-P", "-c", "from relay.commands.main import main; main()", "dev")
# We choose where it listens and what it talks to; all other variables apply, so that settings can be tried out.
_OURS = ("RELAY_REDIS_URL", "RELAY_HOST", "RELAY_PORT", "RELAY_METRICS_PORT", "RELAY_QUEUE")


@contextmanager
def own_relay(tokens_per_second: float, answers_at_once: int) -> Iterator[str]:
    """Run a relay for the duration of the block; yields its URL. Raises RelayError if it does not start."""
    environment = {
        name: value for name, value in os.environ.items() if name not in _OURS and not name.startswith("RELAY_AUTH_")
    }
    environment["RELAY_CONCURRENCY"] = str(answers_at_once)
    flags = ["--port", "0", "--provider", "demo", "--tokens-per-second", str(tokens_per_second)]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [*_COMMAND, *flags],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
            preexec_fn=die_with_parent,
        )
        stdout = cast(IO[bytes], process.stdout)  # a PIPE
        try:
            yield _url(stdout, said)
        finally:
            process.terminate()
            try:
                process.wait(_END_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            stdout.close()


def _url(stdout: IO[bytes], said: IO[bytes]) -> str:
    for line in stdout:
        if found := re.search(rb"http://\S+:\d+", line):
            return found.group().decode()
    said.seek(0)
    raise RelayError("relay dev did not start: " + said.read().decode().strip()[-500:])
