"""The client's rules: which frames are applied, dropped or a gap, and when to subscribe again."""

from __future__ import annotations

import zlib
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay.protocol.view import FrameDict, SessionView
from relay.protocol.words import Cursor
from tests.protocol.logs import Story, message

ACTIVE = {"generation": "g1", "attempt": 1, "state": "streaming"}


def subscribed(
    at: int = 0, *, recovered: bool = False, epoch: str = "e1", active: list[FrameDict] | None = None
) -> FrameDict:
    return {
        "type": "subscribed", "session": "s", "epoch": epoch, "at": at, "head": at, "recovered": recovered,
        "active": active or [],
    }  # fmt: skip


def live(seq: int, body: bytes | dict[str, Any]) -> FrameDict:
    event = msgspec.json.decode(body) if isinstance(body, bytes) else body
    return {"session": "s", "seq": seq, **event}


def catchup(first: int, last: int, *bodies: bytes) -> FrameDict:
    events = [msgspec.json.decode(body) for body in bodies]
    return {"type": "catchup", "session": "s", "from": first, "seq": last, "events": events}


def end(text: str, count: int, attempt: int = 1, **changed: Any) -> FrameDict:
    encoded = text.encode()
    return {
        "type": "end", "generation": "g1", "attempt": attempt, "reason": "complete", "count": count,
        "text_bytes": len(encoded), "crc32": zlib.crc32(encoded), **changed,
    }  # fmt: skip


def begin(view: SessionView, at: int = 0, *, start: str = "start", **named: Any) -> FrameDict:
    """Subscribe, and take the reply; returns the command."""
    command = view.subscribe(start=start)
    assert view.apply({**subscribed(at, **named), "id": command["id"]}) == "applied"
    return command


def following(at: int = 0, **named: Any) -> SessionView:
    """A view whose subscription has begun."""
    view = SessionView("s")
    begin(view, at, **named)
    return view


# Order


def test_frames_that_follow_on_are_applied() -> None:
    story, view = Story("g1"), following()
    assert view.apply(live(1, message("g1"))) == "applied"
    assert view.apply(live(2, story.tokens(["Hel"]))) == "applied"
    assert view.apply(catchup(3, 5, story.tokens(["lo"]))) == "applied"
    assert view.apply(live(6, story.tokens(["!"]))) == "applied"
    assert view.last == 6
    assert view.cursor == Cursor("e1", 6)
    assert view.generations["g1"].text == "Hello!"


@pytest.mark.parametrize("first", [4, 5, 100])
def test_a_frame_that_starts_later_is_a_gap_and_changes_nothing(first: int) -> None:
    view = following(at=2, recovered=True)
    assert view.apply(live(first, Story("g1").tokens(["x"]))) == "gap"
    assert view.apply(catchup(first, first + 3, Story("g1").tokens(["x"]))) == "gap"
    assert (view.last, view.generations) == (2, {})


@pytest.mark.parametrize(("first", "last"), [(1, 1), (1, 2), (2, 2), (1, 3), (3, 3)])
def test_a_frame_that_ends_at_or_before_the_last_is_dropped(first: int, last: int) -> None:
    view = following(at=3, recovered=True)
    frame = live(first, message("g1")) if first == last else catchup(first, last, message("g1"))
    assert view.apply(frame) == "dropped"
    assert (view.last, view.messages) == (3, [])


def test_a_catchup_that_overlaps_what_is_known_is_a_gap() -> None:
    view = following(at=3, recovered=True)
    assert view.apply(catchup(3, 5, message("g1"))) == "gap"
    assert (view.last, view.messages) == (3, [])


def test_an_empty_catchup_moves_the_cursor() -> None:
    view = following()
    assert view.apply(catchup(1, 9)) == "applied"
    assert view.cursor == Cursor("e1", 9)


def test_frames_of_another_session_or_of_none_are_dropped() -> None:
    view = following()
    for frame in (
        {**live(1, message("g1")), "session": "t"},
        {**subscribed(5), "session": "t"},
        {"type": "heartbeat"},
        {"type": "pong", "t": 1},
        {"type": "accepted", "session": "s", "generation": "g", "duplicate": False},
        {"type": "error", "session": "s", "code": "internal", "message": "x", "retryable": True},
    ):
        assert view.apply(frame) == "dropped"
    assert (view.last, view.messages) == (0, [])


# Subscribing


