"""What is left in Redis when every answer has ended: nothing of any job, and no key that stays."""

from __future__ import annotations

from relay.protocol.words import PRIORITIES
from relay.store.keys import GROUP, Keys
from tests.scenarios.processes import until
from tests.scenarios.world import World


async def nothing_is_left(relay: World, queue: str = "default", timeout_s: float = 30.0) -> None:
    """Until no job of this queue is open, stored, waiting or pending; then every key is to have a TTL."""
    await until(lambda: _empty(relay, queue), f"nothing of any job is left: {await standing(relay, queue)}", timeout_s)
    forever = [key for key, ttl in (await relay.ttls()).items() if ttl == -1]
    assert not forever, f"without a TTL: {forever}"


async def standing(relay: World, queue: str = "default") -> dict[str, int]:
    """How many of each are left."""
    redis, key = relay.redis, Keys(relay.prefix).queue
    found = {
        "open": await redis.zcard(key(queue)),
        "jobs": await redis.hlen(key(queue, "jobs")),
        "entries": await redis.hlen(key(queue, "entries")),
    }
    for name in PRIORITIES:
        stream = key(queue, name)
        found[name] = await redis.xlen(stream)
        groups = await redis.xinfo_groups(stream) if await redis.exists(stream) else []
        found[f"{name} pending"] = sum(group["pending"] for group in groups if group["name"].decode() == GROUP)
    return found


async def _empty(relay: World, queue: str) -> bool:
    return not any((await standing(relay, queue)).values())
