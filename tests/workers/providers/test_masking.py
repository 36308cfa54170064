"""What a server says of a key never reaches the log, however it shortens it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay_workers.providers.masking import MASK, mask_keys, mask_secrets, printable

KEY = "sk-proj-q8Jx0vKk3mTzW5yB2nR7"
PLAIN = "correcthorsebatterystaple"  # has no shape by which a key is known


@pytest.mark.parametrize(
    "text",
    [
        f"Incorrect API key provided: {KEY}. You can find yours at …",
        f"Incorrect API key provided: {KEY[:10]}***********{KEY[-4:]}.",
        f"bad key '{KEY[:12]}'",
        f'{{"authorization": "Bearer {KEY}"}}',
    ],
)
def test_our_key_is_taken_out_whole_or_shortened(text: str) -> None:
    for masked in (mask_keys(text, KEY), mask_secrets(text, KEY)):
        assert MASK in masked
        assert not any(KEY[start : start + 6] in masked for start in range(len(KEY) - 5))


@pytest.mark.parametrize(
    "text",
    [
        "sk-ant-api03-AbCdEf0123456789", "sk-abc***xyz", "Bearer abcdefgh", "bearer  abcd.efgh", "Basic dXNlcjpwYXNz",
        "AIzaSyA1234567890", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc", "api_key=hunter2", "x-api-key: hunter2",
        '"Authorization": "hunter2"', "gsk_0123456789abcdef", "hf_abcdefgh12345", "pplx-0a1b2c3d4e", "secret: hunter2",
        "ab****yz",
    ],
)  # fmt: skip
def test_what_looks_like_a_key_is_taken_out(text: str) -> None:
    masked = mask_keys(f"the server said: {text} and went on")
    assert masked.startswith("the server said: ")
    assert masked.endswith(" and went on")
    assert MASK in masked
    assert not any(piece in masked for piece in ("hunter2", "abcdefgh", "0123456789", "AIza", "eyJ", "dXNl", "xyz"))


@pytest.mark.parametrize(
    "text",
    [
        "The model `gpt-5-mini` does not exist or you do not have access to it.",
        "max_tokens: must be less than or equal to 8192", "This model's maximum context length is 8192 tokens.",
        "risk-averse, task-based, pk-fields and hf-models are words", "messages.0.content: field required",
    ],
)  # fmt: skip
def test_an_ordinary_sentence_stays_as_it_is(text: str) -> None:
    assert mask_secrets(text, KEY) == text


def test_long_runs_are_taken_for_keys_in_sentences_and_not_in_ids() -> None:
    run = "req_0123456789abcdef0123456789"
    assert mask_keys(run) == run
    assert mask_secrets(f"see {run}") == f"see {MASK}"


@given(st.text(max_size=40), st.text(max_size=40), st.integers(0, 12), st.integers(9, 25))
def test_wherever_a_piece_of_our_key_stands_it_is_taken_out(before: str, after: str, start: int, end: int) -> None:
    piece = PLAIN[start : max(end, start + 8)]
    masked = mask_keys(before + piece + after, PLAIN)
    assert not any(PLAIN[at : at + 8] in masked for at in range(len(PLAIN) - 7))


def test_a_text_of_any_size_is_looked_at_as_far_as_it_is_logged() -> None:
    for nasty in ("-" * 500_000, "*" * 500_000, "a1" * 250_000, "bearer " * 70_000, "sk-" * 160_000, KEY * 20_000):
        assert len(mask_secrets(nasty, KEY)) < 10_000


def test_what_is_not_printable_is_a_blank() -> None:
    assert printable("a\x1b[31m\r\nb\x00\u202ec\ud800d  e", 100) == "a [31m b c d e"
    assert printable("x" * 1000, 500) == "x" * 500
