"""`relay-worker --check`: what it says of each provider is true, and says nothing of keys and answers."""

from __future__ import annotations

import asyncio
import os
import re
import socket
from typing import Any

import pytest
from typer.testing import CliRunner

from relay import settings
from relay_workers import check, cli
from relay_workers.asking.provider_pool import provider_pool
from relay_workers.check import Report, reports
from relay_workers.limits import generation_limits
from relay_workers.providers.base import Part
from tests.fakes.provider import FakeProvider, Script
from tests.fakes.raw_server import http, raw_server
from tests.logs_as_before import logs_as_before

KEY = "correct-horse-battery-staple"
ANSWER = ["Nakatomi", " Plaza", " it", " is"]
USAGE = {"prompt_tokens": 11, "completion_tokens": 7}


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    prefixes = ("RELAY_", "OPENAI_", "ANTHROPIC_", "AGENT_")
    for name in [name for name in os.environ if name.startswith(prefixes) or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


async def checked(provider: str, **given: Any) -> list[Report]:
    loaded = settings.load(provider=provider, **given)
    found = [report async for report in reports(generation_limits(loaded), provider_pool(loaded))]
    for report in found:
        assert KEY not in report.text
        assert "Nakatomi" not in report.text
    return found


def said(report: Report) -> dict[str, str]:
    """What stands behind each name."""
    title, *lines = report.text.split("\n")
    assert title == f"{report.provider}: {'works' if report.works else 'does not work'}"
    matches = [re.fullmatch(r"  (\S+(?: \S+)*) {2,}(\S.*)", line) for line in lines]
    assert len({match.start(2) for match in matches if match}) == 1, "they are aligned"
    return {match[1]: match[2] for match in matches if match}


SECONDS = re.compile(r"\d+\.\d{3} s")


@pytest.mark.parametrize("api", ["openai", "anthropic"])
async def test_what_a_good_answer_was_like(api: str) -> None:
    async with FakeProvider(Script(tokens=ANSWER, reasoning=["Hm", "m"], usage=USAGE)) as fake:
        url = fake.openai_base_url if api == "openai" else fake.anthropic_base_url
        (report,) = await checked(api, model="some-model", **{f"{api}_base_url": url, f"{api}_api_key": KEY})
        (call,) = fake.calls
    assert report.works
    lines = said(report)
    assert all(SECONDS.fullmatch(lines.pop(name)) for name in ("first event", "first token"))
    assert lines == {
        "base URL": url, "reachable": "yes",
        "asked for": "model some-model", "answered": "model some-model",
        "usage": "11 tokens in, 7 out", "finish": "stop", "streams": "yes, 6 parts", "text": "20 characters",
        "reasoning": "yes, 2 parts",
    }  # fmt: skip
    assert call.body.get("max_tokens", call.body.get("max_completion_tokens")) == 16


async def test_what_came_whole_is_said_to_have_done_so_and_a_missing_usage_to_be_missing() -> None:
    answer = b'{"model": "other", "choices": [{"message": {"content": "Nakatomi"}, "finish_reason": "length"}]}'
    async with raw_server(http(200, answer, content_type="application/json")) as url:
        (report,) = await checked("openai", openai_base_url=f"{url}/v1")
    assert report.works
    lines = said(report)
    assert lines["streams"] == "not to be seen: it came as one part"
    assert (lines["usage"], lines["finish"]) == ("none", "length")
    assert (lines["answered"], lines["reasoning"]) == ("model other", "no")


async def test_an_agent_and_the_demo_are_checked_as_well() -> None:
    async with FakeProvider(Script(tokens=ANSWER)) as fake:
        agent, demo = await checked("agent,demo", agent_api_url=fake.agent_url, agent_api_key=KEY)
    assert (agent.works, demo.works) == (True, True)
    assert said(agent)["streams"] == "no, an agent answers whole"
    assert said(demo)["streams"].startswith("yes, ")


async def test_one_that_fails_is_explained_and_the_next_is_checked_all_the_same() -> None:
    async with FakeProvider(Script(tokens=ANSWER)) as fake:
        url = fake.anthropic_base_url
        openai, anthropic = await checked("openai,anthropic", openai_base_url=url, anthropic_base_url=url)
    assert (openai.works, anthropic.works) == (False, True)
    lines = said(openai)
    assert lines["failure"] == "provider_error, which will not pass by itself"
    assert (lines["status"], lines["path"], lines["host"]) == ("404", "/chat/completions", url.removeprefix("http://"))
    assert lines["hint"].startswith("OPENAI_BASE_URL has no /v1: ")


@pytest.mark.parametrize("api", ["openai", "anthropic", "agent"])
async def test_where_nobody_listens_it_is_not_reachable(api: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        name = f"{api}_api_url" if api == "agent" else f"{api}_base_url"
        (report,) = await checked(api, **{name: f"http://user:{KEY}@127.0.0.1:{unused.getsockname()[1]}"})
    assert not report.works
    lines = said(report)
    assert lines["reachable"].startswith("no: ")
    assert "no connection to 127.0.0.1" in lines["hint"]
    assert "streams" not in lines


async def test_it_waits_as_long_as_for_a_real_answer() -> None:
    async with FakeProvider(Script(tokens=ANSWER, hold_before=2)) as fake:
        (silent,) = await checked("openai", openai_base_url=fake.openai_base_url, token_timeout_s=0.2)
        fake.script = Script(tokens=ANSWER, hold_status=True)
        (never,) = await checked("openai", openai_base_url=fake.openai_base_url, first_token_timeout_s=0.2)
        await fake.wait_for(lambda f: all(call.client_gone_at for call in f.calls))
    assert said(silent)["text"] == "14 characters"
    for report in (silent, never):
        assert not report.works
        assert said(report)["failure"] == "provider_timeout, which may pass"


async def test_a_background_answer_that_fails_is_not_left_running() -> None:
    async with FakeProvider(Script(tokens=ANSWER, hold_before=2)) as fake:
        (report,) = await checked(
            "openai", openai_base_url=fake.openai_base_url, openai_background=True, token_timeout_s=0.2
        )
        assert not report.works
        await fake.wait_for(lambda f: f.calls[0].cancelled_at)


async def test_a_background_answer_is_not_left_running_by_whoever_interrupts_the_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handle = asyncio.Event()
    note = check._note

    def noted(found: check.Found, part: Part, after_s: float) -> None:
        note(found, part, after_s)
        handle.set()

    monkeypatch.setattr(check, "_note", noted)
    async with FakeProvider(Script(tokens=ANSWER, hold_before=0)) as fake:
        checking = asyncio.create_task(
            checked("openai", openai_base_url=fake.openai_base_url, openai_background=True), name="check"
        )
        await handle.wait()
        checking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await checking
        assert fake.calls[0].cancelled_at is not None


def test_the_command_ends_well_if_all_work() -> None:
    with logs_as_before():
        done = CliRunner().invoke(cli.app, ["--check", "--tokens-per-second", "1000"])
    assert (done.exit_code, done.output.partition("\n")[0]) == (0, "demo: works")
