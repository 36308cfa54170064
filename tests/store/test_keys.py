"""Key names: the scripts derive what this module says, and nothing of a session or queue leaves its slot."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis
from redis.crc import key_slot

from relay.protocol.words import PRIORITIES
from relay.store.keys import Keys, lua_names
from tests.store.in_memory import redis_in_memory

SESSION_NAMES = [
    "meta", "log", "generations", "active", "transcript", "requests", "order", "deleted", "refused", "events",
]  # fmt: skip
GENERATION_NAMES = ["state", "text", "reasoning", "data"]
QUEUE_NAMES = ["open", "jobs", "entries", "trims", "policy", "served", "dead", "letters", *PRIORITIES]
SESSIONS = ["s", "user:1", "a.b-c_d", ":", "x" * 128]

REPORT = """
local found = {}
for name, key in pairs(KEY) do found[#found + 1] = 'KEY.' .. name; found[#found + 1] = key end
for name, key in pairs(QUEUE) do found[#found + 1] = 'QUEUE.' .. name; found[#found + 1] = key end
for name, of_generation in pairs(of) do
  found[#found + 1] = 'of.' .. name
  found[#found + 1] = of_generation('g_1')
end
return found
"""


async def derived(redis: Redis, key: str) -> dict[str, str]:
    """What a script that is given this key calls everything."""
    flat = [item.decode() for item in await redis.eval(lua_names() + REPORT, 1, key)]
    return dict(zip(flat[::2], flat[1::2], strict=True))


@pytest.mark.parametrize("prefix", ["relay", "a.b-c_1", "t"])
@pytest.mark.parametrize("session", SESSIONS)
async def test_a_sessions_scripts_derive_every_name_from_its_meta_key(prefix: str, session: str) -> None:
    keys = Keys(prefix)
    async with redis_in_memory() as redis:
        names = await derived(redis, keys.session(session))
    assert {name: key for name, key in names.items() if not name.startswith("QUEUE.")} == {
        **{f"KEY.{name}": keys.session(session, name) for name in SESSION_NAMES},
        **{f"of.{name}": keys.generation(session, "g_1", name) for name in GENERATION_NAMES},
    }


@pytest.mark.parametrize("queue", ["default", "a_b-C", "x" * 64])
async def test_a_queues_scripts_derive_every_name_from_its_open_key(queue: str) -> None:
    keys = Keys("relay")
    async with redis_in_memory() as redis:
        names = await derived(redis, keys.queue(queue))
    assert {name: key for name, key in names.items() if name.startswith("QUEUE.")} == {
        f"QUEUE.{name}": keys.queue(queue, name) for name in QUEUE_NAMES
    }


@pytest.mark.parametrize("session", SESSIONS)
def test_all_keys_of_a_session_share_one_slot(session: str) -> None:
    keys = Keys("relay")
    names = [keys.session(session, name) for name in SESSION_NAMES]
    names += [keys.generation(session, generation, name) for name in GENERATION_NAMES for generation in ("g_1", "g_2")]
    assert {key_slot(name.encode()) for name in names} == {key_slot(f"{{{session}}}".encode())}
    assert len(set(names)) == len(names)


def test_all_keys_of_a_queue_share_one_slot() -> None:
    names = [Keys("relay").queue("default", name) for name in QUEUE_NAMES]
    assert {key_slot(name.encode()) for name in names} == {key_slot(b"{default}")}
    assert len(set(names)) == len(names)


def test_names_are_these_literally() -> None:
    keys = Keys("relay")
    assert keys.session("user:1") == "relay:s:{user:1}:meta"
    assert keys.session("user:1", "events") == "relay:s:{user:1}:events"
    assert keys.generation("user:1", "g_1") == "relay:s:{user:1}:g:g_1"
    assert keys.generation("user:1", "g_1", "text") == "relay:s:{user:1}:t:g_1"
    assert keys.generation("user:1", "g_1", "reasoning") == "relay:s:{user:1}:r:g_1"
    assert keys.queue("default") == "relay:q:{default}:open"
    assert keys.queue("default", "high") == "relay:q:{default}:high"
    assert keys.queues == "relay:queues"
    assert (keys.revoked, keys.tickets) == ("relay:revoked", "relay:tickets")
    assert keys.worker("host-1f") == "relay:w:host-1f"


def test_every_key_of_a_script_tells_its_prefix() -> None:
    keys = Keys("a.b-c_1")
    for key in (keys.session("s"), keys.queue("q"), keys.queues, keys.offers, keys.revoked, keys.tickets):
        assert Keys.prefix_of(key) == "a.b-c_1"


def test_prefixes_keep_deployments_apart() -> None:
    one, other = Keys("a"), Keys("b")
    assert one.session("s") != other.session("s")
    assert one.queues != other.queues
