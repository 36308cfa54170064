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


class Newcomer:
    """Sees one answer, as it is given here; None: the end of it never comes."""

    shown: tuple[str, str] | None

    def __init__(self, url: str, session: str) -> None: ...

    async def __aenter__(self) -> Newcomer:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def subscribe(self) -> None: ...

    async def ended(self, generation: str) -> Any:
        if self.shown is None:
            raise AssertionError(f"the end of {generation} did not come")
        return SimpleNamespace(end={"reason": self.shown[0]}, text=self.shown[1])


@pytest.mark.parametrize(
    ("shown", "broken"),
    [
        (("complete", "text"), set()),
        (("stopped", "text"), {"differs"}),
        (("complete", "texttext"), {"differs"}),
        (None, {"missing_end"}),
    ],
)
async def test_what_a_newcomer_is_shown_otherwise_or_never_is_counted(
    shown: tuple[str, str] | None, broken: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "Client", Newcomer)
    monkeypatch.setattr(Newcomer, "shown", shown, raising=False)
    tally, chance = Tally(), random.Random(0)
    fleet: Any = SimpleNamespace(losses=Losses(20), url=str)
    session = Session(0, 1, fleet, Model(chance), chance, tally, lose_data=False)
    session.known = {"g1": ("complete", "text")}
    await session.look_again("http://none")
    assert set(tally.broken) == broken
