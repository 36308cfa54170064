"""What the client's tests share."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest

from tests.client.scripted import Scripted


@pytest.fixture
async def gateway() -> AsyncIterator[Scripted]:
    """A scripted gateway; afterwards nothing of the client may be left."""
    async with Scripted() as scripted:
        yield scripted
        left = [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("relay client")]
        assert left == []


@pytest.fixture
def longest_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backoff without luck: each wait as long as it may be."""
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
