"""Who speaks on a WebSocket connection: the token of its handshake or `hello`, and each newer one.

A refusal comes after the handshake, with a close code: browsers hide the status of a handshake that fails.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.datastructures import Headers

from relay import timeouts
from relay.auth.identity import Access, Scope
from relay.auth.refusals import AccessRefused
from relay.errors import ClientError, Code
from relay.gateway.authentication import Authentication, bearer
from relay.gateway.caller import EXPIRED, Caller
from relay.gateway.replies import Replies
from relay.protocol import frames
from relay.protocol.commands import Hello, Refresh

HELLO_WITHIN_S = 10.0
# By why it ends.
CLOSE_CODES: dict[Code, int] = {"token_expired": 4401, "unauthenticated": 4501, "forbidden": 4503, "unavailable": 1013}


class Greeting:
    """`welcome` makes that frame; `on_newer` is called after a token has replaced another: it may allow less."""

    def __init__(
        self,
        authentication: Authentication,
        replies: Replies,
        welcome: Callable[[str | None, float | None], frames.Welcome],
        on_newer: Callable[[], Awaitable[None]],
    ) -> None:
        self._authentication = authentication
        self._replies = replies
        self._make_welcome = welcome
        self._on_newer = on_newer
        self._caller = Caller(authentication, self._over, self._expiring)
        self._hello_timer = timeouts.Timer(self._no_hello)

    @property
    def is_over(self) -> bool:
        """Whether nobody speaks here: not yet, or no more."""
        return self._caller.identity is None

    def access(self, action: Scope, session: str) -> Access:
        """Raises ClientError: `forbidden`, `unauthenticated`."""
        return self._caller.access(action, session)

    async def begin(self, headers: Headers, ticket: str | None) -> None:
        """Without a token in the handshake, `hello` must follow soon."""
        try:
            if self._authentication.is_on and ticket is None and bearer(headers) is None:
                self._hello_timer.start(HELLO_WITHIN_S)
                return
            self._caller.speaks_for(await self._authentication.of_request(headers, ticket))
        except ClientError as error:
            self._turn_away(error)
        else:
            self._welcome(None)

    async def hello(self, hello: Hello, reply_id: str | None) -> None:
        """The first one decides; a later one may bring a newer token."""
        if self.is_over:
            self._hello_timer.stop()  # what takes long from now on is ours
            try:
                await self._caller.refresh(hello.token)
            except ClientError as error:
                self._turn_away(error, reply_id)
                return
        elif hello.token is not None and not await self._replace(hello.token, reply_id):
            return
        self._welcome(reply_id)

    async def refresh(self, refresh: Refresh, reply_id: str | None) -> None:
        if await self._replace(refresh.token, reply_id):
            self._replies.send(frames.Refreshed(id=reply_id, expires_at=self._expires_at))

    def close(self) -> None:
        self._hello_timer.stop()
        self._caller.close()

    async def _replace(self, token: str, reply_id: str | None) -> bool:
        """Whether it could be replaced; otherwise the earlier token counts on."""
        try:
            await self._caller.refresh(token)
        except ClientError as error:
            self._replies.refuse(error, reply_id)
            return False
        await self._on_newer()
        return True

    def _welcome(self, reply_id: str | None) -> None:
        self._replies.send(self._make_welcome(reply_id, self._expires_at))

    @property
    def _expires_at(self) -> float | None:
        return self._caller.identity.expires_at if self._caller.identity is not None else None

    def _turn_away(self, error: ClientError, reply_id: str | None = None) -> None:
        self.close()
        self._replies.refuse(error, reply_id)
        self._replies.close(CLOSE_CODES.get(error.code, 4501), error.message)

    def _no_hello(self) -> None:
        self._turn_away(AccessRefused("unauthenticated", "No hello with a good token came in time."))

    def _expiring(self, expires_in_s: float) -> None:
        self._replies.send(frames.TokenExpiring(expires_in_s=round(expires_in_s, 3)))

    def _over(self, why: ClientError) -> None:
        """What it follows can go on elsewhere, with the cursor that the client has."""
        self._replies.close(CLOSE_CODES["token_expired" if why is EXPIRED else "forbidden"], why.message)
