"""What every test gets."""

from __future__ import annotations

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """asyncio only: so are redis-py and uvicorn, and with them everything here."""
    return "asyncio"
