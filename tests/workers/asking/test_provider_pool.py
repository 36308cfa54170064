"""Who is in the lineup by which settings, and who of them may answer a job."""

from __future__ import annotations

import re
from typing import Any

import pytest
from msgspec.structs import replace

from relay import settings
from relay.errors import SettingsError
from relay.protocol.options import Options
from relay.store.jobs import Job
from relay_workers.asking.provider_pool import ProviderPool, provider_pool
from relay_workers.providers.base import Prompt, ProviderError
from tests.store.in_memory import job_of

KEYS = {"ANTHROPIC_API_KEY": "sk-ant-x", "OPENAI_API_KEY": "sk-x"}


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)


def made(**flags: Any) -> ProviderPool:
    return provider_pool(settings.load(**flags))


def job(**fields: Any) -> Job:
    return replace(job_of(), **fields)


def names(lined_up: ProviderPool, **fields: Any) -> list[str]:
    return [seat.name for seat in lined_up.candidates(job(**fields))]


def test_the_list_is_the_order_in_which_they_are_asked() -> None:
    assert made(provider=" openai, anthropic ,demo").names == ["openai", "anthropic", "demo"]


def test_without_a_list_it_is_the_first_whose_key_is_set() -> None:
    assert made().names == ["anthropic"]


@pytest.mark.parametrize(
    ("provider", "sentence"),
    [("openai,openai", "each provider can stand in the list once"), ("openai,oracle", "oracle is not on offer")],
)
def test_a_list_that_cannot_be_is_refused_by_its_name(provider: str, sentence: str) -> None:
    with pytest.raises(SettingsError, match=f"--provider / RELAY_PROVIDER: {re.escape(sentence)}"):
        made(provider=provider)


def test_a_missing_key_of_any_of_them_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(SettingsError, match="OPENAI_API_KEY is not set"):
        made(provider="anthropic,openai")


def test_models_go_to_the_provider_they_name_else_to_the_first() -> None:
    lined_up = made(
        provider="openai,anthropic", model="gpt-x,anthropic:claude-x", models="llama3:8b, anthropic:claude-y"
    )
    openai, anthropic = lined_up.slots
    assert (openai.provider.model, openai.models) == ("gpt-x", ("llama3:8b",))
    assert (anthropic.provider.model, anthropic.models) == ("claude-x", ("claude-y",))


@pytest.mark.parametrize("flag", ["model", "models"])
def test_a_model_of_a_provider_that_is_not_in_the_list_is_refused(flag: str) -> None:
    with pytest.raises(SettingsError, match="anthropic:claude-x: anthropic is not among the providers, openai, demo"):
        made(provider="openai,demo", **{flag: "anthropic:claude-x"})


def test_a_provider_that_is_asked_for_is_asked_alone() -> None:
    assert names(made(provider="openai,anthropic"), provider="anthropic") == ["anthropic"]


def test_one_that_is_not_there_is_an_error_of_the_question() -> None:
    with pytest.raises(ProviderError) as caught:
        names(made(provider="openai"), provider="demo")
    assert (caught.value.code, caught.value.retryable, caught.value.is_sick) == ("provider_error", False, False)


def test_a_model_goes_to_those_who_list_it() -> None:
    lined_up = made(provider="openai,anthropic", model="gpt-x,anthropic:claude-x", models="anthropic:claude-y")
    assert names(lined_up, model="claude-x") == ["anthropic"]
    assert names(lined_up, model="claude-y") == ["anthropic"]
    assert names(lined_up, model="gpt-x") == ["openai"]


def test_a_model_that_nobody_lists_goes_to_the_first_who_takes_any() -> None:
    assert names(made(provider="openai,anthropic"), model="unheard-of") == ["openai"]
    assert names(made(provider="openai,anthropic", models="openai:only-this"), model="unheard-of") == ["anthropic"]


def test_gateways_are_told_of_each_and_of_its_breaker() -> None:
    lined_up = made(provider="openai,demo", models="openai:gpt-y")
    lined_up.slots[1].breaker.failed(0, 60)
    told = lined_up.offers("q", "w1")
    assert [(offer.queue, offer.provider, offer.models, offer.worker) for offer in told] == [
        ("q", "openai", ["gpt-y"], "w1"),
        ("q", "demo", None, "w1"),
    ]
    assert told[0].state == "closed"
    assert told[1].state in ("open", "half_open")


def test_each_provider_has_its_default_options() -> None:
    pool = made(provider="anthropic,openai,demo", options='{"openai": {"seed": 7}, "anthropic": {"effort": "low"}}')
    assert [slot.options for slot in pool.slots] == [Options(effort="low"), Options(seed=7), None]
    asked = Prompt([], options=Options(seed=1))
    assert [slot.prompt(asked).options for slot in pool.slots] == [
        Options(seed=1, effort="low"), Options(seed=1), Options(seed=1),
    ]  # fmt: skip


def test_options_of_a_provider_that_is_not_asked_are_refused() -> None:
    with pytest.raises(SettingsError, match="RELAY_OPTIONS: openai is not among the providers, demo"):
        made(provider="demo", options='{"openai": {"seed": 7}}')
