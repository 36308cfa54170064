"""Compaction: however the log is cut into catchups, a viewer ends where one ends who saw every event live."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.protocol import events, frames
from relay.protocol.compact import catchups
from relay.protocol.view import SessionView
from relay.protocol.words import MAX_FRAME_BYTES
from tests.protocol.logs import EPOCH, SESSION, Body, Decoded, Story, in_order, logs, message

SUBSCRIBED = {"type": "subscribed", "session": SESSION, "epoch": EPOCH, "at": 0, "head": 0, "recovered": False}
ANY_NUMBER = st.integers(0, 10**6)


def viewer() -> SessionView:
    view = SessionView(SESSION)
    command = view.subscribe()
    assert view.apply({**SUBSCRIBED, "id": command["id"], "active": []}) == "applied"
    return view


def live(view: SessionView, bodies: list[Body], after: int = 0) -> None:
    for seq, body in enumerate(bodies[after:], after + 1):
        assert view.apply(msgspec.json.decode(events.live_frame(SESSION, seq, body))) == "applied"


def caught_up(bodies: list[Body], after: int, upto: int, max_bytes: int = MAX_FRAME_BYTES) -> list[bytes]:
    """The events after `after` up to `upto`, as encoded catchups."""
    entries = list(enumerate(bodies, 1))[after:upto]
    return [frames.encode(frame) for frame in catchups(SESSION, after, entries, upto, max_bytes)]


def state(view: SessionView) -> dict[str, Any]:
    """What a person sees: everything but how it came."""
    return {
        "cursor": view.cursor,
        "messages": [_bare(event) for event in view.messages],
        "generations": {
            name: (
                shown.attempt, shown.state, shown.count, in_order(shown.parts), shown.reasoning,
                shown.end and _bare(shown.end),
            )
            for name, shown in view.generations.items()
        },
    }  # fmt: skip


def _bare(event: Decoded) -> Decoded:
    return {name: value for name, value in event.items() if name not in ("session", "seq")}


def compacted(bodies: list[Body]) -> list[Decoded]:
    """PROTOCOL section 4's rules for one frame, said again in the plainest way."""
    decoded = [msgspec.json.decode(body) for body in bodies]
    result: list[Decoded] = []
    for place, event in enumerate(decoded):
        generation, later = event.get("generation"), decoded[place + 1 :]
        own = [other for other in later if other.get("generation") == generation is not None]
        if event["type"] != "message" and any(other["type"] == "restart" for other in own):
            continue
        if event["type"] == "status" and any(other["type"] in ("status", "tokens", "end") for other in own):
            continue
        if event["type"] in ("tokens", "reasoning"):
            same = [other for other in result if _mergeable(other, event)]
            if same and not any(_is_data_of(event, other) for other in result[result.index(same[-1]) :]):
                same[-1]["text"] += event["text"]
                same[-1]["count"] += event["count"]
                continue
        result.append(event)
    return result


def _mergeable(one: Decoded, other: Decoded) -> bool:
    return all(one.get(name) == other[name] for name in ("type", "generation", "attempt"))


def _is_data_of(event: Decoded, other: Decoded) -> bool:
    return other["type"] == "data" and all(other[name] == event[name] for name in ("generation", "attempt"))


def bound_for(bodies: list[Body], extra: int) -> int:
    """A bound that the largest event fits, as the contract promises of every event."""
    return max(map(len, bodies), default=0) + 310 + extra


@given(logs(), st.lists(ANY_NUMBER, max_size=4), st.integers(0, 1500))
@settings(max_examples=200, deadline=None)
def test_a_viewer_of_any_catchups_ends_where_a_live_viewer_ends(
    bodies: list[Body], cuts: list[int], extra: int
) -> None:
    one, other = viewer(), viewer()
    live(one, bodies)

    edges = sorted({0, len(bodies), *(cut % (len(bodies) + 1) for cut in cuts)})
    for after, upto in pairwise(edges):
        for frame in caught_up(bodies, after, upto, bound_for(bodies, extra)):
            assert other.apply(msgspec.json.decode(frame)) == "applied"

    assert state(other) == state(one)


