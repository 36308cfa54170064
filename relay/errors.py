"""Every error this project raises on purpose, as one tree.

RelayError                a mistake or a limit that a person can act on; the sentence says which setting or field
├── SettingsError         the command line or environment is wrong; ends the process with one line
├── StorageError          Redis did not answer, or not as it should; always worth another try
│   └── UnreadableJob     what it answered was written by a release that this one does not understand
└── ClientError           theirs: reaches a client as `error {code, message, retryable}` or as an HTTP status
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
    """Root of the tree."""


class SettingsError(RelayError):
    """A setting cannot be used; the text names it."""


class StorageError(RelayError):
    """Redis is away, slow, full or answered what it should not; the text says which.

    `refused`: Redis answered, and refused this command for what it is; another one may well succeed. Otherwise
    whether it took effect is unknown, or nothing would be accepted now.
    """

    def __init__(self, text: str, *, refused: bool = False) -> None:
        super().__init__(text)
        self.refused = refused


class UnreadableJob(StorageError):
    """A job was written by a release whose jobs this one cannot read."""


class ClientError(RelayError):
    """An error that a client reads.

    `code` is one of PROTOCOL's codes, `message` a sentence for a person (never a traceback, key or prompt),
    `retry_after_s` seconds to wait where the server knows them, `status` the HTTP status if it is not the code's.
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
