"""The models a worker can ask. Each provider's SDK is imported only by the worker that uses it."""

from __future__ import annotations

from relay.errors import SettingsError
from relay.settings import Settings
from workers.providers.base import Provider

NAMES = ("anthropic", "openai", "demo")


def choose(settings: Settings) -> str:
    """The provider asked for, else the first whose key or base URL is set, else demo. Raises SettingsError."""
    asked = settings.provider
    if asked and asked not in NAMES:
        raise SettingsError(f"--provider / RELAY_PROVIDER: {asked} is not on offer; {', '.join(NAMES)} are")
    if asked:
        return asked
    if settings.anthropic_api_key or settings.anthropic_base_url:
        return "anthropic"
    return "openai" if settings.openai_api_key or settings.openai_base_url else "demo"


def make(settings: Settings) -> Provider:
    """The provider of these settings. Raises SettingsError that names what is missing."""
    name = choose(settings)
    common = (settings.model, settings.connect_timeout_s, settings.reasoning)
    if name == "anthropic":
        from workers.providers.anthropic import AnthropicProvider

        return AnthropicProvider(settings.anthropic_api_key, settings.anthropic_base_url, *common)
    if name == "openai":
        from workers.providers.openai import OpenAIProvider
        from workers.providers.openai_background import OpenAIBackgroundProvider

        kind = OpenAIBackgroundProvider if settings.openai_background else OpenAIProvider
        return kind(settings.openai_api_key, settings.openai_base_url, *common)
    from workers.providers.demo import DemoProvider

    return DemoProvider(tokens_per_second=settings.tokens_per_second)
