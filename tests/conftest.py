"""What every test gets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import settings
from redis.asyncio import Redis

from relay.gateway import event_stream, sinks
from relay.store.queue.queue import Queue
from relay.store.session.session_log import SessionLog
from tests import examples, sink_order
from tests.store.in_memory import Clock, queue_on, redis_in_memory, session_log_on

# No example is to be quick: machines are shared, and speed has its benchmarks.
settings.register_profile("relay", deadline=None)
settings.load_profile("relay")
examples.register()

_complaints: list[str] = []
for module in (sinks, event_stream):
    sink_order.watch(module, _complaints.append)


class AtOnce:
    """Prints a failure when it happens: a run takes long, and the summary stands at its end."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.failed and terminal is not None:
            terminal.ensure_newline()
            terminal.write_sep("_", f"failed just now: {report.nodeid} ({report.when})")
            terminal.write_line(report.longreprtext)


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # of several processes, the one that prints
        config.pluginmanager.register(AtOnce(config))


@pytest.fixture
def anyio_backend() -> str:
    """asyncio only: so are redis-py and uvicorn, and with them everything here."""
    return "asyncio"


@pytest.fixture(autouse=True)
def seqs_in_order_at_every_sink() -> Iterator[list[str]]:
    """What was not; nothing may be left of it at the end of a test."""
    _complaints.clear()
    yield _complaints
    assert not _complaints


# Redis in memory


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Redis' clock; stands still until it is advanced."""
    clock = Clock()
    clock.install(monkeypatch)
    return clock


@pytest.fixture
async def redis(clock: Clock) -> AsyncIterator[Redis]:
    async with redis_in_memory() as client:
        yield client


@pytest.fixture
def session_log(redis: Redis) -> SessionLog:
    return session_log_on(redis)


@pytest.fixture
def queue(redis: Redis) -> Queue:
    return queue_on(redis)
