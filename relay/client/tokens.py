"""The token that a connection presents: one for ever, or one that a function gives whenever a fresh one is needed."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from inspect import isawaitable

from websockets.exceptions import ConnectionClosed

from relay.client.constants import SHARED
from relay.errors import TokenRefused

_TOKEN = re.compile(r"[!-~]+")  # so that nothing of it can become another header

Token = str | Callable[[], str | Awaitable[str | None] | None] | None


class TokenUnavailable(Exception):
    """The function has raised, or not answered in time; the cause is its own error."""


class TokenSource:
    """`failures`: of the function, in a row."""

    def __init__(self, token: Token) -> None:
        """Raises TokenRefused if it is no token."""
        self._token = token if callable(token) else _checked(token)
        self.failures = 0
        self._refusals = 0  # in a row

    @property
    def is_function(self) -> bool:
        return callable(self._token)

    @property
    def is_given(self) -> bool:
        return bool(self._token)

    async def fetch(self) -> str | None:
        """The token to present now, if there is one. Raises TokenUnavailable; TokenRefused if what came is none."""
        if not callable(self._token):
            return self._token
        try:
            async with asyncio.timeout(SHARED.welcome_within_s):
                given = self._token()
                token = await given if isawaitable(given) else given
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            self.failures += 1
            raise TokenUnavailable from error  # not we were cancelled, but what the function waited for
        except Exception as error:
            self.failures += 1
            raise TokenUnavailable from error
        self.failures = 0
        return _checked(token)

    def refused(self, *, was_useful: bool) -> bool:
        """The gateway wants no more of the last one, after it had been of use or at once.

        Whether to try with another: once, and only if there may be another.
        """
        self._refusals = 1 if was_useful else self._refusals + 1
        return self.is_function and self._refusals == 1

    def accepted(self) -> None:
        """The last one was of use."""
        self._refusals = 0


class TokenRefresher:
    """Replaces the token of one connection before it expires, if there is another by then. `aclose` must be awaited."""

    def __init__(self, tokens: TokenSource, used: str | None, send: Callable[[str], Awaitable[None]]) -> None:
        self._tokens = tokens
        self._used = used
        self._send = send
        self._refreshed_at = float("-inf")
        self._expires_at = 0.0
        self._task: asyncio.Task[None] | None = None

    def expires(self, in_s: float) -> None:
        """One refresh at a time: while one is under way, there is nothing more to do."""
        if self._task is None or self._task.done():
            self._expires_at = _now() + in_s
            self._begin()

    def put_off(self) -> None:
        """The gateway could not tell whether the last one is good: it is sent again, after the pause between two."""
        if (self._task is None or self._task.done()) and self._expires_at - _now() >= SHARED.refresh_pause_s:
            self._used = None
            self._begin()

    def _begin(self) -> None:
        if self._tokens.is_function:
            self._task = asyncio.create_task(self._refresh(self._expires_at), name="relay client refresher")

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            (outcome,) = await asyncio.gather(self._task, return_exceptions=True)
            if isinstance(outcome, Exception):
                raise outcome

    async def _refresh(self, expires_at: float) -> None:
        """Ask again after half of what is left: the function may hold on to its token, or fail, for a while.

        Without success the gateway closes, and the next connection asks again.
        """
        await asyncio.sleep(self._refreshed_at + SHARED.refresh_pause_s - _now())
        while not await self._replaced():
            left_s = expires_at - _now()
            if left_s < SHARED.refresh_pause_s:
                return
            await asyncio.sleep(left_s / 2)

    async def _replaced(self) -> bool:
        try:
            token = await self._tokens.fetch()
        except (TokenUnavailable, TokenRefused):
            return False
        if token is None or token == self._used:
            return False
        self._used, self._refreshed_at = token, _now()
        try:
            await self._send(token)
        except ConnectionClosed:
            pass  # whoever reads from it deals with that
        return True


def _checked(token: object) -> str | None:
    if not token:
        return None
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise TokenRefused("the token is none: it has other characters than those of a token, such as spaces")
    return token


def _now() -> float:
    return asyncio.get_running_loop().time()
