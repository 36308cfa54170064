"""Which provider a worker uses, what it needs for that, and that it loads no other provider's SDK."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from relay import settings
from relay.errors import SettingsError
from workers import providers
from workers.providers import NAMES


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("OPENAI_", "ANTHROPIC_", "RELAY_"))]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ({}, "demo"),
        ({"openai_api_key": "k"}, "openai"),
        ({"openai_base_url": "http://127.0.0.1/v1"}, "openai"),
        ({"anthropic_api_key": "k"}, "anthropic"),
        ({"anthropic_base_url": "http://127.0.0.1"}, "anthropic"),
        ({"anthropic_api_key": "k", "openai_api_key": "k"}, "anthropic"),
        ({"anthropic_base_url": "http://127.0.0.1", "openai_api_key": "k"}, "anthropic"),
        ({"anthropic_api_key": "k", "provider": "openai"}, "openai"),
        ({"openai_api_key": "k", "provider": "anthropic"}, "anthropic"),
        ({"anthropic_api_key": "k", "openai_api_key": "k", "provider": "demo"}, "demo"),
    ],
)
def test_the_provider_asked_for_wins_then_the_first_that_can_be_reached_then_the_demo(
    given: dict[str, Any], chosen: str
) -> None:
    assert providers.choose(settings.load(**given)) == chosen


def test_a_provider_that_is_not_on_offer_is_refused_with_those_that_are() -> None:
    with pytest.raises(SettingsError, match=r"RELAY_PROVIDER: parrot .*anthropic, openai, demo"):
        providers.make(settings.load(provider="parrot"))


@pytest.mark.parametrize("name", NAMES)
async def test_each_provider_is_made_under_its_name(name: str) -> None:
    provider = providers.make(settings.load(provider=name, openai_api_key="k", anthropic_api_key="k"))
    assert provider.name == name
    await provider.aclose()


@pytest.mark.parametrize(("name", "key"), [("openai", "OPENAI_API_KEY"), ("anthropic", "ANTHROPIC_API_KEY")])
def test_a_provider_without_its_key_names_it(name: str, key: str) -> None:
    with pytest.raises(SettingsError, match=key):
        providers.make(settings.load(provider=name))


@pytest.mark.parametrize(
    ("module", "loaded"),
    [
        ("workers.cli", set()),
        ("workers.providers.failures", set()),
        ("workers.providers.demo", set()),
        ("workers.providers.openai", {"openai"}),
        ("workers.providers.anthropic", {"anthropic"}),
    ],
)
def test_a_worker_loads_the_sdk_of_its_own_provider_only(module: str, loaded: set[str]) -> None:
    code = f"import sys, {module}; print(*{{'openai', 'anthropic'}} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert set(run.stdout.split()) == loaded