def asked(view: SessionView, **named: Any) -> FrameDict:
    """The subscribe command without its id, which differs every time."""
    command = view.subscribe(**named)
    assert isinstance(command.pop("id"), str)
    return command


def test_the_first_subscribe_has_no_cursor_and_a_later_one_the_last_applied_seq() -> None:
    assert asked(SessionView("s")) == {"type": "subscribe", "session": "s"}
    assert SessionView("s").cursor is None
    view = following()
    view.apply(live(1, message("g1")))
    assert asked(view) == {"type": "subscribe", "session": "s", "cursor": {"epoch": "e1", "seq": 1}}


def test_live_is_asked_for_only_without_a_cursor() -> None:
    assert asked(SessionView("s"), start="live") == {"type": "subscribe", "session": "s", "from": "live"}
    view = following(at=7)
    assert asked(view, start="live") == {"type": "subscribe", "session": "s", "cursor": {"epoch": "e1", "seq": 7}}


def test_from_subscribe_until_subscribed_log_frames_are_dropped() -> None:
    assert SessionView("s").apply(live(1, message("g1"))) == "dropped"  # never subscribed

    view = following()
    view.apply(live(1, message("g1")))
    command = view.subscribe()
    assert view.apply(live(2, message("g2"))) == "dropped"
    assert view.apply(catchup(2, 3, message("g2"))) == "dropped"
    assert view.apply(live(9, message("g2"))) == "dropped"  # not a gap: it belongs to the earlier subscription
    assert view.last == 1
    assert view.apply({**subscribed(1, recovered=True), "id": command["id"]}) == "applied"
    assert view.apply(live(2, message("g2"))) == "applied"


def test_of_several_subscribes_only_the_reply_to_the_last_counts() -> None:
    view = SessionView("s")
    first, second = view.subscribe(), view.subscribe()
    assert view.apply({**subscribed(3), "id": first["id"]}) == "dropped"
    assert view.apply(subscribed(3)) == "dropped"  # unasked, of the earlier subscription
    assert view.apply(live(4, message("g1"))) == "dropped"
    assert view.apply({**subscribed(0), "id": second["id"]}) == "applied"
    assert view.apply(live(1, message("g1"))) == "applied"


def test_recovered_keeps_what_is_known() -> None:
    story, view = Story("g1"), following()
    view.apply(live(1, message("g1")))
    view.apply(live(2, story.tokens(["Hel"])))
    begin(view, 2, recovered=True, active=[ACTIVE])
    assert view.apply(live(3, story.tokens(["lo"]))) == "applied"
    assert view.generations["g1"].text == "Hello"
    assert len(view.messages) == 1
    assert view.interrupted == set()


def test_not_recovered_forgets_what_is_known_and_rebuilds() -> None:
    story, view = Story("g1"), following()
    view.apply(live(1, message("g1")))
    view.apply(live(2, story.tokens(["Hel"])))
    begin(view, 0, epoch="e2", active=[ACTIVE])
    assert (view.messages, view.generations) == ([], {})
    assert view.cursor == Cursor("e2", 0)
    assert view.apply(catchup(1, 4, message("g1"), Story("g1").tokens(["Hel", "lo"]))) == "applied"
    assert view.generations["g1"].text == "Hello"
    assert len(view.messages) == 1


def test_an_unasked_subscribed_takes_effect_at_once() -> None:
    view = following()
    view.apply(catchup(1, 5, message("g1"), Story("g1").tokens(["old"])))
    assert view.apply(subscribed(0, epoch="e2")) == "applied"
    assert (view.last, view.generations, view.waiting) == (0, {}, False)
    assert view.apply(live(1, message("g2"))) == "applied"


def test_a_generation_that_neither_ended_nor_came_back_is_interrupted() -> None:
    view = following()
    ended = Story("g2")
    view.apply(catchup(1, 9, Story("g1").tokens(["x"]), ended.tokens(["y"]), ended.end(), Story("g3").tokens(["z"])))
    view.apply(subscribed(0, epoch="e2", active=[{**ACTIVE, "generation": "g3"}]))
    assert view.interrupted == {"g1"}


def test_an_interrupted_generation_that_appears_in_the_new_log_is_none_any_more() -> None:
    view = following()
    view.apply(live(1, Story("g1").tokens(["x"])))
    view.apply(subscribed(0, epoch="e2"))
    assert view.interrupted == {"g1"}
    view.apply(live(1, message("g1")))
    assert view.interrupted == {"g1"}  # the question came back, not yet the answer
    view.apply(live(2, Story("g1").tokens(["x"])))
    assert view.interrupted == set()


