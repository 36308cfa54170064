"""The checker: what one client was sent, frame by frame, against what the provider said. Pure; trusts no view.

    judge(client.record, generation, "The whole answer.").assert_clean()

It applies no rule that forgives: on one subscription everything comes once and in order, so each frame or token that a
lenient client would drop, ask for again or put right is counted here, and none of the counts may be anything but 0.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from relay.protocol.view import FrameDict

COUNTS = {
    "lost": "tokens of the shown attempt that never came, reasoning included",
    "doubled": "tokens that came again",
    "reordered": "tokens that came after later ones",
    "mixed": "events of one attempt amid another's, or text that belongs to no call of its attempt",
    "text": "answers whose text is not, byte for byte, what the provider said",
    "missing_end": "answers without an end",
    "second_end": "ends beyond the first",
    "after_end": "events of an answer after its end",
    "gaps": "seqs that frames left out",
    "repeated": "frames, or parts of them, that began at or before the last seq",
    "cursor": "subscriptions that continued somewhere else than where the client stood",
    "proof": "ends whose count, text_bytes or crc32 is not that of the text",
    "reason": "ends with another reason than the expected one",
}


@dataclass
class Verdict:
    """What is wrong, by the names in COUNTS; `shown` is the text, `end` the end, as this client has them."""

    generation: str
    counts: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    shown: str = ""
    end: FrameDict | None = None

    def count(self, what: str, note: str, times: int = 1) -> None:
        assert what in COUNTS
        self.counts[what] += times
        self.notes.append(f"{what} ({COUNTS[what]}) +{times}: {note}")

    def assert_clean(self) -> FrameDict:
        """The end; AssertionError with every count and where it was found, if there is any."""
        listed = "\n  ".join(self.notes[:20])
        assert not self.counts, f"{self.generation}: {dict(self.counts)}\n  {listed}"
        assert self.end is not None
        return self.end


def judge(
    record: Sequence[FrameDict],
    generation: str,
    said: str,
    reason: str = "complete",
    *,
    voided: Sequence[str] | None = None,
    holes: bool = False,
) -> Verdict:
    """`record`: the frames of one session as one client took them, `subscribed` among them, over all connections.

    `said`: what the provider said, as far as it is in the answer. `voided`: the same of the calls before, where that is
    known. `holes`: the client follows one generation only, so seqs may be left out.
    """
    verdict = Verdict(generation)
    sequence, answer = _Sequence(verdict, holes), _Answer(verdict)
    for frame in record:
        if frame["type"] == "subscribed":
            sequence.subscribed(frame)
            answer.subscribed(frame)
        else:
            sequence.frame(frame)
            for event in frame["events"] if frame["type"] == "catchup" else [frame]:
                if event["type"] != "message" and event.get("generation") == generation:
                    answer.event(event)
    answer.close(said, reason, voided)
    return verdict


class _Sequence:
    """Seqs and epochs: what each subscription begins with, and that nothing is left out or comes twice."""

    def __init__(self, verdict: Verdict, holes: bool) -> None:
        self._verdict = verdict
        self._holes = holes
        self._epoch: str | None = None
        self._last = 0

    def subscribed(self, frame: FrameDict) -> None:
        here = (self._epoch, self._last)
        if frame["recovered"] and self._epoch is not None and (frame["epoch"], frame["at"]) != here:
            self._verdict.count("cursor", f"at {frame['epoch']}:{frame['at']}, the client stood at {here}")
        self._epoch, self._last = frame["epoch"], frame["at"]

    def frame(self, frame: FrameDict) -> None:
        last: int = frame["seq"]
        first: int = frame.get("from", last)
        if first <= self._last:
            self._verdict.count("repeated", f"{frame['type']} {first} … {last}, the client stood at {self._last}")
        elif first > self._last + 1 and not self._holes:
            self._verdict.count("gaps", f"{self._last + 1} … {first - 1}", first - 1 - self._last)
        self._last = max(self._last, last)


class _Answer:
    """One generation: its attempts, its tokens, its end."""

    def __init__(self, verdict: Verdict) -> None:
        self._verdict = verdict
        self._attempts: dict[int, list[tuple[int, int, str]]] = {}  # attempt → (index, count, text) as they came
        self._reasoned: dict[int, list[tuple[int, int, str]]] = {}
        self._attempt = 0
        self._ends: list[FrameDict] = []
        self._begun_before: int | None = None  # attempt whose first tokens lie before what this client asked for
        self._known = False  # whether anything of this session was subscribed to before

    def subscribed(self, frame: FrameDict) -> None:
        if frame["recovered"] and self._known:
            return  # the client keeps what it has
        self._known = True
        self._attempts, self._reasoned, self._attempt, self._ends = {}, {}, 0, []
        running = {one["generation"]: one["attempt"] for one in frame["active"] if frame["at"] > 0}
        self._begun_before = running.get(self._verdict.generation)

    def event(self, event: FrameDict) -> None:
        attempt, name = event["attempt"], f"{event['type']} of attempt {event['attempt']}"
        if self._ends:
            self._verdict.count("second_end" if event["type"] == "end" else "after_end", name)
        if attempt < self._attempt:
            self._verdict.count("mixed", f"{name} amid attempt {self._attempt}")
        elif attempt > self._attempt > 0 and event["type"] != "restart":
            self._verdict.count("mixed", f"{name} follows attempt {self._attempt} without a restart")
        self._attempt = max(self._attempt, attempt)
        if event["type"] in ("tokens", "reasoning"):
            pieces = self._attempts if event["type"] == "tokens" else self._reasoned
            pieces.setdefault(attempt, []).append((event["index"], event["count"], event["text"]))
        elif event["type"] == "end":
            self._ends.append(event)

    def close(self, said: str, reason: str, voided: Sequence[str] | None) -> None:
        """Everything has come."""
        pieces = self._attempts.pop(self._attempt, [])
        partial = self._begun_before == self._attempt
        due = self._judge_tokens(self._attempt, pieces)
        for reasoned_in, thoughts in self._reasoned.items():
            self._judge_tokens(reasoned_in, thoughts)
        self._verdict.shown = "".join(text for _, _, text in pieces)
        self._judge_text(self._verdict.shown, said, partial)
        for attempt, others in self._attempts.items():
            self._judge_tokens(attempt, others)
            text = "".join(text for _, _, text in others)
            if voided is not None and not any(one.startswith(text) for one in voided):
                self._verdict.count("mixed", f"attempt {attempt} said {text[:60]!r} …, and no call did")
        if not self._ends:
            self._verdict.count("missing_end", f"after {due} tokens")
            return
        end = self._verdict.end = self._ends[0]
        if end["reason"] != reason:
            self._verdict.count("reason", f"{end['reason']} {end.get('error')}")
        if end["count"] > due and (pieces or not partial):
            self._verdict.count("lost", f"{due} … {end['count'] - 1}, the last ones", end["count"] - due)
        encoded = said.encode()
        if (end["text_bytes"], end["crc32"]) != (len(encoded), zlib.crc32(encoded)) or end["count"] < due:
            self._verdict.count("proof", f"{end}; {due} tokens came, {len(encoded)} bytes were said")

    def _judge_tokens(self, attempt: int, pieces: list[tuple[int, int, str]]) -> int:
        """By their indexes: what came late was missed before, what came again was had before. The index due next."""
        first = pieces[0][0] if pieces and self._begun_before == attempt else 0
        had: set[int] = set()
        most = first
        for index, count, _ in pieces:
            tokens = set(range(index, index + count))
            note = f"{index} … {index + count - 1} of attempt {attempt}, {most} was due"
            if again := tokens & had:
                self._verdict.count("doubled", note, len(again))
            if late := {token for token in tokens - had if token < most}:
                self._verdict.count("reordered", note, len(late))
            had |= tokens
            most = max(most, index + count)
        if missed := set(range(first, most)) - had:
            self._verdict.count("lost", f"{min(missed)} … {max(missed)} of attempt {attempt}", len(missed))
        return most

    def _judge_text(self, shown: str, said: str, partial: bool) -> None:
        ours, theirs = shown.encode(), said.encode()
        if theirs.endswith(ours) if partial else ours == theirs:
            return
        at = next((at for at, (one, other) in enumerate(zip(ours, theirs, strict=False)) if one != other), None)
        at = min(len(ours), len(theirs)) if at is None else at
        around = slice(max(0, at - 20), at + 20)
        self._verdict.count(
            "text", f"{len(ours)} bytes, not {len(theirs)}; at {at}: {ours[around]!r}, not {theirs[around]!r}"
        )
