"""Every error that this project raises on purpose, as one tree.

RelayError                a mistake or a limit that a person can act on; the sentence says which setting or field
├── SettingsError         the command line, environment or Redis' own policy is wrong; ends the process with one line
├── ServerDied            the embedded server of `relay dev` has died, and with it what it held
├── StorageError          Redis did not answer, or not as it should; always worth another try
│   └── UnreadableJob     the job was written by a release that this one cannot read
│       └── LaterJob      its version says that it is a later release, whose processes can read it
├── ClientError           the client's: reaches it as `error {code, message, retryable}` or as an HTTP status
│   └── TokenRefused      a token; its exact reason is for the log (relay.auth.refusals)
└── what relay.client raises:
    ├── RequestRefused    a gateway answered a command with an error that no retry helps
    ├── Disconnected      there is no connection and there will be none
    │   └── TokenRefused  the gateway takes no token that we have
    ├── SessionDeleted    the session that was followed is gone
    └── AnswerLost        the relay has lost the answer, and no worker has brought it back
"""

from __future__ import annotations

from typing import Literal

Code = Literal[
    "bad_message", "unknown_type", "bad_session", "bad_cursor", "too_large", "unauthenticated", "forbidden",
    "token_expired", "rate_limited", "not_found", "conflict", "too_many_subscriptions", "unavailable",
    "still_running", "internal",
]  # fmt: skip

HTTP_STATUS: dict[Code, int] = {
    "bad_message": 400, "unknown_type": 400, "bad_session": 400, "bad_cursor": 400, "unauthenticated": 401,
    "token_expired": 401, "forbidden": 403, "not_found": 404, "conflict": 409, "too_large": 413,
    "rate_limited": 429, "too_many_subscriptions": 429, "internal": 500, "unavailable": 503,
    "still_running": 504,
}  # fmt: skip

RETRYABLE: frozenset[Code] = frozenset({"rate_limited", "unavailable", "still_running", "internal"})


class RelayError(Exception):
    """Root of the tree. `exit_code`: the exit code of a command that ends with it."""

    exit_code = 2


class SettingsError(RelayError):
    """A setting, ours or Redis' own, cannot be used; the text names it."""


class ServerDied(RelayError):
    """The embedded server is gone; the text says what that means."""

    exit_code = 1


class StorageError(RelayError):
    """Redis is away, slow, full or answered what it should not; the text says which.

    `refused`: Redis answered, and refused this command itself; another one may well succeed. Otherwise it is unknown
    whether it took effect, or nothing would be accepted now. `denied`: the Redis user lacks a right for it; the text
    says which. That does not count as refused: with the right it succeeds.
    """

    def __init__(self, text: str, *, refused: bool = False, denied: bool = False) -> None:
        super().__init__(text)
        self.refused = refused
        self.denied = denied


class UnreadableJob(StorageError):
    """A job was written by a release whose jobs this one cannot read."""


class LaterJob(UnreadableJob):
    """Its version is of a later release; it is left to processes of that release."""


class ClientError(RelayError):
    """An error that a client reads.

    `code` is one of PROTOCOL's codes, `message` a sentence for a person (never a traceback, key or prompt),
    `retry_after_s` seconds to wait if the server knows them, `status` the HTTP status if it is not the code's.
    """

    def __init__(
        self, code: Code, message: str, *, retry_after_s: float | None = None, status: int | None = None
    ) -> None:
        super().__init__(message)
        self.code: Code = code
        self.message = message
        self.retryable = code in RETRYABLE
        self.retry_after_s = retry_after_s
        self.status = status or HTTP_STATUS[code]


class RequestRefused(RelayError):
    """A gateway refused a command; `code`, `message`, `retryable` and `retry_after_s` are its own words."""

    def __init__(self, code: str, message: str, *, retryable: bool = False, retry_after_s: float | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.retryable = retryable
        self.retry_after_s = retry_after_s


class Disconnected(RelayError):
    """The client has given up, was closed, or was told not to come back: then `close_code` is 4500–4999."""

    def __init__(self, message: str, *, close_code: int | None = None) -> None:
        super().__init__(message)
        self.close_code = close_code


class TokenRefused(Disconnected):
    """The gateway wants a token and there is none, or takes none of ours: missing, malformed, expired or revoked.

    `close_code`: 4401, 4501 or 4503; None if it came as HTTP 401, or what was given cannot be a token.
    """


class SessionDeleted(RelayError):
    """Somebody deleted the session; a new subscription would begin a new one."""

    def __init__(self, session: str) -> None:
        super().__init__(f"the session {session} was deleted")
        self.session = session


class AnswerLost(RelayError):
    """The relay has lost its data, and the answer with it; no worker has brought it back or ended it. Ask again."""

    def __init__(self, session: str, generation: str) -> None:
        super().__init__("the relay has lost this answer; please ask again")
        self.session = session
        self.generation = generation