def test_an_interrupted_generation_that_is_given_up_is_lost_until_it_comes_back_after_all() -> None:
    view = following()
    view.apply(live(1, Story("g1").tokens(["x"])))
    view.apply(live(2, Story("g2").tokens(["y"])))
    view.apply(subscribed(0, epoch="e2"))
    view.give_up({"g1", "other"})
    assert (view.interrupted, view.lost) == ({"g2"}, {"g1"})
    begin(view, 0, epoch="e2", recovered=False)
    assert (view.interrupted, view.lost) == ({"g2"}, {"g1"})
    view.apply(live(1, Story("g1").tokens(["x"])))
    assert (view.interrupted, view.lost) == ({"g2"}, set())


def test_a_question_that_was_written_again_is_shown_once() -> None:
    view = following()
    view.apply(catchup(1, 3, message("g1"), message("g2"), message("g1")))
    assert [event["message_id"] for event in view.messages] == ["m-g1", "m-g2"]


@pytest.mark.parametrize("recovered", [True, False])
def test_an_interrupted_generation_stays_so_over_a_reconnect(recovered: bool) -> None:
    view = following()
    view.apply(live(1, Story("g1").tokens(["x"])))
    view.apply(subscribed(0, epoch="e2"))
    begin(view, 0, epoch="e2", recovered=recovered)
    assert view.interrupted == {"g1"}


def test_recovered_never_interrupts() -> None:
    view = following()
    view.apply(live(1, Story("g1").tokens(["x"])))
    begin(view, 1, recovered=True)
    assert view.interrupted == set()


def test_forgetting_asks_for_everything() -> None:
    view = following()
    view.apply(catchup(1, 5, message("g1"), Story("g1").tokens(["x"])))
    view.forget()
    assert asked(view) == {"type": "subscribe", "session": "s"}
    assert (view.messages, view.generations) == ([], {})


# Events


def test_an_answer_is_built_from_its_events() -> None:
    story, view = Story("g1"), following()
    bodies = [
        message("g1"), story.status("queued"), story.status("thinking"), story.reasoning(["hm", "!"]),
        story.tokens(["Hé", "l"]), story.data({"x": 1}), story.future(), story.tokens(["lo 😀"]),
    ]  # fmt: skip
    states = []
    for seq, body in enumerate(bodies, 1):
        assert view.apply(live(seq, body)) == "applied"
        states.append(view.generations["g1"].state if "g1" in view.generations else None)
    shown = view.generations["g1"]
    assert states[1:5] == ["queued", "thinking", "thinking", "streaming"]
    assert (shown.text, shown.reasoning, shown.count, shown.end) == ("Hél" + "lo 😀", "hm!", 3, None)
    assert view.apply(live(9, story.end())) == "applied"
    assert shown.state == "complete"
    assert shown.end is not None
    assert [event["content"] for event in view.messages] == ["Hello"]


def test_a_detail_is_of_the_status_that_counts_now() -> None:
    story, view = Story("g1"), following()
    bodies = [story.status("queued", "no_worker"), story.status("queued"), story.status("retrying", "provider")]
    bodies += [story.tokens(["a"]), story.status("retrying", "provider"), story.restart()]
    bodies += [story.status("queued", "after")]
    details = []
    for seq, body in enumerate([*bodies, story.end()], 1):
        assert view.apply(live(seq, body)) == "applied"
        details.append(view.generations["g1"].detail)
    assert details == ["no_worker", "", "provider", "", "provider", "", "after", ""]


def test_an_event_of_an_unknown_type_only_counts() -> None:
    view = following()
    assert view.apply(live(1, {"type": "future"})) == "applied"
    assert view.apply(live(2, {"type": "future", "generation": "g1", "attempt": 1, "text": "x"})) == "applied"
    assert view.last == 2
    assert all(shown.text == "" for shown in view.generations.values())


def test_an_event_of_an_unknown_type_may_lack_what_ours_carry() -> None:
    view = following()
    assert view.apply(live(1, {"type": "future", "generation": "g1"})) == "applied"
    assert view.last == 1


