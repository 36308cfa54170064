"""Sentences: the reader's languages are read leniently, and the best liked one that has a sentence is taken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.failure_messages import (
    BUILT_IN,
    MAX_LANGUAGES,
    MAX_SENTENCE,
    FailureMessages,
    check_sentence,
    check_sentences,
    languages,
)
from tests.examples import tries

HEADERS = [
    ("", None),
    ("de", "de"),
    ("de-CH,de;q=0.9,en;q=0.8", "de-CH,de,en"),
    ("en;q=0.5, de;q=0.9, fr", "fr,de,en"),
    ("en, de, fr", "en,de,fr"),  # equally liked: as they came
    ("en;q=0.8,de;q=0.80,fr;q=0.800", "en,de,fr"),
    (" de-CH \t;\tq=0.5 ,\ten ", "en,de-CH"),
    ("de;Q=0.1,en;q=0.2", "en,de"),
    ("de;q=1.000,en;q=0.999", "de,en"),
    ("de;q=1.,en;q=0.", "de"),
    ("de;q=0,en", "en"),
    ("de;q=0.000", None),
    ("*", None),
    ("de;q=0.5,*;q=0.9", "de"),
    ("*-CH,de", "de"),
    ("zh-Hant-TW,x-klingon,i-default", "zh-Hant-TW,x-klingon,i-default"),
    ("de,de;q=0.5,fr;q=0.7", "de,fr"),
    ("de;q=0.5,fr;q=0.7,de", "de,fr"),
    ("a1,b2", None),
    # What is malformed goes, the rest stays.
    (",,de,,", "de"),
    ("de;q=2,en", "en"),
    ("de;q=0.1234,en", "en"),
    ("de;q=-1,en", "en"),
    ("de;q=1.001,en", "en"),
    ("de;q=nan,de;q=1e0,en", "en"),
    ("de;,en", "en"),
    ("de;q,en", "en"),
    ("de;q=,en", "en"),
    ("de; q = 1,en", "en"),
    ("de;level=1,en", "en"),
    ("de;q=1;x=y,en", "en"),
    ("de_CH,en", "en"),
    ("-de,de-,de--CH,en", "en"),
    ("tooolongg,de-tooolongg,en", "en"),
    ("d e,en", "en"),
    ("dé,日本,en", "en"),
    ("de\n,de\x00,en", "en"),
    ("de;q=٠,en", "en"),
    ('"de",en', "en"),
    ("en-" + "-".join(["abcdefgh"] * 4), None),  # 38 characters
    ("a,b,c,d,e,f,g", "a,b,c,d,e"),
    ("a;q=0.1,b,c,d,e,f", "b,c,d,e,f"),
    ("," * 60 + "de", None),  # nobody likes so many
]


@pytest.mark.parametrize(("header", "expected"), HEADERS)
def test_a_header_is_read_as_far_as_it_can_be(header: str, expected: str | None) -> None:
    assert languages(header) == expected


PARTS = st.one_of(
    st.text(),
    st.from_regex(r"[a-zA-Z]{1,9}(-[a-zA-Z0-9]{1,9}){0,5}", fullmatch=True),
    st.sampled_from([",", ";", "q=", ";q=0.5", ";q=1", "*", "-", " ", "0.", "\ud800", "de"]),
)


@tries(100)
@given(st.lists(PARTS, max_size=120).map("".join) | st.lists(PARTS, max_size=120).map(",".join))
def test_no_header_raises_and_what_comes_of_it_is_short_and_can_be_read_again(header: str) -> None:
    found = languages(header)
    if found is not None:
        assert 1 <= len(found.split(",")) <= MAX_LANGUAGES
        assert len(found) < 200
        assert found.isascii()
        assert languages(found) == found
    assert FailureMessages("Sorry.", {"de": "Schade."}).choose(found) in ("Sorry.", "Schade.")


SAID = FailureMessages("Sorry.", {"de": "Schade.", "pt-BR": "Opa.", "zh-Hant": "抱歉。", "EN-gb": "Sorry, old chap."})


@pytest.mark.parametrize(
    ("languages", "expected"),
    [
        (None, "Sorry."),
        ("", "Sorry."),
        ("fr", "Sorry."),
        ("de", "Schade."),
        ("DE", "Schade."),
        ("de-CH", "Schade."),
        ("de-Latn-CH-1996", "Schade."),
        ("fr,de", "Schade."),
        ("pt-BR,de", "Opa."),
        ("de,pt-BR", "Schade."),
        ("de-CH,pt-br", "Schade."),
        ("pt,fr", "Sorry."),  # not what is said in Brazil alone
        ("pt-PT", "Sorry."),
        ("zh-Hant-TW", "抱歉。"),
        ("zh-Hans", "Sorry."),
        ("en-GB", "Sorry, old chap."),
        ("dea", "Sorry."),
        ("d", "Sorry."),
    ],
)
def test_the_first_language_that_has_a_sentence_is_taken(languages: str | None, expected: str) -> None:
    assert SAID.choose(languages) == expected


def test_our_own_sentences_are_such_as_we_would_take_from_an_operator() -> None:
    assert check_sentences(dict(BUILT_IN)) == BUILT_IN
    assert {"en", "de", "fr", "es", "it", "pt", "nl", "pl", "ja", "zh"} <= set(BUILT_IN)


def test_a_taiwanese_reader_is_shown_traditional_characters() -> None:
    own = FailureMessages("", BUILT_IN)
    assert own.choose("zh-TW,zh") == own.choose("zh-Hant-HK") == BUILT_IN["zh-Hant"]
    assert own.choose("zh-CN,zh") == own.choose("zh-Hans-SG") == BUILT_IN["zh"]


@tries(50)
@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=MAX_SENTENCE))
def test_any_text_without_control_characters_may_be_said(sentence: str) -> None:
    assert check_sentence(sentence) == sentence
