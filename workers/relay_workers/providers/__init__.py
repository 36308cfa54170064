"""The models a worker can ask. Each provider's SDK is imported only by the worker that uses it.

To add one: its name in relay/settings.py (`ProviderName`), its file here, its case in `make`. mypy names what lacks.
"""

from __future__ import annotations

from typing import assert_never

from relay.errors import SettingsError
from relay.settings import PROVIDERS, ProviderName, Settings
from relay_workers.providers.base import Provider


def choose(settings: Settings) -> list[ProviderName]:
    """The providers asked for, in order; otherwise app if one is named, the first whose key or URL is set, or demo.

    Raises SettingsError.
    """
    asked = [_named(name.strip()) for name in settings.provider.split(",") if name.strip()]
    if len(set(asked)) < len(asked):
        raise SettingsError("--provider / RELAY_PROVIDER: each provider can stand in the list once")
    set_up: dict[ProviderName, str] = {
        "app": settings.app,
        "anthropic": settings.anthropic_api_key or settings.anthropic_base_url,
        "openai": settings.openai_api_key or settings.openai_base_url,
        "agent": settings.agent_api_url or settings.agent_api_key,
    }
    return asked or [next((name for name, value in set_up.items() if value), "demo")]


def _named(asked: str) -> ProviderName:
    """Raises SettingsError."""
    for name in PROVIDERS:
        if name == asked:
            return name
    raise SettingsError(f"--provider / RELAY_PROVIDER: {asked} is not on offer; {', '.join(PROVIDERS)} are")


def make(name: ProviderName, settings: Settings) -> Provider:
    """The provider of this name. Raises SettingsError that names what is missing."""
    common = (settings.model, settings.connect_timeout_s, settings.reasoning)
    match name:
        case "anthropic":
            from relay_workers.providers.anthropic import AnthropicProvider

            return AnthropicProvider(settings.anthropic_api_key, settings.anthropic_base_url, *common)
        case "openai":
            from relay_workers.providers.openai import OpenAIProvider
            from relay_workers.providers.openai_background import OpenAIBackgroundProvider

            kind = OpenAIBackgroundProvider if settings.openai_background else OpenAIProvider
            return kind(
                settings.openai_api_key,
                settings.openai_base_url,
                *common,
                settings.openai_done_ends,
                settings.openai_limit,
                settings.openai_stream_usage,
            )
        case "agent":
            from relay_workers.providers.agent import AgentProvider

            return AgentProvider(
                settings.agent_api_url,
                settings.agent_api_key,
                settings.connect_timeout_s,
                settings.agent_timeout_s,
                settings.agent_check_timeout_s,
                settings.model,
            )
        case "app":
            from relay_workers.providers.app import AppProvider

            return AppProvider(settings.app, settings.model)
        case "demo":
            from relay_workers.providers.demo import DemoProvider

            return DemoProvider(tokens_per_second=settings.tokens_per_second)
        case _:
            assert_never(name)
