"""A typing mistake in a setting's name is told, with what was meant where that is clear, and never a value."""

from __future__ import annotations

import pytest

from relay import settings
from relay.unknown_settings import unknown_settings

KNOWN = [variable for several in settings.variables().values() for variable in several]


@pytest.mark.parametrize(
    ("variable", "sentence"),
    [
        ("RELAY_PROT", "unknown setting RELAY_PROT; did you mean RELAY_PORT?"),
        ("RELAY_REDIS", "unknown setting RELAY_REDIS; did you mean RELAY_REDIS_URL?"),
        ("RELAY_REDIS_URI", "unknown setting RELAY_REDIS_URI; did you mean RELAY_REDIS_URL?"),
        ("RELAY_GRACE", "unknown setting RELAY_GRACE; did you mean RELAY_GRACE_S?"),
        ("RELAY_PROCESS", "unknown setting RELAY_PROCESS; did you mean RELAY_PROCESSES?"),
        ("RELAY_OPENAI_KEY", "unknown setting RELAY_OPENAI_KEY; did you mean OPENAI_API_KEY?"),
        ("relay_prot", "unknown setting relay_prot; did you mean RELAY_PORT?"),
        ("RELAY_BANANA", "unknown setting RELAY_BANANA"),
        ("RELAY_", "unknown setting RELAY_"),
    ],
)
def test_what_was_meant_is_named_where_it_is_close(variable: str, sentence: str) -> None:
    assert unknown_settings([variable], KNOWN) == [sentence]


def test_nothing_is_said_of_settings_and_of_what_is_not_ours() -> None:
    others = ["PORT", "HOME", "ANTHROPIC_AUTH_TOKEN", "OPENAI_ORG_ID", "RELAYED", "MY_RELAY_PORT"]
    in_small_letters = [variable.lower() for variable in KNOWN]
    assert unknown_settings([*KNOWN, *in_small_letters, *others], KNOWN) == []


def test_at_most_ten_are_named() -> None:
    told = unknown_settings([f"RELAY_Q{number:05}Q" for number in range(5000)], KNOWN)
    assert told[0] == "unknown setting RELAY_Q00000Q"
    assert told[9:] == ["unknown setting RELAY_Q00009Q", "4990 more unknown settings that begin with RELAY_"]


def test_a_name_is_cut_and_cannot_command_a_terminal() -> None:
    assert unknown_settings(["RELAY_" + "x" * 100_000], KNOWN) == ["unknown setting RELAY_" + "x" * 58 + "…"]
    assert unknown_settings(["RELAY_\x1b[2J\n"], KNOWN) == ["unknown setting RELAY_\\x1b[2J\\n"]
    assert unknown_settings(["RELAY_\udcff"], KNOWN) == ["unknown setting RELAY_\\udcff"]
