"""What every test gets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from relay.gateway import event_stream, sinks
from tests import examples, sink_order

# No example is to be quick: machines are shared, and speed has its benchmarks.
settings.register_profile("relay", deadline=None)
settings.load_profile("relay")
examples.register()

_complaints: list[str] = []
for module in (sinks, event_stream):
    sink_order.watch(module, _complaints.append)


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