@given(logs(), ANY_NUMBER, ANY_NUMBER)
@settings(max_examples=100, deadline=None)
def test_a_viewer_may_change_from_live_to_catchup_and_back_anywhere(
    bodies: list[Body], leaves: int, returns: int
) -> None:
    one, other = viewer(), viewer()
    live(one, bodies)

    after, upto = sorted((leaves % (len(bodies) + 1), returns % (len(bodies) + 1)))
    live(other, bodies[:after])
    for frame in caught_up(bodies, after, upto, bound_for(bodies, 200)):
        assert other.apply(msgspec.json.decode(frame)) == "applied"
    live(other, bodies, upto)

    assert state(other) == state(one)


@given(logs(), ANY_NUMBER, st.integers(0, 1500))
@settings(max_examples=200, deadline=None)
def test_frames_follow_on_from_each_other_and_none_is_larger_than_the_bound(
    bodies: list[Body], cut: int, extra: int
) -> None:
    after, bound = cut % (len(bodies) + 1), bound_for(bodies, extra)
    last = after
    for encoded in caught_up(bodies, after, len(bodies), bound):
        assert len(encoded) <= bound
        frame = msgspec.json.decode(encoded)
        assert (frame["type"], frame["session"], frame["from"]) == ("catchup", SESSION, last + 1)
        assert frame["seq"] >= frame["from"]
        assert all("session" not in event and "seq" not in event for event in frame["events"])
        last = frame["seq"]
    assert last == len(bodies)


@given(logs(), ANY_NUMBER, st.integers(0, 1500))
@settings(max_examples=200, deadline=None)
def test_each_frame_holds_just_what_the_rules_leave_of_its_events(bodies: list[Body], cut: int, extra: int) -> None:
    after = cut % (len(bodies) + 1)
    for encoded in caught_up(bodies, after, len(bodies), bound_for(bodies, extra)):
        frame = msgspec.json.decode(encoded)
        assert frame["events"] == compacted(bodies[frame["from"] - 1 : frame["seq"]])


@given(logs(max_size=60), st.integers(0, 1500))
@settings(max_examples=100, deadline=None)
def test_a_frame_ends_only_where_the_next_event_might_not_have_fitted(bodies: list[Body], extra: int) -> None:
    bound = bound_for(bodies, extra)
    all_frames = caught_up(bodies, 0, len(bodies), bound)
    for encoded, following in pairwise(all_frames):
        frame, first = msgspec.json.decode(encoded), msgspec.json.decode(following)["from"]
        # The compactor counts from above: 280 around the events, 25 for what each may still grow by.
        reserve = 280 + 25 * (len(frame["events"]) + 1)
        assert len(encoded) + len(bodies[first - 1]) + reserve > bound


@pytest.mark.parametrize("bound", [1000, 4096, 65536, MAX_FRAME_BYTES])
def test_a_long_answer_takes_as_few_frames_as_the_bound_allows(bound: int) -> None:
    story = Story("g1")
    bodies = [story.tokens(["word "] * 20) for _ in range(3000)]
    all_frames = caught_up(bodies, 0, len(bodies), bound)
    text_bytes = len("word ") * 20 * 3000
    reserve = 280 + 25 + 2 * len(bodies[-1])  # around the events, for growth, and for one event that did not fit
    assert len(all_frames) <= text_bytes / (bound - reserve) + 1
    assert max(map(len, all_frames)) <= bound


@given(logs(), st.sets(ANY_NUMBER, max_size=10), st.integers(0, 600))
@settings(max_examples=100, deadline=None)
def test_seqs_that_were_trimmed_are_covered_by_the_frame_that_spans_them(
    bodies: list[Body], trimmed: set[int], extra: int
) -> None:
    gone = {number % (len(bodies) + 1) for number in trimmed}
    entries = [(seq, body) for seq, body in enumerate(bodies, 1) if seq not in gone]
    last = 0
    for frame in catchups(SESSION, 0, entries, len(bodies), bound_for(bodies, extra)):
        assert frame.from_seq == last + 1
        last = frame.seq
    assert last == len(bodies)


