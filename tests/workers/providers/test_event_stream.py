"""The event-stream parser: the standard's rules, every way to split the bytes, and httpx2's parser as the judge."""

from __future__ import annotations

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay_workers.providers import event_stream
from relay_workers.providers.event_stream import STRAY, EventStreamParser, EventTooBig, ServerEvent


def events_of(*chunks: bytes) -> list[ServerEvent]:
    parser = EventStreamParser()
    return [event for chunk in chunks for event in parser.feed(chunk)]


def message(data: str) -> ServerEvent:
    return ServerEvent("message", data.encode())


OTHER_ENDS = "a\u2028b\u2029\x0bc\x0c\x85\x00d"
RULES = {
    "one event": (b"data: x\n\n", [message("x")]),
    "only one space is taken": (b"data:  x\n\n", [message(" x")]),
    "no space": (b"data:x\n\n", [message("x")]),
    "a colon in the value": (b"data: a: b\n\n", [message("a: b")]),
    "several lines": (b"data: a\ndata: b\n\n", [message("a\nb")]),
    "empty data": (b"data:\n\ndata\n\n", [message(""), message("")]),
    "two empty lines of data": (b"data\ndata\n\n", [message("\n")]),
    "a type": (b"event: e\ndata: x\n\n", [ServerEvent("e", b"x")]),
    "the last type counts": (b"event: e\nevent: f\ndata: x\n\n", [ServerEvent("f", b"x")]),
    "a type is not kept": (b"event: e\n\ndata: x\n\n", [message("x")]),
    "no data, no event": (b"event: e\nid: 1\nretry: 5\n\n", []),
    "id and retry are passed over": (b"id: 1\nretry: 5\ndata: x\n\n", [message("x")]),
    "comments": (b": ping\n\n:data: no\ndata: x\n:\n\n", [message("x")]),
    "unknown fields": (b"dat: no\n data: no\nDATA: no\ndata : no\ndatax\ndata: x\n\n", [message("x")]),
    "empty lines": (b"\n\n\ndata: x\n\n\n\n", [message("x")]),
    "CR": (b"data: a\rdata: b\r\rdata: c\r\r", [message("a\nb"), message("c")]),
    "CRLF": (b"data: a\r\ndata: b\r\n\r\ndata: c\r\n\r\n", [message("a\nb"), message("c")]),
    "all three": (b"data: a\r\n\rdata: b\n\r\ndata: c\r\n\n", [message("a"), message("b"), message("c")]),
    "LF and then CR are two ends": (b"data: a\n\rdata: b\r\n\n", [message("a"), message("b")]),
    "a byte order mark": (b"\xef\xbb\xbfdata: x\n\n", [message("x")]),
    "only one, and only in front": (b"\xef\xbb\xbf\xef\xbb\xbfdata: x\n\n\xef\xbb\xbfdata: y\n\n", []),
    "other ends of lines are none": (f"data: {OTHER_ENDS}\n\n".encode(), [message(OTHER_ENDS)]),
    "half an event": (b"data: x\n\ndata: y\n", [message("x")]),
    "an error line": (b'data: x\n\nerror: {"code": 500}\n\n', [message("x"), ServerEvent(STRAY, b'{"code": 500}')]),
    "a bare object": (b'{"error": 1}\n', [ServerEvent(STRAY, b'{"error": 1}')]),
}  # fmt: skip


@pytest.mark.parametrize(("body", "events"), RULES.values(), ids=RULES.keys())
def test_the_rules_hold_however_the_bytes_are_split(body: bytes, events: list[ServerEvent]) -> None:
    assert events_of(body) == events
    assert events_of(*(body[at : at + 1] for at in range(len(body)))) == events
    for first in range(len(body) + 1):
        for second in range(first, len(body) + 1):
            assert events_of(body[:first], body[first:second], body[second:]) == events, (first, second)


@pytest.mark.parametrize("body", [b"data: x\n\ndata: y", b"data: x\n\ndata: y\n", b"data: x\n\ndata: y\r"])
def test_closing_gives_the_event_that_the_end_of_the_stream_completes(body: bytes) -> None:
    parser = EventStreamParser()
    assert parser.feed(body) + parser.close() == [message("x"), message("y")]
    assert parser.close() == []


_VALUES = st.text("ab :\u2028é😀{\0", max_size=6)
_COMMENTS = st.builds(":{}".format, _VALUES)
_DATA = st.builds("data{}".format, st.one_of(st.builds(": {}".format, _VALUES), st.builds(":{}".format, _VALUES)))
_OTHERS = st.one_of(_COMMENTS, st.just("id: 7"), st.just("retry: 10"), st.builds("x: {}".format, _VALUES))
_EVENT = st.tuples(
    st.lists(_OTHERS, max_size=2), st.sampled_from([[], ["event: e"], ["event:"], ["event: \u00e9 "]]),
    st.lists(_DATA, min_size=1, max_size=3), st.lists(_OTHERS, max_size=2),
).map(lambda parts: [line for lines in parts for line in lines] + [""])  # fmt: skip
_LINES = st.lists(st.one_of(_EVENT, st.lists(_COMMENTS, max_size=2)), max_size=6).map(
    lambda groups: [line for lines in groups for line in lines]
)


@given(_LINES, st.data())
def test_what_the_judge_reads_is_read_the_same_in_any_pieces(lines: list[str], data: st.DataObject) -> None:
    ends = data.draw(st.lists(st.sampled_from(["\n", "\r", "\r\n"]), min_size=len(lines), max_size=len(lines)))
    body = "".join(line + end for line, end in zip(lines, ends, strict=True)) + ": the end\n"
    encoded = body.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(encoded)), max_size=8)))
    pieces = [encoded[first:last] for first, last in zip([0, *cuts], [*cuts, len(encoded)], strict=True)]

    request = httpx2.Request("GET", "http://127.0.0.1")
    headers = {"content-type": "text/event-stream"}
    response = httpx2.Response(200, headers=headers, content=encoded, request=request)
    judged = [ServerEvent(event.event, event.data.encode()) for event in httpx2.EventSource(response)]
    assert events_of(*pieces) == judged


def test_a_line_that_never_ends_is_refused_before_it_fills_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "MAX_EVENT_BYTES", 10_000)
    for line in (b"data: ", b": ", b"{", b""):
        parser = EventStreamParser()
        parser.feed(line)
        for _ in range(9):
            parser.feed(b"x" * 1000)
        with pytest.raises(EventTooBig):
            parser.feed(b"x" * 2000)


def test_an_event_that_never_ends_is_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "MAX_EVENT_BYTES", 10_000)
    for line in (b"data: " + b"x" * 952 + b"\n", b"data\n" * 20, b"{\n" + b"x\n" * 19):
        parser = EventStreamParser()
        for _ in range(9):
            parser.feed(line)
        with pytest.raises(EventTooBig):
            parser.feed(line * 2)
    parser = EventStreamParser()
    for _ in range(100):  # each within its bound
        assert len(parser.feed(b"data: " + b"x" * 9_000 + b"\n\n")) == 1
        assert len(parser.feed(b"{" + b"x" * 9_000 + b"}\n")) == 1


def test_bare_objects_between_lines_of_data_do_not_widen_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "MAX_EVENT_BYTES", 10_000)
    parser = EventStreamParser()
    for _ in range(20):
        parser.feed(b"data: x\n{\n" + b"x" * 4000 + b"\n\n")
    with pytest.raises(EventTooBig):
        parser.feed(b"data: " + b"x" * 10_000)
