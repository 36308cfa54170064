"""What every test gets."""

from __future__ import annotations

import pytest
from hypothesis import settings

from tests import examples

# No example is to be quick: machines are shared, and speed has its benchmarks.
settings.register_profile("relay", deadline=None)
settings.load_profile("relay")
examples.register()


@pytest.fixture
def anyio_backend() -> str:
    """asyncio only: so are redis-py and uvicorn, and with them everything here."""
    return "asyncio"