def test_a_restart_voids_text_and_reasoning_but_not_other_generations() -> None:
    story, other, view = Story("g1"), Story("g2"), following()
    view.apply(catchup(1, 4, story.reasoning(["hm"]), story.tokens(["old"]), other.tokens(["kept"])))
    assert view.apply(live(5, story.restart())) == "applied"
    shown = view.generations["g1"]
    assert (shown.attempt, shown.text, shown.reasoning, shown.count) == (2, "", "", 0)
    view.apply(live(6, story.tokens(["new"])))
    assert view.apply(live(7, story.end())) == "applied"
    assert (shown.text, view.generations["g2"].text) == ("new", "kept")


def test_attempts_may_skip_numbers() -> None:
    story, view = Story("g1"), following()
    view.apply(live(1, story.tokens(["old"])))
    view.apply(live(2, story.restart(skipped=3)))
    view.apply(live(3, story.tokens(["new"])))
    assert (view.generations["g1"].attempt, view.generations["g1"].text) == (5, "new")


def test_a_higher_attempt_without_its_restart_acts_as_if_it_were_there() -> None:
    story, view = Story("g1"), following()
    view.apply(live(1, story.tokens(["old"])))
    story.restart()
    assert view.apply(live(2, story.tokens(["new"]))) == "applied"
    assert view.apply(live(3, story.end())) == "applied"
    shown = view.generations["g1"]
    assert (shown.attempt, shown.text, shown.count) == (2, "new", 1)


def test_the_text_of_a_stopped_or_failed_answer_stays() -> None:
    for reason in ("stopped", "failed"):
        view = following()
        view.apply(live(1, Story("g1").tokens(["some"])))
        assert view.apply(live(2, end("some", 1, reason=reason))) == "applied"
        assert (view.generations["g1"].text, view.generations["g1"].state) == ("some", reason)


# Proof


@pytest.mark.parametrize("wrong", [{"count": 3}, {"text_bytes": 5}, {"crc32": 1}, {"count": 0}])
def test_an_end_that_does_not_match_what_is_shown_is_a_mismatch(wrong: dict[str, int]) -> None:
    view = following()
    view.apply(live(1, Story("g1").tokens(["Hé", "y"])))
    assert view.apply(live(2, {**end("Héy", 2), **wrong})) == "mismatch"
    assert view.apply(live(2, end("Héy", 2))) == "dropped"  # it was applied all the same: the cursor moved on


def test_the_checksum_is_of_the_last_attempts_utf_8_text() -> None:
    view, story = following(), Story("g1")
    view.apply(live(1, story.tokens(["void"])))
    view.apply(live(2, story.restart()))
    view.apply(live(3, story.tokens(["日本😀"])))
    assert view.apply(live(4, end("日本😀", 1, attempt=2, text_bytes=10, crc32=237342341))) == "applied"


def test_an_answer_without_text_has_the_checksum_0() -> None:
    view = following()
    assert view.apply(live(1, end("", 0, crc32=0))) == "applied"


@pytest.mark.parametrize("index", [0, 2, 5])
def test_tokens_that_do_not_go_on_from_those_so_far_are_a_mismatch(index: int) -> None:
    view = following()
    view.apply(live(1, Story("g1").tokens(["a"])))
    event = {"type": "tokens", "generation": "g1", "attempt": 1, "index": index, "count": 1, "text": "b"}
    assert view.apply(live(2, event)) == "mismatch"


def test_a_mismatch_inside_a_catchup_is_told_even_if_it_is_not_the_last_event() -> None:
    view, other = following(), Story("g2")
    frame = catchup(1, 3, Story("g1").tokens(["a"]), msgspec.json.encode(end("ab", 1)), other.tokens(["fine"]))
    assert view.apply(frame) == "mismatch"
    assert view.last == 3


# From live on


def joined_live(at: int = 40) -> SessionView:
    view = SessionView("s")
    begin(view, at, start="live", active=[ACTIVE])
    return view


def test_a_live_joiner_begins_at_the_first_index_it_sees_and_does_not_check_the_checksum() -> None:
    view, story = joined_live(), Story("g1")
    story.tokens(["before", "it", "joined"])
    assert view.apply(live(41, story.tokens(["then", "on"]))) == "applied"
    assert view.apply(live(42, story.tokens(["."]))) == "applied"
    shown = view.generations["g1"]
    assert (shown.text, shown.count) == ("thenon.", 6)
    assert view.apply(live(43, story.end())) == "applied"


