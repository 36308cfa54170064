"""What workers offer, as gateways read it: replaced, taken back, forgotten with their worker."""

from __future__ import annotations

import asyncio

import pytest

from relay.errors import StorageError
from relay.store.keys import Keys
from relay.store.queue.worker_registry import MAX_OFFERS, TTL_S, Offer, WorkerRegistry
from tests.store.in_memory import redis_in_memory

CLOSED, OPEN = Offer("q", "openai", "m", None, "w1"), Offer("q", "openai", "m", None, "w1", "open")
HALF = Offer("q", "openai", "m", None, "w1", "half_open")
OTHER = Offer("q", "openai", "m", None, "w2")


async def test_an_offer_takes_the_place_of_what_its_worker_said_before() -> None:
    async with redis_in_memory() as redis:
        keys = Keys("t")
        first, second = WorkerRegistry(redis, keys), WorkerRegistry(redis, keys)
        await first.publish([CLOSED])
        await second.publish([OTHER])
        await first.publish([OPEN])
        assert {(offer.worker, offer.state) for offer in await WorkerRegistry(redis, keys).current()} == {
            ("w1", "open"),
            ("w2", "closed"),
        }


async def test_a_worker_that_leaves_takes_back_its_own_and_nobody_elses() -> None:
    async with redis_in_memory() as redis:
        keys = Keys("t")
        first, second = WorkerRegistry(redis, keys), WorkerRegistry(redis, keys)
        await first.publish([CLOSED])
        await second.publish([OTHER])
        await first.publish([])
        assert await WorkerRegistry(redis, keys).current() == [OTHER]


async def test_what_has_just_been_said_is_not_said_again() -> None:
    async with redis_in_memory() as redis:
        offers = WorkerRegistry(redis, Keys("t"))
        await offers.publish([CLOSED])
        await redis.flushall()
        await offers.publish([CLOSED])
        assert await WorkerRegistry(redis, Keys("t")).current() == []


@pytest.mark.parametrize("how", [asyncio.CancelledError, StorageError])
async def test_what_landed_without_a_reply_is_taken_back_too(how: type[BaseException]) -> None:
    """Whoever asks for it would wait for a worker that has gone, or does something else."""
    async with redis_in_memory() as redis:
        keys = Keys("t")

        class Interrupted(WorkerRegistry):
            lost = 0

            async def _run(self, made: list[bytes], withdrawn: list[bytes]) -> list[bytes]:
                found = await super()._run(made, withdrawn)
                if self.lost:
                    self.lost -= 1
                    raise StorageError("no answer") if how is StorageError else how
                return found

        offers = Interrupted(redis, keys)
        await offers.publish([CLOSED])
        offers.lost = 2
        for said in ([OPEN], [HALF]):
            with pytest.raises(how):
                await offers.publish(said)
        await offers.publish([])
        assert await WorkerRegistry(redis, keys).current() == []


async def test_what_is_taken_back_and_offered_again_stands_though_a_reply_was_lost() -> None:
    """In vain, perhaps: so it has to be said once more at once, and not when its renewal is due."""
    async with redis_in_memory() as redis:
        keys = Keys("t")
        offers = WorkerRegistry(redis, keys)
        await offers.publish([CLOSED])
        run = offers._run

        async def lost(made: list[bytes], withdrawn: list[bytes]) -> list[bytes]:
            await run(made, withdrawn)
            raise StorageError("no answer")

        offers._run = lost  # type: ignore[method-assign]
        with pytest.raises(StorageError):
            await offers.publish([])
        offers._run = run  # type: ignore[method-assign]
        await offers.publish([CLOSED])
        assert await WorkerRegistry(redis, keys).current() == [CLOSED]


async def test_offers_run_out_and_are_bounded() -> None:
    async with redis_in_memory() as redis:
        offers = WorkerRegistry(redis, Keys("t"))
        await offers.publish([Offer("q", "openai", "m", None, f"w{number}") for number in range(MAX_OFFERS + 5)])
        assert len(await offers.current()) == MAX_OFFERS
        assert 0 < await redis.pttl(Keys("t").offers) <= TTL_S * 1000
