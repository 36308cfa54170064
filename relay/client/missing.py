"""Answers that should come, or come back. Each is given up if it did not, for long enough that we could have heard."""

from __future__ import annotations

from collections.abc import Callable

from relay import timeouts
from relay.client.constants import SHARED
from relay.timeouts import Timer

EXTRA_WAIT_S = SHARED.last_call_s  # added to what the gateway announces: its word may be on its way


class MissingAnswers:
    """`give_up` is called with the names that are lost. Time counts only while they are watched, by timeouts.now."""

    def __init__(self, after_s: Callable[[], float], give_up: Callable[[list[str]], None]) -> None:
        self._after_s = after_s
        self._give_up = give_up
        self._since: dict[str, float] = {}
        self._timer = Timer(self._due)

    @property
    def due(self) -> float | None:
        """When the next one is given up, by `timeouts.now`."""
        return self._timer.due

    def watch(self, names: list[str]) -> None:
        """These are missing, and we would hear if they came. Names from the last call keep their time."""
        if names == list(self._since) and (self.due is not None or not names):
            return
        now = timeouts.now()
        self._since = {name: self._since.get(name, now) for name in names}
        self._timer.stop()
        if names:
            self._timer.start(min(self._since.values()) + self._allowed_s() - now)

    def _allowed_s(self) -> float:
        return self._after_s() + EXTRA_WAIT_S

    def _due(self) -> None:
        began_by = timeouts.now() - self._allowed_s()
        self._give_up([name for name, since in self._since.items() if since <= began_by])
