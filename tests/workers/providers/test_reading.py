"""What readers of all APIs have in common: when an answer is whole, and what may be left out of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from relay_workers.providers.base import Part, ProviderError, Reasoning, Text
from relay_workers.providers.event_stream import STRAY, ServerEvent
from relay_workers.providers.openai_reading import ChatReader
from relay_workers.providers.reading import IgnoredFields, decode, kind_of, whole_number


def reader_of(*, done_ends: bool = False) -> ChatReader:
    return ChatReader("m", IgnoredFields("openai"), done_ends=done_ends)


def event(value: Any) -> ServerEvent:
    return ServerEvent("message", value if isinstance(value, bytes) else json.dumps(value).encode())


def says(text: str, finish: str | None = None, **choice: Any) -> ServerEvent:
    return event({"choices": [{"delta": {"content": text}, "finish_reason": finish, **choice}]})


DONE = event(b"[DONE]")
FINISH = says("", "stop")
FAILS = event({"error": {"code": 500}})
USAGE = event({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}})


def read(reader: ChatReader, *events: ServerEvent) -> list[Part]:
    return [part for one in events for part in reader.read(one)]


def code_of(reader: ChatReader) -> str:
    """Of the failure that the end of the body is here; empty if the answer is whole."""
    try:
        reader.finished()
    except ProviderError as error:
        return error.code
    return ""


@pytest.mark.parametrize(
    ("events", "early", "code"),
    [
        ([says("a"), FINISH], False, ""),
        ([says("a"), FINISH, USAGE], False, ""),
        ([says("a"), FINISH, says("")], False, ""),
        ([says("a", "stop"), says("b")], True, "truncated"),
        ([says("a", "stop"), says("b", "length")], True, ""),
        ([says("a", "stop"), says("b"), FINISH, USAGE], True, ""),
        ([says("a"), USAGE], False, "truncated"),
    ],
)
def test_a_finish_counts_while_no_text_follows_it(events: list[ServerEvent], early: bool, code: str) -> None:
    reader = reader_of()
    texts = [part.text for part in read(reader, *events) if isinstance(part, Text)]
    assert "".join(texts) == ("ab" if early else "a")
    assert (reader.early, code_of(reader)) == (early, code)


def test_the_last_finish_counts() -> None:
    reader = reader_of()
    read(reader, says("a", "stop"), says("b", "length"))
    assert reader.finished().finish == "length"


@pytest.mark.parametrize("events", [[FAILS], [event(b"{")], [event({"choices": [5]})]])
def test_what_fails_after_the_finish_costs_nothing_but_after_more_text_it_does(events: list[ServerEvent]) -> None:
    reader = reader_of()
    assert read(reader, says("a"), FINISH, *events, USAGE) == [Text("a")]
    assert reader.finished().usage == {"input_tokens": 3, "output_tokens": 2}
    with pytest.raises(ProviderError):
        read(reader_of(), says("a", "stop"), says("b"), *events)


@pytest.mark.parametrize("done_ends", [True, False])
def test_done_alone_ends_an_answer_where_that_is_set_and_something_was_said(done_ends: bool) -> None:
    reader = reader_of(done_ends=done_ends)
    assert read(reader, says("a"), DONE, says("late")) == [Text("a")]
    assert code_of(reader) == ("" if done_ends else "truncated")
    reader = reader_of(done_ends=done_ends)
    read(reader, DONE)
    assert code_of(reader) == "truncated"


def test_an_answers_text_comes_from_one_member() -> None:
    reader = reader_of()
    assert read(reader, says("a"), says("b"), says("", "stop", message={"content": "ab"})) == [Text("a"), Text("b")]
    assert read(
        reader_of(), event({"choices": [{"delta": {"reasoning": "hm"}}]}), says("a", message={"content": "b"})
    ) == [
        Reasoning("hm"),
        Text("a"),
    ]


def test_events_without_a_blank_line_between_are_read_one_by_one() -> None:
    joined = ServerEvent("message", b"\n".join(one.data for one in (says("a"), says("b", "stop"), DONE)))
    reader = reader_of()
    assert read(reader, joined) == [Text("a"), Text("b")]
    assert reader.is_done


def test_half_an_event_at_the_end_is_a_cut_and_no_malformed_event() -> None:
    reader = reader_of()
    assert reader.read(event(b'{"choices": [{"del'), pending=True) == []
    assert code_of(reader) == "truncated"


def test_a_bare_object_is_an_event_and_a_bare_error_is_an_error() -> None:
    assert read(reader_of(), ServerEvent(STRAY, says("a").data)) == [Text("a")]
    for said in (FAILS.data, b"out of memory"):
        with pytest.raises(ProviderError) as caught:
            read(reader_of(), ServerEvent(STRAY, said))
        assert "memory" not in str(caught.value)


ODD: list[Any] = [
    2**53, -1, "-1", 3.5, True, None, "3x", "٣", "9" * 17, [], {}, float("inf"), float("nan"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("said", "count"),
    [(3, 3), ("3", 3), (3.0, 3), (0, 0), (2**53 - 1, 2**53 - 1), *((odd, None) for odd in ODD)],
)
def test_a_count_is_a_number_or_its_digits(said: Any, count: int | None) -> None:
    assert whole_number(said) == count


def test_json_may_hold_what_pythons_own_reader_takes() -> None:
    assert decode(b'"a\\ud83d"') == "a\ud83d"
    assert decode(b"[NaN, 1e999]")
    for bad in (b"", b"{", b'"\xff"', b"{} {}"):
        with pytest.raises(ValueError, match=""):
            decode(bad)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"data: x", "events"), (b": ping", "events"), (b"", "events"), (b"\xef\xbb\xbfdata:", "events"),
        (b" \n{", "json"), (b"\xef\xbb\xbf[", "json"), (b"<html>", "page"), (b"\r\n <!doctype", "page"),
    ],
)  # fmt: skip
def test_a_bodys_first_byte_says_what_it_is(head: bytes, kind: str) -> None:
    assert kind_of(head) == kind