def test_a_live_joiner_still_sees_a_hole_in_the_tokens_that_follow() -> None:
    view, story = joined_live(), Story("g1")
    story.tokens(["before"])
    view.apply(live(41, story.tokens(["then"])))
    story.tokens(["lost"])
    assert view.apply(live(42, story.tokens(["on"]))) == "mismatch"


def test_a_live_joiner_checks_answers_that_began_after_it_joined() -> None:
    view = joined_live()
    assert view.apply(live(41, {**end("x", 1), "generation": "g2"})) == "mismatch"


def test_a_live_joiner_checks_an_attempt_that_began_after_it_joined() -> None:
    view, story = joined_live(), Story("g1")
    view.apply(live(41, story.restart()))
    view.apply(live(42, story.tokens(["whole"])))
    assert view.apply(live(43, end("whole!", 1, attempt=2))) == "mismatch"


# The next two joined live once; what follows is everything, so it is checked like everything.
def test_a_live_joiner_whose_log_begins_anew_checks_what_it_then_gets_whole() -> None:
    view = joined_live()
    view.apply(subscribed(0, epoch="e2", active=[ACTIVE]))  # unasked: everything follows
    view.apply(live(1, Story("g1").tokens(["whole"])))
    assert view.apply(live(2, end("whole!", 1))) == "mismatch"


def test_a_live_joiner_whose_cursor_is_not_honoured_checks_what_it_then_gets_whole() -> None:
    view = joined_live()
    assert "cursor" in begin(view, 0, start="live", epoch="e2", active=[ACTIVE])
    view.apply(live(1, Story("g1").tokens(["whole"])))
    assert view.apply(live(2, end("whole!", 1))) == "mismatch"


# From a saved cursor on


def resumed(at: int = 7) -> SessionView:
    view = SessionView("s")
    view.resume(Cursor("e1", at))
    begin(view, at, recovered=True)
    return view


def test_a_saved_cursor_is_asked_for() -> None:
    view = SessionView("s")
    view.resume(Cursor("e1", 7))
    assert asked(view) == {"type": "subscribe", "session": "s", "cursor": {"epoch": "e1", "seq": 7}}


def test_from_a_saved_cursor_answers_go_on_in_their_middle_and_are_not_checked() -> None:
    view, story = resumed(), Story("g1")
    story.tokens(["before"])
    story.restart()
    story.tokens(["before, again"])
    assert view.apply(live(8, story.tokens(["then"]))) == "applied"
    assert view.apply(live(9, story.end())) == "applied"
    assert (view.generations["g1"].attempt, view.generations["g1"].text) == (2, "then")
    assert view.apply(live(10, {**end("only its end was new", 3), "generation": "g2"})) == "applied"


def test_from_a_saved_cursor_answers_that_begin_later_are_checked() -> None:
    view, story = resumed(), Story("g1")
    view.apply(live(8, story.status("queued")))
    view.apply(live(9, story.tokens(["whole"])))
    assert view.apply(live(10, end("whole!", 1))) == "mismatch"


def test_a_saved_cursor_that_is_not_honoured_leaves_nothing_unchecked() -> None:
    view = SessionView("s")
    view.resume(Cursor("e0", 7))
    begin(view, 0)
    assert view.apply(live(1, end("x", 1))) == "mismatch"


# Upkeep


def test_data_stays_with_its_attempt() -> None:
    view, story = following(), Story("g1")
    view.apply(live(1, story.data("old")))
    assert [event["value"] for event in view.generations["g1"].data] == ["old"]
    view.apply(live(2, story.restart()))
    view.apply(live(3, story.data("new")))
    assert [event["value"] for event in view.generations["g1"].data] == ["new"]


def test_what_does_not_match_is_named_until_it_is_forgotten() -> None:
    view = following()
    view.apply(catchup(1, 2, Story("g1").tokens(["a"]), msgspec.json.encode(end("ab", 1))))
    assert view.unproven == {"g1"}
    view.forget()
    assert view.unproven == set()


def test_pruning_forgets_the_oldest_ended_answers_and_their_questions() -> None:
    view, seq = following(), 0
    for name in ("a", "b", "c", "d"):
        story = Story(name)
        for body in (message(name), story.tokens(["x"]), *([] if name == "a" else [story.end()])):
            view.apply(live(seq := seq + 1, body))
    view.prune(2)
    assert list(view.generations) == ["a", "c", "d"]
    assert [event["generation"] for event in view.messages] == ["a", "c", "d"]
    view.prune(2)
    assert list(view.generations) == ["a", "c", "d"]


