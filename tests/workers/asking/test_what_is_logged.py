"""What the log says of calls that fail, whatever the provider sends: enough to act on, and nothing of what was said.

Faults are those of the fault table, each at each of its moments, whose servers quote the question and the key.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
from collections.abc import Iterator, MutableMapping
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from relay import settings
from relay.store.session.replies import Claim
from relay_workers.asking.provider_pool import provider_pool
from relay_workers.generation import Generation
from relay_workers.limits import generation_limits
from relay_workers.writing.claimed import Claimed
from tests.fakes.provider import FakeProvider, Script
from tests.fakes.script import Api
from tests.scenarios.provider_faults import FAULTS, PLACES, Moment
from tests.store.in_memory import job_of, queue_on, redis_in_memory, session_log_on, whole_log

KEY = "correct-horse-battery-staple"
LIKE_A_KEY = "sk-live-0123456789abcdef"
QUESTION = "Where in Nakatomi Plaza did Holly leave her watch?"
TOKENS = [f"Gruber{number} " for number in range(12)]
SECRETS = ("Nakatomi", "Holly", "Gruber", LIKE_A_KEY[3:15], *(KEY[at : at + 8] for at in range(len(KEY) - 7)))
KEYS = SECRETS[3:]
LEAK = f"refused: '{QUESTION}' by Authorization: Bearer {KEY} or {LIKE_A_KEY}; {' '.join(TOKENS)}"

_BODIES = [
    f'{{"error": {{"code": "{KEY}", "type": "{LIKE_A_KEY}", "param": "{KEY}"}}}}',
    f'{{"error": "{KEY}"}}',
    LEAK,
    f"<html>{LEAK}",
    json.dumps(LEAK),
    json.dumps({"detail": [{"loc": [LEAK], "msg": LEAK, "input": QUESTION}]}),
]


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    prefixes = ("RELAY_", "OPENAI_", "ANTHROPIC_", "AGENT_")
    for name in [name for name in os.environ if name.startswith(prefixes) or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


def scripts(api: Api) -> Iterator[tuple[str, Script]]:
    moments: list[Moment] = ["agent"] if api == "agent" else ["before", "middle", "last"]
    for fault in FAULTS:
        for moment in moments:
            if getattr(fault, moment) is not None and fault.worker != "lost":
                yield f"{fault.name}, {moment}", _leaking(fault.make(api, moment, TOKENS), PLACES[moment], fault.silent)
    for body in _BODIES:
        yield body[:40], _leaking(Script(status=400, status_body=body), 0)
        if api != "agent":
            yield f"event {body[:40]}", _leaking(Script(tokens=TOKENS, garbage_after=1, garbage=body), 0)
    yield "redirect", Script(status=302, status_headers={"location": f"/{KEY}/?key={KEY}", **_HEADERS})


_HEADERS = {
    "x-request-id": KEY, "request-id": f"Bearer {KEY}", "cf-ray": "ray-1", "server": LEAK,
    "www-authenticate": f'Bearer realm="{KEY}"',
}  # fmt: skip


def _leaking(script: Script, place: int, silent: bool = False) -> Script:
    """The same with everything that a server may quote in it."""
    error = script.error if isinstance(script.error, dict) else {}
    body = json.dumps({"error": {**error, "message": LEAK}}) if script.status_body is None else script.status_body
    return dataclasses.replace(
        script,
        hold_before=place if silent else None,
        status_headers={**_HEADERS, **script.status_headers},
        status_body=body.replace("as scripted", json.dumps(LEAK)[1:-1]),
        error={**error, "message": LEAK},
        garbage=LEAK if script.garbage.startswith('{"choices": [') and script.garbage_after != 1 else script.garbage,
    )


class Asked:
    """A worker's providers before this fake."""

    def __init__(self, fake: FakeProvider, api: Api) -> None:
        self._settings = settings.load(
            openai_base_url=fake.openai_base_url,
            anthropic_base_url=fake.anthropic_base_url,
            agent_api_url=fake.agent_url,
            openai_api_key=KEY,
            anthropic_api_key=KEY,
            agent_api_key=KEY,
            provider=api,
            provider_retry_ms=1,
            provider_retries=1,
            first_token_timeout_s=0.5,
            token_timeout_s=0.5,
            agent_timeout_s=0.5,
        )
        self._pool = provider_pool(self._settings)

    async def logged(self) -> tuple[list[MutableMapping[str, Any]], dict[str, Any]]:
        """The lines of one answer to the question, and its end."""
        job = job_of(content=QUESTION)
        async with redis_in_memory() as redis:
            log = session_log_on(redis)
            await log.admit(job)
            claim = await log.claim("s", "g1", "w", 60_000, 0)
            assert isinstance(claim, Claim)
            claimed = Claimed(job, claim, "w", 60_000)
            limits = generation_limits(self._settings)
            with capture_logs() as lines:
                async with asyncio.timeout(60):
                    assert await Generation(claimed, self._pool, log, queue_on(redis), limits).run()
                    await self._pool.check()
            return lines, (await whole_log(log))[-1]

    async def aclose(self) -> None:
        await self._pool.aclose()


