"""Mending: whatever the provider's deltas look like, tokens are clean text and none of it is lost or doubled."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from relay.protocol.words import MAX_TOKEN_BYTES
from relay_workers.writing.text_repair import TextRepair

HIGH, LOW = "\ud83d", "\ude00"  # together 😀


def mend(*deltas: str) -> list[list[str]]:
    """What each delta gives, and last what the flush gives."""
    mender = TextRepair()
    return [*(mender.feed(delta) for delta in deltas), mender.flush()]


@pytest.mark.parametrize(
    ("deltas", "tokens"),
    [
        pytest.param(["Hello", ", ", "world"], [["Hello"], [", "], ["world"], []], id="ordinary text"),
        pytest.param(
            ["日本", "é", "e\u0301", "👩‍🚀"], [["日本"], ["é"], ["e\u0301"], ["👩‍🚀"], []], id="other scripts"
        ),
        pytest.param(["", "a", ""], [[], ["a"], [], []], id="a delta without text is no token"),
        pytest.param([HIGH, LOW], [[], ["😀"], []], id="two halves are one token"),
        pytest.param([HIGH, LOW + "!"], [[], ["😀!"], []], id="the joined half counts with its delta"),
        pytest.param(["a" + HIGH, LOW + "b"], [["a"], ["😀b"], []], id="a half after text"),
        pytest.param([HIGH, "", LOW], [[], [], ["😀"], []], id="an empty delta between halves"),
        pytest.param([HIGH + LOW], [["😀"], []], id="a pair that one str holds as two"),
        pytest.param(["a" + HIGH + LOW + HIGH, LOW], [["a😀"], ["😀"], []], id="pair, then half"),
        pytest.param([HIGH], [[], ["\ufffd"]], id="a high half at the end"),
        pytest.param([HIGH, "abc"], [[], ["\ufffdabc"], []], id="a high half that meets text"),
        pytest.param([HIGH, HIGH, LOW], [[], ["\ufffd"], ["😀"], []], id="a high half that meets another"),
        pytest.param([LOW], [["\ufffd"], []], id="a low half alone"),
        pytest.param(["a" + LOW + "b"], [["a\ufffdb"], []], id="a low half amid text"),
        pytest.param([LOW + HIGH], [["\ufffd"], ["\ufffd"]], id="halves the wrong way round"),
    ],
)
def test_deltas_become_these_tokens(deltas: list[str], tokens: list[list[str]]) -> None:
    assert mend(*deltas) == tokens


def test_a_flushed_mender_starts_afresh() -> None:
    mender = TextRepair()
    mender.feed(HIGH)
    assert mender.flush() == ["\ufffd"]
    assert mender.flush() == []
    assert mender.feed(LOW) == ["\ufffd"]


@pytest.mark.parametrize("letter", ["a", "é", "日", "😀"])
def test_a_delta_of_the_limit_stays_one_and_a_longer_one_is_cut_at_code_points(letter: str) -> None:
    fits = letter * (MAX_TOKEN_BYTES // len(letter.encode()))
    assert mend(fits) == [[fits], []]

    long = "." + fits + fits + letter
    tokens, rest = mend(long)
    assert "".join(tokens) == long
    assert len(tokens) == 3
    assert all(0 < len(token.encode()) <= MAX_TOKEN_BYTES for token in tokens)
    assert rest == []


def test_a_broken_long_delta_is_mended_before_it_is_cut() -> None:
    tokens, joined, rest = mend((HIGH + LOW) * MAX_TOKEN_BYTES + LOW + HIGH, LOW)
    assert "".join(tokens) == "😀" * MAX_TOKEN_BYTES + "\ufffd"
    assert all(len(token.encode()) <= MAX_TOKEN_BYTES for token in tokens)
    assert (joined, rest) == (["😀"], [])


UNITS = st.one_of(
    st.text(max_size=5),
    st.sampled_from(["😀", "👩‍👩‍👧", "e\u0301", "日本", HIGH, LOW, "\udbff", "\udc00", "\ud7ff", "\ue000"]),
)


def units(text: str) -> list[str]:
    """The text as JavaScript would index it: one str per UTF-16 code unit."""
    data = text.encode("utf-16-le", "surrogatepass")
    return [data[i : i + 2].decode("utf-16-le", "surrogatepass") for i in range(0, len(data), 2)]


def whole(text: str) -> str:
    """The mended text, by another way than the code's own: pairs joined by rule, then lone halves replaced."""
    joined = re.sub(
        "([\ud800-\udbff])([\udc00-\udfff])",
        lambda pair: chr(0x10000 + ((ord(pair[1]) - 0xD800) << 10) + ord(pair[2]) - 0xDC00),
        text,
    )
    return re.sub("[\ud800-\udfff]", "\ufffd", joined)


@given(st.lists(UNITS), st.data())
@example(["😀" * 5000], None)
def test_however_code_units_are_cut_into_deltas_the_tokens_are_the_mended_whole(
    texts: list[str], data: st.DataObject | None
) -> None:
    all_units = units("".join(texts))
    cuts = [0, 1, 3]  # the explicit example has nothing to draw from
    if data is not None:
        cuts = sorted(data.draw(st.lists(st.integers(0, len(all_units)), max_size=8)))
    edges = [0, *cuts, len(all_units)]
    deltas = ["".join(all_units[start:end]) for start, end in pairwise(edges)]

    tokens = [token for part in mend(*deltas) for token in part]

    assert "".join(tokens) == whole("".join(all_units))
    assert all(0 < len(token.encode()) <= MAX_TOKEN_BYTES for token in tokens)
