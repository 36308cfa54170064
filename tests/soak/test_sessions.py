"""What a soak makes of what newcomers see when all is over."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from tests.soak import sessions
from tests.soak.figures import Tally
from tests.soak.losses import Losses
from tests.soak.sessions import Model, Session
from tests.soak.viewer import End


class Newcomer:
    """Sees one answer, as it is given here; None: the end of it never comes."""

    shown: End | None

    def __init__(self, url: str, session: str) -> None:
        questions = [self.shown.question] if self.shown is not None and self.shown.question else []
        self.view = SimpleNamespace(messages=[{"generation": "g1", "content": one} for one in questions])

    async def __aenter__(self) -> Newcomer:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def subscribe(self) -> None: ...

    async def ended(self, generation: str) -> Any:
        if self.shown is None:
            raise AssertionError(f"the end of {generation} did not come")
        return SimpleNamespace(generation=generation, end={"reason": self.shown.reason}, text=self.shown.text)


@pytest.mark.parametrize(
    ("shown", "broken"),
    [
        (End("complete", "", "text", "q"), set()),
        (End("stopped", "", "text", "q"), {"differs"}),
        (End("complete", "", "texttext", "q"), {"differs"}),
        (End("complete", "", "text", ""), {"differs"}),
        (None, {"missing_end"}),
    ],
)
async def test_what_a_newcomer_is_shown_otherwise_or_never_is_counted(
    shown: End | None, broken: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "Client", Newcomer)
    monkeypatch.setattr(Newcomer, "shown", shown, raising=False)
    tally, chance = Tally(), random.Random(0)
    fleet: Any = SimpleNamespace(losses=Losses(20), url=str)
    session = Session(0, 1, fleet, Model(chance), chance, tally, lose_data=False)
    session.known = {"g1": End("complete", "", "text", "q")}
    await session.look_again("http://none")
    assert set(tally.broken) == broken
