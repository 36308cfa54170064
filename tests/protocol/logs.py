"""Logs to test with: any history that the contract allows, as its events' bodies."""

from __future__ import annotations

import zlib
from typing import Any

import msgspec
from hypothesis import strategies as st

from relay.protocol import events

SESSION = "s"
EPOCH = "e1"

Decoded = dict[str, Any]
Body = bytes
_PLACE = {"session", "seq"}  # of a live event

TEXTS = st.text(st.sampled_from('ab \n"\\é日😀\x00'), min_size=1, max_size=12)
VALUES = st.none() | st.integers(0, 9) | TEXTS | st.lists(st.integers(0, 9), max_size=3)
STATES: list[events.State] = ["queued", "preparing", "thinking", "retrying"]
KINDS = ["tokens"] * 5 + ["reasoning"] * 2 + ["status"] * 2 + ["data", "restart", "end", "future", "bare"]


class Story:
    """One generation as it is written: what it may say next follows from what it has said."""

    def __init__(self, generation: str) -> None:
        self.generation = generation
        self.attempt = 1
        self.texts: list[str] = []
        self.reasonings: list[str] = []
        self.ended = False

    def tokens(self, texts: list[str]) -> Body:
        index = len(self.texts)
        self.texts = [*self.texts, *texts]
        return events.encode(events.Tokens(self.generation, self.attempt, index, len(texts), "".join(texts)))

    def reasoning(self, texts: list[str]) -> Body:
        index = len(self.reasonings)
        self.reasonings = [*self.reasonings, *texts]
        return events.encode(events.Reasoning(self.generation, self.attempt, index, len(texts), "".join(texts)))

    def status(self, state: events.State, detail: str | None = None) -> Body:
        return events.encode(events.Status(self.generation, self.attempt, state, detail))

    def data(self, value: Any) -> Body:
        return events.encode(events.Data(self.generation, self.attempt, "note", value, len(self.texts)))

    def restart(self, skipped: int = 0) -> Body:
        self.attempt += 1 + skipped
        self.texts, self.reasonings = [], []
        return events.encode(events.Restart(self.generation, self.attempt, "worker_lost"))

    def end(self, reason: str = "complete") -> Body:
        self.ended = True
        encoded = "".join(self.texts).encode()
        proof = len(self.texts), len(encoded), zlib.crc32(encoded)
        return events.encode(events.End(self.generation, self.attempt, reason, *proof, events.Timings(total=1)))

    def again(self) -> list[Body]:
        """What brings it back after the log was lost: question, attempt, and all that was said in it so far."""
        texts, reasonings, opened = self.texts, self.reasonings, []
        if self.attempt > 1:
            opened = [events.encode(events.Restart(self.generation, self.attempt, "worker_lost"))]
        self.texts, self.reasonings = [], []
        said = [self.reasoning(reasonings)] if reasonings else []
        return [message(self.generation), *opened, *said, *([self.tokens(texts)] if texts else [])]

    def future(self) -> Body:
        """An event of a type that this release has not heard of."""
        return msgspec.json.encode(
            {"type": "future", "generation": self.generation, "attempt": self.attempt, "text": "?", "index": 3}
        )


def in_order(parts: list[str | Decoded]) -> list[str | Decoded]:
    """Text and the data among it as a person sees them, however the text came."""
    joined: list[str | Decoded] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        else:
            joined.append(part if isinstance(part, str) else {name: part[name] for name in part.keys() - _PLACE})
    return joined


def message(generation: str, content: str = "Hello") -> Body:
    return events.encode(events.Message(f"m-{generation}", "user", content, generation))


@st.composite
def logs(draw: st.DrawFn, max_size: int = 40) -> list[Body]:
    """Up to three generations, interleaved in any way; some end, some begin again."""
    stories = {name: Story(name) for name in ("g1", "g2", "g3")}
    begun: set[str] = set()
    bodies: list[Body] = []
    for _ in range(draw(st.integers(0, max_size))):
        story = stories[draw(st.sampled_from(sorted(stories)))]
        if story.ended:
            continue
        if story.generation not in begun:
            begun.add(story.generation)
            bodies += [message(story.generation), story.status("queued")]
            continue
        match draw(st.sampled_from(KINDS)):
            case "tokens":
                bodies.append(story.tokens(draw(st.lists(TEXTS, min_size=1, max_size=4))))
            case "reasoning":
                bodies.append(story.reasoning(draw(st.lists(TEXTS, min_size=1, max_size=4))))
            case "status":
                bodies.append(story.status(draw(st.sampled_from(STATES)), draw(st.sampled_from([None, "no_worker"]))))
            case "data":
                bodies.append(story.data(draw(VALUES)))
            case "restart":
                bodies.append(story.restart(draw(st.integers(0, 2))))
            case "end":
                bodies.append(story.end(draw(st.sampled_from(["complete", "stopped", "failed"]))))
            case "future":
                bodies.append(story.future())
            case "bare":
                bodies.append(b'{"type":"weather","text":"sunny"}')
    return bodies