def test_nothing_to_cover_is_no_frame() -> None:
    assert caught_up([message("g1")], 1, 1) == []
    assert caught_up([], 0, 0) == []


def test_a_range_of_which_nothing_is_left_is_one_empty_frame() -> None:
    (frame,) = catchups(SESSION, 3, [], 7, 1000)
    assert frames.encode(frame) == b'{"type":"catchup","session":"s","from":4,"seq":7,"events":[]}'


# Literally


def events_of(*bodies: Body) -> bytes:
    """The one frame's events, as they stand on the wire."""
    (encoded,) = caught_up(list(bodies), 0, len(bodies))
    head = b'{"type":"catchup","session":"s","from":1,"seq":%d,"events":[' % len(bodies)
    assert encoded.startswith(head)
    assert encoded.endswith(b"]}")
    return encoded[len(head) : -2]


def test_tokens_merge_where_their_first_part_stood_across_other_generations() -> None:
    g1, g2 = Story("g1"), Story("g2")
    assert events_of(g1.tokens(["Hel", "lo"]), g2.tokens(["Hi"]), g1.tokens([" wörld"]), g2.tokens(["!"])) == (
        b'{"type":"tokens","generation":"g1","attempt":1,"index":0,"count":3,"text":"Hello w\xc3\xb6rld"},'
        b'{"type":"tokens","generation":"g2","attempt":1,"index":0,"count":2,"text":"Hi!"}'
    )


def test_tokens_in_the_middle_of_an_answer_keep_the_index_of_their_first() -> None:
    story = Story("g1")
    story.tokens(["a", "b"])
    assert events_of(story.tokens(["c"]), story.tokens(["d", "e"])) == (
        b'{"type":"tokens","generation":"g1","attempt":1,"index":2,"count":3,"text":"cde"}'
    )


def test_reasoning_merges_by_itself() -> None:
    story = Story("g1")
    bodies = [story.reasoning(["hm"]), story.tokens(["a"]), story.reasoning(["!"]), story.tokens(["b"])]
    assert events_of(*bodies) == (
        b'{"type":"reasoning","generation":"g1","attempt":1,"index":0,"count":2,"text":"hm!"},'
        b'{"type":"tokens","generation":"g1","attempt":1,"index":0,"count":2,"text":"ab"}'
    )


def test_nothing_merges_across_data_of_its_generation_and_attempt() -> None:
    story, other = Story("g1"), Story("g2")
    bodies = [
        story.reasoning(["hm"]), story.tokens(["a"]), story.tokens(["b"]), story.data({"k": 1}), other.tokens(["x"]),
        story.reasoning(["!"]), story.tokens(["c"]), other.tokens(["y"]), story.tokens(["d"]),
    ]  # fmt: skip
    assert events_of(*bodies) == (
        b'{"type":"reasoning","generation":"g1","attempt":1,"index":0,"count":1,"text":"hm"},'
        b'{"type":"tokens","generation":"g1","attempt":1,"index":0,"count":2,"text":"ab"},'
        b'{"type":"data","generation":"g1","attempt":1,"name":"note","value":{"k":1},"at":2},'
        b'{"type":"tokens","generation":"g2","attempt":1,"index":0,"count":2,"text":"xy"},'
        b'{"type":"reasoning","generation":"g1","attempt":1,"index":1,"count":1,"text":"!"},'
        b'{"type":"tokens","generation":"g1","attempt":1,"index":2,"count":2,"text":"cd"}'
    )


