"""What the scenarios share: one Redis server for all of them, one world each."""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from relay import embedded
from tests.scenarios import credentials
from tests.scenarios.processes import templates
from tests.scenarios.proxy import Proxy
from tests.scenarios.server import Server
from tests.scenarios.world import World, world


@pytest.fixture(scope="session", autouse=True)
def _templates() -> Iterator[None]:
    with templates():
        yield


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    with embedded.embedded_server() as url:
        yield url


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A module with the mark `also_with_auth` runs a second time, in the full tier: everybody brings a token."""
    if "relay" in metafunc.fixturenames and metafunc.definition.get_closest_marker("also_with_auth"):
        twice = [pytest.param(False, id="open"), pytest.param(True, id="auth", marks=pytest.mark.slow)]
        metafunc.parametrize("relay", twice, indirect=True)


@pytest.fixture
async def relay(
    redis_url: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    async with world(redis_url, tmp_path) as made:
        if getattr(request, "param", False):
            made.settings |= credentials.everywhere(monkeypatch)
        yield made


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    """A Redis of this test's own, which it may kill."""
    async with Server(tmp_path) as server:
        yield server


@pytest.fixture
async def own(server: Server, tmp_path: Path) -> AsyncIterator[World]:
    """A world on that server."""
    directory = tmp_path / "own"
    directory.mkdir()
    async with world(server.url, directory) as made:
        yield made


@pytest.fixture
async def proxy(relay: World) -> AsyncIterator[Proxy]:
    """Between whoever is given its URL and the world's Redis."""
    async with Proxy(relay.redis_url) as proxy:
        yield proxy


@pytest.fixture
def chance() -> random.Random:
    """Another one each time; what pytest shows of a failure names its seed, and RELAY_TEST_SEED repeats it."""
    seed = int(os.environ.get("RELAY_TEST_SEED") or secrets.randbelow(10**6))
    print(f"RELAY_TEST_SEED={seed}")
    return random.Random(seed)
