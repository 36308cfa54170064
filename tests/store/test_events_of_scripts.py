"""Whatever a script writes or puts together is an event as relay/protocol/events.py has it, and nothing more.

Scripts write JSON by hand, and send on what Python gives them: no type holds the two together.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Union

import msgspec
import pytest
from redis.asyncio import Redis

import relay.store.scripts
from relay.protocol import events
from relay.store.scripts import Script
from tests.store.in_memory import Clock, answered, claimed, job_of, session_log_on
from tests.store.lua_sources import lua_files, preludes
from tests.store.test_expiry import STEPS, Stage

KINDS: dict[str, type[msgspec.Struct]] = {
    str(kind.__struct_config__.tag): kind for kind in events.Event.__subclasses__()
}
ANY_EVENT: Any = Union[tuple(KINDS.values())]  # noqa: UP007 - of what is only known when this runs
# Every script that is not named writes none.
WRITES = {
    "admit": {"message", "status"},
    "append": {"status", "tokens", "reasoning", "data", "restart"},
    "bury": {"end"},
    "delete": {"end"},
    "end": {"end"},
    "reap": {"end"},
    "rebuild": {"message", "status"},
    "stop": {"end"},
    "unserved": {"status"},
}
COMPLETE = (
    b'{"finish":"length","provider":"demo","model":"demo-1","usage":{"input_tokens":1,"output_tokens":2},'
    b'"message_id":"m_1"}'
)


def event_type(body: bytes) -> str:
    """Of an event that its struct has every field of, each of its type; what it has beyond that fails the test."""
    event = msgspec.json.decode(body, type=ANY_EVENT)
    said = msgspec.json.decode(body)
    assert members_of(event) >= members_of(said), f"{body!r} has more than {type(event).__name__}"
    return str(said["type"])


def members_of(value: Any, path: str = "") -> set[str]:
    """Of an object, and of those in it, by their way from the root; of what may hold anything only that it is there."""
    if isinstance(value, msgspec.Struct):
        tag = value.__struct_config__.tag
        fields = {name: getattr(value, name) for name in value.__struct_fields__}
        return members_of(fields | ({"type": tag} if tag is not None else {}), path)
    if not isinstance(value, dict) or path == ".value":
        return {path}
    return {path}.union(*(members_of(one, f"{path}.{name}") for name, one in value.items()))


class Watch:
    """What each script has written to the log of session `s`, and published."""

    def __init__(self, redis: Redis, log_key: str) -> None:
        self.types: dict[str, set[str]] = {}
        self._redis = redis
        self._log_key = log_key
        self._published = redis.pubsub(ignore_subscribe_messages=True)

    async def begin(self, channel: str) -> None:
        await self._published.subscribe(channel)
        await self._heard()

    async def ran(self, name: str, before: dict[Any, Any]) -> None:
        written = [entry[b"e"] for seq, entry in (await self.entries()).items() if before.get(seq) != entry]
        heard = await self._heard()
        if name != "delete":  # which takes the log along
            assert written == heard, f"{name} publishes what it writes"
        self.types.setdefault(name, set()).update(map(event_type, heard))

    async def entries(self) -> dict[Any, Any]:
        found: Any = await self._redis.xrange(self._log_key)
        return dict(found)

    async def _heard(self) -> list[bytes]:
        heard: list[bytes] = []
        while (message := await self._published.get_message(timeout=0)) is not None:
            heard.append(message["data"])
        bodies = (one.split(b" ", 2)[2] for one in heard)
        return [body for body in bodies if body]  # without one: no event, a reason to look


async def test_what_each_script_writes_is_an_event_and_nothing_more(
    redis: Redis, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = Stage(redis)
    watch = Watch(redis, stage.log.keys.session("s", "log"))
    await watch.begin(stage.log.keys.session("s", "events"))
    run = Script.__call__

    async def watched(script: Script, *arguments: Any) -> Any:
        before = await watch.entries()
        reply = await run(script, *arguments)
        await watch.ran(script.name, before)
        return reply

    monkeypatch.setattr(relay.store.scripts.Script, "__call__", watched)
    for step in STEPS:
        clock.advance(ms=1)
        await step(stage)
    writer = await brought_back(stage, redis)
    assert (await stage.log.end("s", "g9", writer, "complete", COMPLETE, 0, "m_1", 1)).what == "written"

    scripts = lua_files().keys() - preludes().keys() - {"acl"}  # which asks what may be run, and runs nothing
    assert watch.types == {name: WRITES.get(name, set()) for name in scripts}


async def brought_back(stage: Stage, redis: Redis) -> int:
    """Everything is lost, and one answer is there again; the fence of its worker."""
    await stage.log.admit(job_of("g9"))
    await stage.claim("g9")
    await redis.flushall()
    await stage.rebuild("g9")
    standing = await stage.log.generation_fields("s", "g9")
    assert standing is not None
    return int(standing["fence"])


async def test_what_range_puts_together_is_an_event_and_nothing_more(redis: Redis) -> None:
    log = session_log_on(redis, max_generations=2)
    await answered(log, job_of("g1"), "a")
    retry = job_of("g2", retry_of="g1", message_id="m-g1", content="question of g1")
    await log.admit(retry)
    writer = await claimed(log, retry)
    for text in ('"quo', "ted\\", "\n\x7f\u2028"):
        await writer.reasoning(text)
        await writer.tokens(text)
    await writer.end("complete", "a-g2")
    while await log.trim("s", "g2"):
        pass
    await answered(log, job_of("g3"), "c")  # the first goes, and leaves its question to the second
    page = await log.range("s", 1)
    assert page is not None
    bodies = [body for _, body in page.entries]
    assert types(bodies) == ["message", "status", "reasoning", "tokens", "end", "message", "status", "tokens", "end"]
    message, _, reasoning, tokens, *_ = map(msgspec.json.decode, bodies)
    assert message["generation"] == "g2"
    assert reasoning["text"] == tokens["text"] == '"quoted\\\n\x7f\u2028'


def types(bodies: Iterable[bytes]) -> list[str]:
    return [event_type(body) for body in bodies]


@pytest.mark.parametrize(
    "body",
    [
        b'{"type":"status","generation":"g1","attempt":1,"state":"queued","extra":1}',
        b'{"type":"status","generation":"g1","attempt":"1","state":"queued"}',
        b'{"type":"status","generation":"g1","attempt":1}',
        b'{"type":"unheard of","generation":"g1"}',
        b'{"type":"end","generation":"g1","attempt":1,"reason":"stopped","count":0,"text_bytes":0,"crc32":0}',
    ],
)
def test_what_is_no_such_event_is_noticed(body: bytes) -> None:
    with pytest.raises((msgspec.ValidationError, AssertionError)):
        event_type(body)
