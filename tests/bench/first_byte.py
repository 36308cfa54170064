"""What lies between a provider's first byte and a viewer's screen, in a relay that has nothing else to do.

The provider answers at once, so its first token leaves the gateway right behind `accepted` and `status`.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from relay import embedded
from tests.fakes.script import Script
from tests.scenarios.client import Client
from tests.scenarios.world import World, world

ANSWERS = 200


def first_byte() -> None:
    asyncio.run(_first_byte())


async def _first_byte() -> None:
    with embedded.embedded_server() as url, tempfile.TemporaryDirectory() as directory:
        async with world(url, Path(directory)) as relay:
            relay.fake.script = Script(tokens=["Hello"])
            gateway = await relay.gateway()
            await relay.worker()
            async with Client(gateway.url, "s") as client:
                await client.subscribe()
                times_ms = [await _answer(relay, client, number) for number in range(ANSWERS)]
    cuts = statistics.quantiles(times_ms, n=20)
    print(f"first byte      {cuts[9]:8.2f} ms from the provider to a viewer (p95 {cuts[18]:.2f})")


async def _answer(relay: World, client: Client, number: int) -> float:
    """Milliseconds from the provider's being asked, which it answers at once, to the first token at the client."""
    generation = await client.submit("q", f"r{number}")
    known = client.view.generations
    await client.until(lambda: generation in known and known[generation].count > 0, "its first token")
    shown_at = time.monotonic()
    await client.ended(generation)
    return (shown_at - relay.fake.calls[-1].started_at) * 1000