def test_a_question_stays_while_a_retry_of_it_is_shown() -> None:
    view, seq = following(), 0

    def take(*bodies: bytes) -> None:
        nonlocal seq
        for body in bodies:
            view.apply(live(seq := seq + 1, body))
        view.prune(2)

    for name in ("a", "b"):
        take(message(name), Story(name).status("queued"), Story(name).end())
    take(Story("retry of a").status("queued"), Story("retry of a").end())
    assert list(view.generations) == ["b", "retry of a"]
    assert [event["generation"] for event in view.messages] == ["a", "b"]
    for name in ("c", "d"):
        take(message(name), Story(name).status("queued"), Story(name).end())
    assert [event["generation"] for event in view.messages] == ["c", "d"]


def test_however_long_a_retry_is_shown_few_questions_outlive_their_answers() -> None:
    view, seq = following(), 0
    view.apply(live(seq := seq + 1, Story("a retry").status("queued")))
    for number in range(50):
        name = f"g{number}"
        for body in (message(name), Story(name).status("queued"), Story(name).end()):
            view.apply(live(seq := seq + 1, body))
        view.prune(2)
    assert [event["generation"] for event in view.messages] == ["g46", "g47", "g48", "g49"]


def test_a_question_whose_answer_has_not_begun_is_not_pruned() -> None:
    view, seq = following(), 0
    for body in (Story("a").end(), Story("b").end(), message("c"), Story("d").end()):
        view.apply(live(seq := seq + 1, body))
    view.prune(2)
    assert [event["generation"] for event in view.messages] == ["c"]


# What does not come


def test_what_was_accepted_is_missing_until_its_answer_has_begun() -> None:
    view = following()
    view.expect("g1")
    view.apply(live(1, message("g1")))
    assert view.missing == ["g1"]
    view.apply(live(2, Story("g1").status("queued")))
    view.expect("g1")
    assert view.missing == []


def test_what_was_accepted_and_never_seen_stays_missing_in_every_other_log_and_is_lost() -> None:
    view = following()
    view.expect("g1")
    begin(view, epoch="e2")
    assert (view.interrupted, view.missing) == (set(), ["g1"])
    assert view.give_up(["g1", "g2"]) == ["g1"]
    assert (view.missing, view.lost) == ([], {"g1"})
    view.expect("g1")
    assert (view.missing, view.lost) == (["g1"], set())


def test_what_is_said_to_be_active_and_never_comes_is_interrupted_by_the_next_log() -> None:
    view = following()
    view.apply(live(1, Story("g1").tokens(["a"])))
    begin(view, epoch="e2", active=[ACTIVE])
    assert (view.interrupted, view.missing) == (set(), ["g1"])
    begin(view, epoch="e3")
    assert (view.interrupted, view.missing) == ({"g1"}, ["g1"])


def test_what_was_forgotten_to_be_built_again_and_is_not_there_any_more_is_interrupted() -> None:
    view = following()
    view.apply(live(1, Story("g1").tokens(["a"])))
    view.forget()
    assert view.missing == ["g1"]
    begin(view, epoch="e2")
    assert view.interrupted == {"g1"}


def test_of_the_lost_the_newest_are_remembered() -> None:
    view = following()
    for name in ("a", "b", "c"):
        view.expect(name)
        view.give_up([name])
    view.prune(2)
    assert list(view.lost) == ["b", "c"]


def test_a_view_is_whole_when_it_has_come_to_the_head_that_was_told() -> None:
    view = SessionView("s")
    assert view.rebuilding
    command = view.subscribe()
    view.apply({**subscribed(), "head": 1, "id": command["id"]})
    assert view.rebuilding
    view.apply(live(1, message("g1")))
    assert not view.rebuilding


# Whatever arrives


FRAME_RANGES = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 4)), max_size=25)


@given(FRAME_RANGES)
@settings(max_examples=150, deadline=None)
def test_whatever_ranges_arrive_only_those_that_start_right_after_the_last_are_applied(
    ranges: list[tuple[int, int]],
) -> None:
    view, last = following(), 0
    for first, more in ranges:
        outcome = view.apply(catchup(first, first + more))
        if first == last + 1:
            assert outcome == "applied"
            last = first + more
        else:
            assert outcome == ("dropped" if first + more <= last else "gap")
        assert view.last == last