def test_a_restart_drops_what_it_voids_and_only_the_last_one_stays() -> None:
    story, other = Story("g1"), Story("g2")
    bodies = [
        message("g1"), story.status("queued"), story.tokens(["a"]), other.tokens(["x"]), story.data(1), story.restart(),
        story.tokens(["b"]), story.restart(), story.status("thinking"), story.tokens(["c"]), story.end(),
    ]  # fmt: skip
    assert events_of(*bodies) == (
        b'{"type":"message","message_id":"m-g1","role":"user","content":"Hello","generation":"g1"},'
        b'{"type":"tokens","generation":"g2","attempt":1,"index":0,"count":1,"text":"x"},'
        b'{"type":"restart","generation":"g1","attempt":3,"reason":"worker_lost"},'
        b'{"type":"tokens","generation":"g1","attempt":3,"index":0,"count":1,"text":"c"},'
        b'{"type":"end","generation":"g1","attempt":3,"reason":"complete","count":1,"text_bytes":1,"crc32":112844655,'
        b'"timings_ms":{"total":1}}'
    )


def test_a_restart_whose_attempt_began_in_an_earlier_frame_is_kept() -> None:
    story = Story("g1")
    story.tokens(["a"])
    assert events_of(story.restart(), story.tokens(["b"])) == (
        b'{"type":"restart","generation":"g1","attempt":2,"reason":"worker_lost"},'
        b'{"type":"tokens","generation":"g1","attempt":2,"index":0,"count":1,"text":"b"}'
    )


def test_of_several_statuses_the_last_stays_until_tokens_overtake_it() -> None:
    story = Story("g1")
    bodies = [story.status("queued"), story.status("preparing"), story.reasoning(["hm"]), story.status("thinking")]
    assert events_of(*bodies) == (
        b'{"type":"reasoning","generation":"g1","attempt":1,"index":0,"count":1,"text":"hm"},'
        b'{"type":"status","generation":"g1","attempt":1,"state":"thinking"}'
    )
    assert events_of(*bodies, story.tokens(["a"]), story.status("retrying")) == (
        b'{"type":"reasoning","generation":"g1","attempt":1,"index":0,"count":1,"text":"hm"},'
        b'{"type":"tokens","generation":"g1","attempt":1,"index":0,"count":1,"text":"a"},'
        b'{"type":"status","generation":"g1","attempt":1,"state":"retrying"}'
    )


def test_a_detail_stays_with_its_status_and_goes_with_it() -> None:
    story = Story("g1")
    bodies = [story.status("queued"), story.status("queued", "no_worker")]
    told = b'{"type":"status","generation":"g1","attempt":1,"state":"queued","detail":"no_worker"}'
    assert events_of(*bodies) == told
    assert events_of(*bodies, story.status("preparing")) == (
        b'{"type":"status","generation":"g1","attempt":1,"state":"preparing"}'
    )


def test_what_is_not_merged_travels_byte_for_byte() -> None:
    odd = b'{ "type" : "future", "generation":"g1", "attempt":1, "x": 1.50 }'
    bare = b'{"type":"weather","text":"\\u2600"}'
    assert events_of(odd, bare, odd) == odd + b"," + bare + b"," + odd


def test_the_frame_after_a_cut_starts_its_merges_anew() -> None:
    story = Story("g1")
    bodies = [story.tokens(["a" * 200]), story.tokens(["b" * 200]), story.tokens(["c" * 200])]
    assert caught_up(bodies, 0, 3, 900) == [
        b'{"type":"catchup","session":"s","from":1,"seq":2,"events":[{"type":"tokens","generation":"g1","attempt":1,'
        b'"index":0,"count":2,"text":"' + b"a" * 200 + b"b" * 200 + b'"}]}',
        b'{"type":"catchup","session":"s","from":3,"seq":3,"events":[{"type":"tokens","generation":"g1","attempt":1,'
        b'"index":2,"count":1,"text":"' + b"c" * 200 + b'"}]}',
    ]


# For as long as the new attempt has neither status nor token.
def test_the_state_after_a_restart_is_the_same_live_and_caught_up() -> None:
    story = Story("g1")
    bodies = [message("g1"), story.status("queued"), story.tokens(["a"]), story.restart()]
    one, other = viewer(), viewer()
    live(one, bodies)
    (frame,) = caught_up(bodies, 0, len(bodies))
    other.apply(msgspec.json.decode(frame))
    assert other.generations["g1"].state == one.generations["g1"].state == "retrying"
