"""Settings: flags beat the environment, which beats the defaults; what cannot be used is named; the docs show all."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from relay import settings
from relay.errors import SettingsError
from relay.failure_messages import BUILT_IN, ENGLISH
from relay.settings import Settings

DOCS = Path(__file__).parent.parent / "docs" / "settings.md"
ROW = re.compile(r"\| `(?P<variable>[A-Z0-9_]+)` \| (?P<default>.*?) ?\| (?P<description>.+) \|")


def variables() -> dict[str, str]:
    """Environment variable → name of the setting."""
    return {
        str(field.validation_alias.choices[0]) if field.validation_alias else f"RELAY_{name.upper()}": name  # type: ignore[union-attr]
        for name, field in Settings.model_fields.items()
    }


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (*variables(), "PORT"):
        monkeypatch.delenv(variable, raising=False)


def test_without_flags_and_environment_the_defaults_hold() -> None:
    loaded = settings.load()
    assert (loaded.redis_url, loaded.port, loaded.batch_size) == ("redis://127.0.0.1:6379/0", 8080, 20)
    assert loaded.model_dump() == {name: field.default for name, field in Settings.model_fields.items()}


def test_the_environment_beats_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_PORT", "9000")
    monkeypatch.setenv("RELAY_LEASE_S", "2.5")
    monkeypatch.setenv("RELAY_REASONING", "false")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    loaded = settings.load()
    assert (loaded.port, loaded.lease_s, loaded.reasoning) == (9000, 2.5, False)
    assert loaded.openai_base_url == "http://127.0.0.1:1/v1"


def test_the_root_path_has_no_slash_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, path in {"/relay": "/relay", "/chat/relay/": "/chat/relay", "/": "", "": "", "/v1x": "/v1x"}.items():
        monkeypatch.setenv("RELAY_ROOT_PATH", given)
        assert settings.load().root_path == path


def test_flags_beat_the_environment_and_one_that_is_not_given_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_PORT", "9000")
    monkeypatch.setenv("RELAY_HOST", "::1")
    loaded = settings.load(port=9100, host=None, queue="fast")
    assert (loaded.port, loaded.host, loaded.queue) == (9100, "::1", "fast")


def test_every_setting_can_be_set_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    for variable, name in variables().items():
        default = Settings.model_fields[name].default
        value: Any = "x"
        if isinstance(default, bool):
            value = not default
        elif isinstance(default, int | float):
            value = default + 1
        special = {
            "max_content_bytes": 1024,
            "log_level": "error",
            "url": "wss://x",
            "failover": "end",
            "loop": "uvloop",
            "openai_done_ends": "no",
            "openai_limit": "max_tokens",
            "openai_stream_usage": "no",
            "root_path": "/x",
            "metrics_token": "x" * 16,
        }
        special |= {"failure_messages": {"de": "x"}}
        value = special.get(name, value)
        monkeypatch.setenv(variable, json.dumps(value) if isinstance(value, dict) else str(value))
        given[name] = value
    assert settings.load().model_dump() == given


@pytest.mark.parametrize(
    ("variable", "value", "flag"),
    [
        ("RELAY_PORT", "http", "--port"),
        ("RELAY_PORT", "65536", "--port"),
        ("RELAY_PORT", "-1", "--port"),
        ("RELAY_URL", "nonsense", "--url"),
        ("RELAY_QUEUE", "a b", "--queue"),
        ("RELAY_QUEUE", "", "--queue"),
        ("RELAY_CONCURRENCY", "0", "--concurrency"),
        ("RELAY_TOKENS_PER_SECOND", "0", "--tokens-per-second"),
        ("RELAY_PREFIX", "a:b", ""),
        ("RELAY_ROOT_PATH", "relay", ""),
        ("RELAY_ROOT_PATH", "https://chat.example.com/relay", ""),
        ("RELAY_ROOT_PATH", "//chat.example.com", ""),
        ("RELAY_ROOT_PATH", "/relay/../x", ""),
        ("RELAY_ROOT_PATH", "/re lay", ""),
        ("RELAY_ROOT_PATH", "/relay?x", ""),
        ("RELAY_ROOT_PATH", "/v1", ""),
        ("RELAY_ROOT_PATH", "/metrics/relay", ""),
        ("RELAY_PREFIX", "{a}", ""),
        ("RELAY_BATCH_SIZE", "1.5", ""),
        ("RELAY_LEASE_S", "0", ""),
        ("RELAY_LEASE_S", "nan", ""),
        ("RELAY_STALL_S", "0", ""),
        ("RELAY_REASONING", "perhaps", ""),
        ("RELAY_LOG_LEVEL", "loud", ""),
        ("RELAY_MAX_FRAME_BYTES", "1024", ""),
        ("RELAY_FAILURE_MESSAGE", "", ""),
        ("RELAY_FAILURE_MESSAGE", "two\nlines", ""),
        ("RELAY_FAILURE_MESSAGES", "de=Schade", ""),
        ("RELAY_FAILURE_MESSAGES", '["de"]', ""),
        ("RELAY_FAILURE_MESSAGES", '{"de": ""}', ""),
        ("RELAY_FAILURE_MESSAGES", '{"de": null}', ""),
        ("RELAY_FAILURE_MESSAGES", '{"de": "a\\u0007"}', ""),
        ("RELAY_FAILURE_MESSAGES", '{"de": "\\ud83d"}', ""),
        ("RELAY_FAILURE_MESSAGES", '{"de_CH": "Schade."}', ""),
        ("RELAY_FAILURE_MESSAGES", '{"": "Schade."}', ""),
    ],
)
def test_a_value_that_cannot_be_used_names_its_variable_and_flag(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, flag: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as raised:
        settings.load()
    assert variable in str(raised.value)
    assert flag in str(raised.value)
    assert repr(value) in str(raised.value)


JARGON = re.compile(r"Input|String|Value error|should|parse|pattern|regex|valid|\^|\$|\[", re.ASCII)


def test_what_is_wrong_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """No library's words and no regular expression, whatever is wrong with which setting."""
    said = set()
    for value in ("", "x", "a b", "1.5", "-1", "0", "inf", "nan", "1e999", "[1]", "9" * 20, "9" * 5000, "\udcff"):
        for variable in variables():
            monkeypatch.setenv(variable, value)
        with pytest.raises(SettingsError) as raised:
            settings.load()
        for line in re.split(r"; (?=(?:--[a-z-]+ / )?[A-Z_]{5,}: )", str(raised.value)):
            sentence = line.split(": ", 1)[1].rpartition(" (got ")[0]
            said.add(sentence.replace(value, "") if len(value) > 2 else sentence)
    assert len(said) > 30, "most of the bounds"
    assert [sentence for sentence in said if JARGON.search(sentence)] == []


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("RELAY_PORT", "http", "--port / RELAY_PORT: it must be a whole number (got 'http')"),
        ("RELAY_PORT", "65536", "--port / RELAY_PORT: it must be at most 65535 (got '65536')"),
        ("RELAY_MAX_FRAME_BYTES", "1", "RELAY_MAX_FRAME_BYTES: it must be at least 262144 (got '1')"),
        ("RELAY_LEASE_S", "0.1", "RELAY_LEASE_S: it must be at least 0.2 (got '0.1')"),
        ("RELAY_STALL_S", "0", "RELAY_STALL_S: it must be more than 0 (got '0')"),
        ("RELAY_STALL_S", "soon", "RELAY_STALL_S: it must be a number (got 'soon')"),
        ("RELAY_REASONING", "perhaps", "RELAY_REASONING: it must be true or false (got 'perhaps')"),
        ("RELAY_FAILOVER", "x", "RELAY_FAILOVER: it must be 'restart' or 'end' (got 'x')"),
        ("RELAY_LOG_LEVEL", "x", "RELAY_LOG_LEVEL: it must be 'debug', 'info', 'warning' or 'error' (got 'x')"),
        (
            "RELAY_PREFIX",
            "a:b",
            "RELAY_PREFIX: it must be 1 to 32 letters (a to z), digits, dots, hyphens and underscores (got 'a:b')",
        ),
        (
            "RELAY_QUEUE",
            "a\n",
            "--queue / RELAY_QUEUE: it must be 1 to 64 letters (a to z), digits, hyphens and underscores (got 'a\\n')",
        ),
        (
            "RELAY_URL",
            "localhost:8080",
            "--url / RELAY_URL: it must be http://, https://, ws:// or wss://, and then a host (got 'localhost:8080')",
        ),
    ],
)
def test_the_words(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, sentence: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as raised:
        settings.load()
    assert str(raised.value) == sentence


def test_what_was_given_is_shown_in_part_where_it_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_PORT", "x" * 10_000)
    with pytest.raises(SettingsError) as raised:
        settings.load()
    assert str(raised.value) == f"--port / RELAY_PORT: it must be a whole number (got '{'x' * 199}…)"


def test_port_counts_for_a_gateway_where_nothing_of_ours_names_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "5000")
    assert settings.load_for_gateway().port == 5000
    assert settings.load_for_gateway(port=9000).port == 9000
    assert settings.load().port == 8080
    monkeypatch.setenv("relay_port", "7000")
    assert settings.load_for_gateway().port == 7000
    monkeypatch.delenv("relay_port")
    monkeypatch.setenv("PORT", "")
    assert settings.load_for_gateway().port == 8080


