"""A context in the shape that a model API takes. Pure.

What was said is joined by an empty line where turns have to be; nothing of it is lost.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from relay_workers.providers.base import Turn

OPENING = "…"  # a user turn, put before a context that begins with the assistant


def without_blank(turns: list[Turn]) -> list[Turn]:
    """Without turns that hold nothing but blanks, for which most APIs refuse the whole context.

    An answer that was refused, or that only called a tool, leaves such a turn. The question, which is the last turn
    but for system turns, is kept whatever it holds.
    """
    question = next((turn for turn in reversed(turns) if turn.role != "system"), None)
    return [turn for turn in turns if turn is question or turn.content.strip()]


def without_system(turns: list[Turn]) -> tuple[str, list[Turn]]:
    """What the system turns say, wherever they stand, and the other turns."""
    return _joined(turn for turn in turns if turn.role == "system"), [turn for turn in turns if turn.role != "system"]


def alternating(spoken: list[Turn]) -> list[Turn]:
    """User and assistant by turns, a user's first. `spoken`: without system turns."""
    if spoken and spoken[0].role == "assistant":
        spoken = [Turn("user", OPENING), *spoken]
    return [Turn(role, _joined(neighbours)) for role, neighbours in groupby(spoken, key=lambda turn: turn.role)]


def in_order(turns: list[Turn]) -> list[Turn]:
    """One system turn at most, which is the first; then user and assistant by turns."""
    system, spoken = without_system(turns)
    return [*([Turn("system", system)] if system else []), *alternating(spoken)]


def system_as_user(turns: list[Turn]) -> list[Turn]:
    """The same for models that know no system turn: the first user turn begins with it."""
    system, spoken = without_system(turns)
    if not system:
        return alternating(spoken)
    return alternating([Turn("user", system), *spoken])


def _joined(turns: Iterable[Turn]) -> str:
    return "\n\n".join(turn.content for turn in turns)