@pytest.mark.parametrize("api", ["openai", pytest.param("anthropic", marks=pytest.mark.slow), "agent"])
async def test_no_failure_brings_a_key_a_prompt_or_a_token_into_the_log(api: Api) -> None:
    failed = 0
    async with FakeProvider(Script()) as fake:
        asked = Asked(fake, api)
        for name, script in scripts(api):
            fake.script = script
            lines, end = await asked.logged()
            assert len(lines) > 1, name
            for line in lines:
                text = str(line)
                hidden = KEYS if line["log_level"] == "debug" else SECRETS
                assert not [secret for secret in hidden if secret in text], (name, line)
            failure = next((line for line in lines if line["event"] == "failed"), None)
            if failure is None:
                continue
            failed += 1
            assert failure["host"] == fake.openai_base_url.split("/")[2], name
            assert failure["path"].startswith("/")
            assert failure["code"] == end["error"]["code"]
            assert not [secret for secret in SECRETS if secret in str({**end, "usage": 0})], (name, end)
        await asked.aclose()
    assert failed > len(FAULTS)


async def test_what_a_provider_said_is_at_level_debug_and_what_it_named_is_with_every_failure() -> None:
    error = {"message": f"The key {LIKE_A_KEY} may not ask this", "code": "no_luck", "param": "messages"}
    script = Script(status=503, status_body=json.dumps({"error": error}), status_headers={"x-request-id": "r-1"})
    async with FakeProvider(script) as fake:
        asked = Asked(fake, "openai")
        lines, _ = await asked.logged()
        await asked.aclose()
    named = {
        "status": 503, "code": "provider_error", "provider_code": "no_luck", "param": "messages", "request_id": "r-1",
        "host": fake.openai_base_url.split("/")[2], "path": "/v1/chat/completions",
    }  # fmt: skip
    for event in ("failover", "failed"):
        (line,) = [line for line in lines if line["event"] == event]
        assert named.items() <= line.items()
        assert "may not ask this" not in str(line)
    said = [line["said"] for line in lines if line["event"] == "provider_said"]
    assert said == ["The key [masked] may not ask this"] * 2
    assert all(line["log_level"] == "debug" for line in lines if "said" in line)


async def test_a_provider_that_cannot_be_reached_is_named_with_its_address_and_the_setting() -> None:
    loaded = settings.load(provider="openai", openai_base_url="http://127.0.0.1:9/v1")
    pool = provider_pool(loaded)
    with capture_logs() as lines:
        await pool.check()
    await pool.aclose()
    (line,) = lines
    assert (line["event"], line["code"], line["host"]) == ("provider_unreachable", "provider_timeout", "127.0.0.1:9")
    assert line["hint"].startswith("OPENAI_BASE_URL: no connection to 127.0.0.1:9")


def test_the_leak_is_one() -> None:
    """Otherwise nothing above proves anything."""
    assert all(secret in LEAK for secret in SECRETS)
    assert msgspec.json.decode(msgspec.json.encode(LEAK)) == LEAK
