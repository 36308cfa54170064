"""What a worker process keeps up beside its answers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from relay_workers import worker


async def test_a_bug_in_one_offer_costs_that_one_and_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "PUBLISH_EVERY_S", 0.001)
    offered = asyncio.Event()

    class Odd:
        looks = made = 0

        def update_gauges(self) -> None:
            self.looks += 1
            if self.looks <= 3:
                raise ValueError("a bug")

        def offers(self, queue: str, name: str) -> list[Any]:
            return [queue, name]

        async def try_publish(self, offers: list[Any]) -> None:
            assert offers == ["default", "w"]
            self.made += 1
            if self.made == 2:  # what the first one changed is in the log by now
                offered.set()

    odd: Any = Odd()
    with capture_logs() as lines:
        keeping = asyncio.create_task(worker._publish_offers(odd, odd, "default", "w", asyncio.Event()))
        async with asyncio.timeout(20):
            await offered.wait()
        keeping.cancel()
    told = [(line["event"], line["log_level"]) for line in lines if line["log_level"] != "debug"]
    assert told == [("offering_failed", "error"), ("recovered", "info")]
