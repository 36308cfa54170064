"""What readers of all APIs have in common: when an answer is whole, and what may be left out of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from relay_workers.providers.answer_body import kind_of
from relay_workers.providers.base import Data, Part, ProviderError, Reasoning, Text
from relay_workers.providers.event_stream import STRAY, ServerEvent
from relay_workers.providers.openai_reading import ChatReader
from relay_workers.providers.reading import IgnoredFields, decode, whole_number


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
        with pytest.raises(ValueError, match=r"."):
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


# Where finishes come with every event


def thinks(text: str, finish: str | None = None) -> ServerEvent:
    return event({"choices": [{"delta": {"reasoning": text}, "finish_reason": finish}]})


def calls(arguments: str, finish: str | None = None, call_id: str | None = "c", index: int | None = 0) -> ServerEvent:
    call = {"index": index, "id": call_id, "function": {"name": "f" if call_id else None, "arguments": arguments}}
    return event({"choices": [{"delta": {"tool_calls": [call]}, "finish_reason": finish}]})


@pytest.mark.parametrize("fails", [FAILS, event(b"{")])
def test_a_finish_that_comes_with_text_proves_nothing_once_one_came_early(fails: ServerEvent) -> None:
    reader = reader_of()
    read(reader, says("a", "stop"), says("b", "stop"))
    assert not reader.is_settled
    with pytest.raises(ProviderError):
        reader.read(fails)
    assert read(reader, FINISH, fails) == []
    assert reader.is_settled


@pytest.mark.parametrize(
    ("events", "tail_s"),
    [
        ([says("a"), FINISH], 5),
        ([says("a", "stop")], 15),
        ([says("a", "stop"), USAGE], 5),
        ([says("a", "stop"), says("b", "stop")], None),
        ([thinks("a", "stop"), thinks("b", "stop")], None),
        ([calls("{", "stop"), calls("}", "stop", None)], None),
        ([FINISH], None),
        ([says("", "content_filter")], 5),
        ([says("a")], None),
    ],
)
def test_how_long_to_wait_behind_a_finish(events: list[ServerEvent], tail_s: float | None) -> None:
    reader = reader_of()
    read(reader, *events)
    assert reader.tail_s(5) == tail_s


def test_a_tool_call_is_shown_when_nothing_more_of_it_can_come() -> None:
    reader = reader_of(done_ends=True)
    assert read(reader, calls('{"a":', "tool_calls"), calls("1}", "tool_calls", None), DONE) == []
    assert [part.value["arguments"] for part in reader.rest() if isinstance(part, Data)] == [{"a": 1}]
    reader = reader_of()
    called, said = read(reader, calls("{}"), says("so"))
    assert (type(called), said) == (Data, Text("so"))


def test_calls_are_kept_apart_and_nothing_of_them_is_unbounded() -> None:
    reader = reader_of()
    read(reader, calls("1", call_id="a"), calls("2", call_id=None), calls("3", call_id="b"), calls("4", call_id=None))
    read(reader, calls('"\ud83d', call_id="c"), calls('\ude00"', call_id=None), FINISH)
    assert [(part.value["id"], part.value["arguments"]) for part in reader.rest() if isinstance(part, Data)] == [
        ("a", 12),
        ("b", 34),
        ("c", "😀"),
    ]
    for piece in ({"arguments": {"a": "x" * 200_000}}, {"name": "f" * 200_000}, {"arguments": "x" * 200_000}):
        reader = reader_of()
        function = {"name": "f", "arguments": "", **piece}
        read(reader, event({"choices": [{"delta": {"tool_calls": [{"id": "i", "function": function}]}}]}), FINISH)
        assert reader.rest() == []


def test_a_citation_is_shown_once_and_too_many_or_too_big_ones_are_not() -> None:
    reader = reader_of()
    urls = [f"https://{number}.example" for number in range(300)]
    parts = read(reader, event({"choices": [], "citations": urls}), event({"choices": [], "citations": urls[::-1]}))
    assert [part.value["url"] for part in parts if isinstance(part, Data)] == urls[:256]
    assert read(reader_of(), event({"choices": [], "citations": [{"url": "x" * 200_000}]})) == []


@pytest.mark.parametrize(
    "part", [{"type": "text", "text": {"a": 1}}, {"parts": [{"text": "a"}]}, {"type": "output_text"}]
)
def test_text_that_cannot_be_read_fails_the_answer(part: dict[str, Any]) -> None:
    with pytest.raises(ProviderError, match="malformed"):
        read(reader_of(), event({"choices": [{"delta": {"content": [part]}}]}))
    assert read(reader_of(), event({"choices": [{"delta": {"content": [{"type": "image_url", "url": "x"}]}}]})) == []


def test_an_events_number_is_no_second_answer() -> None:
    texts = read(reader_of(), says("a", index=0), says("b", index=1), says("c", "stop", index=2))
    assert texts == [Text("a"), Text("b"), Text("c")]


@pytest.mark.parametrize(
    "reason",
    [
        # https://ai.google.dev/api/generate-content#FinishReason
        "PROHIBITED_CONTENT", "BLOCKLIST", "SPII",
        # https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html
        "content_filtered", "guardrail_intervened",
    ],
)  # fmt: skip
def test_a_filters_finish_by_whatever_name(reason: str) -> None:
    reader = reader_of()
    read(reader, says("a"), says("", reason))
    assert reader.finished().finish == "filter"


def test_reasoning_as_litellm_passes_it_on() -> None:
    """https://docs.litellm.ai/docs/reasoning_content"""
    blocks = [{"type": "thinking", "thinking": "hm", "signature": "x"}, {"type": "redacted_thinking", "data": "y"}]
    said = event({"choices": [{"delta": {"thinking_blocks": blocks}}]})
    assert read(reader_of(), said) == [Reasoning("hm")]
