"""The models a worker can ask. Each provider's SDK is imported only by the worker that uses it."""

from __future__ import annotations

from relay.errors import SettingsError
from relay.settings import Settings
from workers.providers.base import Provider

NAMES = ("openai", "demo")


def choose(settings: Settings) -> str:
    """The provider asked for, else the one whose key or base URL is set, else demo. Raises SettingsError."""
    asked = settings.provider
    if not asked:
        return "openai" if settings.openai_api_key or settings.openai_base_url else "demo"
    if asked not in NAMES:
        raise SettingsError(f"--provider / RELAY_PROVIDER: {asked} is not on offer; {' and '.join(NAMES)} are")
    return asked


def make(settings: Settings) -> Provider:
    """The provider of these settings. Raises SettingsError that names what is missing."""
    if choose(settings) == "demo":
        from workers.providers.demo import DemoProvider

        return DemoProvider(tokens_per_second=settings.tokens_per_second)
    from workers.providers.openai import OpenAIProvider

    return OpenAIProvider(
        settings.openai_api_key or None,
        settings.openai_base_url or None,
        settings.model or "gpt-5-mini",
        settings.connect_timeout_s,
        settings.reasoning,
    )