def test_port_is_refused_as_our_own_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "abc")
    monkeypatch.setenv("RELAY_LEASE_S", "x")
    with pytest.raises(
        SettingsError, match=r"^PORT: it must be a whole number \(got 'abc'\); RELAY_LEASE_S: "
    ) as raised:
        settings.load_for_gateway()
    assert "RELAY_PORT" not in str(raised.value)
    monkeypatch.setenv("RELAY_PORT", "65536")
    with pytest.raises(SettingsError, match=r"^--port / RELAY_PORT: it must be at most 65535 \(got '65536'\); "):
        settings.load_for_gateway()


def test_whether_a_setting_is_in_the_environment_is_asked_as_settings_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not settings.is_in_environment("openai_api_key")
    monkeypatch.setenv("relay_openai_API_key", "x")
    assert settings.load().openai_api_key == "x"
    assert settings.is_in_environment("openai_api_key")
    assert not settings.is_in_environment("anthropic_api_key")


def test_every_variable_that_is_listed_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A warning of an unknown setting must not name one that works."""
    for name in ("redis_url", "host", "anthropic_api_key", "agent_api_url", "openai_base_url"):
        for variable in settings.variables()[name]:
            monkeypatch.setenv(variable, "x")
            assert getattr(settings.load(), name) == "x", variable
            monkeypatch.delenv(variable)


def test_all_that_cannot_be_used_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_PORT", "x")
    monkeypatch.setenv("RELAY_LEASE_S", "x")
    with pytest.raises(SettingsError, match=r"RELAY_PORT.*; RELAY_LEASE_S"):
        settings.load()


def test_a_flag_that_cannot_be_used_is_named_too() -> None:
    with pytest.raises(SettingsError, match=r"--port / RELAY_PORT.*99999"):
        settings.load(port=99999)


# `inf` would break what counts with it: `int(inf * 1000)` is an OverflowError.
def test_no_duration_is_infinite(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    for variable, name in variables().items():
        if Settings.model_fields[name].annotation is float:
            monkeypatch.setenv(variable, "inf")
            try:
                settings.load()
                taken.append(variable)
            except SettingsError as error:
                if variable not in str(error):
                    taken.append(variable)
            monkeypatch.delenv(variable)
    assert taken == []


def test_a_key_is_in_no_text_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-secret")
    loaded = settings.load()
    assert (loaded.openai_api_key, loaded.anthropic_api_key) == ("sk-secret", "sk-secret")
    assert "sk-secret" not in repr(loaded)
    assert "sk-secret" not in str(loaded)


SECRETS = ("OPENAI_API_KEY", "AGENT_API_KEY", "RELAY_AUTH_SECRET", "RELAY_METRICS_TOKEN", "RELAY_TOKEN")


def test_a_secret_is_in_no_text_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in SECRETS:
        monkeypatch.setenv(variable, "hunter2-and-longer")
    loaded = settings.load()
    assert (loaded.auth_secret, loaded.metrics_token, loaded.token) == ("hunter2-and-longer",) * 3
    assert "hunter2" not in repr(loaded)
    assert "hunter2" not in str(loaded)


@pytest.mark.parametrize("name", [name for name, field in Settings.model_fields.items() if not field.repr])
def test_a_secret_that_cannot_be_used_is_not_quoted(name: str) -> None:
    with pytest.raises(SettingsError) as raised:
        settings.load(**{name: ["hunter2"], "prefix": "a:b"})
    said = str(raised.value)
    assert f"{name.upper()}: it must be a text" in said
    assert "(got 'a:b')" in said
    assert "hunter2" not in said


def test_a_sentence_has_at_most_500_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    longest = {"de": "ä" * 500}
    monkeypatch.setenv("RELAY_FAILURE_MESSAGES", json.dumps(longest))
    assert settings.load(failure_message="ä" * 500).failure_messages == longest
    monkeypatch.setenv("RELAY_FAILURE_MESSAGES", json.dumps({"de": "ä" * 501}))
    with pytest.raises(SettingsError, match=r"^RELAY_FAILURE_MESSAGE: .*; RELAY_FAILURE_MESSAGES: de: .* 500 char"):
        settings.load(failure_message="ä" * 501)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, {"de-CH": BUILT_IN["de"], "en": ENGLISH, "sw": ENGLISH, None: ENGLISH}),
        ({"failure_message": "Sorry."}, {"de": "Sorry.", "en": "Sorry.", None: "Sorry."}),
        ({"failure_messages": {"de": "Schade."}}, {"de-CH": "Schade.", "fr,de": "Schade.", "fr": ENGLISH}),
        # Our English is still there for who likes it better.
        ({"failure_messages": {"de": "Schade."}}, {"en-US,de": ENGLISH, "de,en": "Schade."}),
        ({"failure_messages": {"en": "Oh."}}, {"de": ENGLISH, "en-GB": "Oh."}),
        ({"failure_message": "Sorry.", "failure_messages": {"de": "Schade."}}, {"en,de": "Schade.", "en": "Sorry."}),
    ],
)
def test_our_own_sentences_are_said_until_the_operator_says_others(
    given: dict[str, Any], said: dict[str | None, str]
) -> None:
    sentences = settings.load(**given).localized_messages
    assert {languages: sentences.choose(languages) for languages in said} == said


def test_settings_that_travel_as_json_say_the_same() -> None:
    loaded = settings.load(failure_messages={"de": "Schade."})
    assert Settings(**json.loads(loaded.model_dump_json())).localized_messages.choose("de,en") == "Schade."
    plain = Settings(**json.loads(settings.load().model_dump_json()))
    assert plain.localized_messages.choose("de") == BUILT_IN["de"]


def test_limits_are_what_is_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAY_STALL_S", "7")
    assert settings.load(max_answer_bytes=5000).limits == {
        "max_command_bytes": 1048576,
        "max_content_bytes": 131072,
        "max_frame_bytes": 262144,
        "max_answer_bytes": 5000,
        "max_subscriptions": 100,
        "stall_s": 7,
        "lost_after_s": 60,
        "session_ttl_s": 604800,
    }


def test_the_docs_list_every_setting_with_its_default_and_description() -> None:
    assert DOCS.exists(), "docs/settings.md is missing"
    rows = [match.groups() for line in DOCS.read_text().splitlines() if (match := ROW.fullmatch(line))]
    assert rows == [
        (variable, str(Settings.model_fields[name].default), Settings.model_fields[name].description)
        for variable, name in variables().items()
    ]
