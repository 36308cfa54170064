"""What the scenarios share: one Redis server for all of them, one world each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from relay import embedded
from tests.scenarios.world import World, world


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    with embedded.server() as url:
        yield url


@pytest.fixture
async def relay(redis_url: str, tmp_path: Path) -> AsyncIterator[World]:
    async with world(redis_url, tmp_path) as made:
        yield made
