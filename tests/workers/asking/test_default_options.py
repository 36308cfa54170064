"""RELAY_OPTIONS: the defaults of each provider, and one line about whatever cannot be one."""

from __future__ import annotations

import pytest

from relay import settings
from relay.errors import SettingsError
from relay.protocol.options import NAMES, Options
from relay_workers.asking.default_options import default_options

PROVIDERS = ("anthropic", "openai")


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("", {}),
        ("{}", {}),
        ('{"openai": {}}', {}),
        ('{"openai": {"seed": null}}', {}),
        ('{"openai": {"temperature": 0.2}}', {"openai": Options(temperature=0.2)}),
        (
            ' {"openai": {"temperature": 2, "stop": "END"}, "anthropic": {"effort": "low", "top_p": 1}}',
            {"openai": Options(temperature=2.0, stop=["END"]), "anthropic": Options(top_p=1.0, effort="low")},
        ),
    ],
)
def test_each_provider_has_its_own(given: str, found: dict[str, Options]) -> None:
    assert default_options(given, PROVIDERS) == found


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ('{"openai": {"temperature": 2.1}}', "openai.temperature: Expected `float` <= 2.0"),
        ('{"openai": {"temperature": true}}', "openai.temperature: Expected `float | null`, got `bool`"),
        ('{"openai": {}, "anthropic": {"stop": ["a", ""]}}', "anthropic.stop[1]: Expected `str` of length >= 1"),
        ('{"openai": {"seed": 0.5}}', "openai.seed: Expected `int | null`, got `float`"),
        ('{"openai": {"effort": "max"}}', "openai.effort must be low, medium, high."),
        ('{"openai": {"temprature": 1}}', f"openai.temprature is no option; {', '.join(NAMES)} are"),
        ('{"openai": {"": 1}}', f"openai. is no option; {', '.join(NAMES)} are"),
        ('{"openai": [1]}', "openai must be an object."),
        ('{"openai": null}', "openai must be an object."),
        ('{"agent": {"seed": 1}}', "agent is not among the providers, anthropic, openai"),
        ('{"temperature": 1}', "temperature is not among the providers, anthropic, openai"),
        ('{"openai": {"temperature": NaN}}', "it must be JSON such as"),
        ('{"openai": {"temperature": 1}', "it must be JSON such as"),
        ("openai", "it must be JSON such as"),
        ("[]", "it must be JSON such as"),
        ("null", "it must be JSON such as"),
        ('"\ud83d"', "it must be JSON such as"),
        ("[" * 100_000, "it must be JSON such as"),
    ],
)
def test_what_a_submit_could_not_ask_for_is_refused_by_its_name(given: str, said: str) -> None:
    with pytest.raises(SettingsError) as raised:
        default_options(given, PROVIDERS)
    assert str(raised.value).startswith(f"RELAY_OPTIONS: {said}")


def test_the_setting_is_read_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_OPTIONS", '{"openai": {"seed": 7}}')
    assert default_options(settings.load().options, PROVIDERS) == {"openai": Options(seed=7)}
