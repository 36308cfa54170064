"""Why a token or a ticket is refused. The exact reason is for the log; whoever sent it reads less."""

from __future__ import annotations

from collections.abc import Mapping
from logging import INFO, WARNING
from typing import Any, Literal

from relay import logging, metrics
from relay.errors import ClientError

Reason = Literal[
    "malformed", "too_large", "wrong_algorithm", "unknown_key", "bad_signature", "wrong_audience", "wrong_issuer",
    "no_exp", "expired", "not_yet_valid", "too_long_lived", "no_sub", "bad_sub", "bad_sessions", "bad_scope",
    "revoked",
]  # fmt: skip

# For who has the token in hand: `relay token --check`.
EXPLANATIONS: dict[Reason, str] = {
    "malformed": "it is no JWT whose header and claims can be read",
    "too_large": "it has more than 16384 characters",
    "wrong_algorithm": "it is signed with another algorithm than the keys in force",
    "unknown_key": "none of the keys in force has its kid, or it has no kid and there are several",
    "bad_signature": "it was signed with another key, or changed afterwards",
    "wrong_audience": "its aud does not have RELAY_AUTH_AUDIENCE, or it has an aud and that setting is empty",
    "wrong_issuer": "its iss is not RELAY_AUTH_ISSUER",
    "no_exp": "it has no exp; a token must expire",
    "expired": "its exp has passed",
    "not_yet_valid": "its nbf or iat lies ahead",
    "too_long_lived": "its exp lies further ahead than RELAY_TOKEN_MAX_S, or that much after its iat",
    "no_sub": "it has no sub",
    "bad_sub": "its sub is not 1 to 128 characters without control characters",
    "bad_sessions": "its sessions are not at most 100 session ids, or prefixes of them that end in *",
    "revoked": "all tokens of its sub that were issued until then have been revoked",
    "bad_scope": "its scope is neither words with blanks between them nor a list of words",
}
_SHOWN = 32  # characters of what a client sent

_log = logging.RateLimitedLog(logging.get_logger("auth"), "token_refused")
_refused = logging.RateLimitedLog(logging.get_logger("auth"), "access_refused")


class TokenRefused(ClientError):
    """`reason`: for the log. `sub`: whose it is, shortened and escaped; empty where no key vouches for that."""

    kind = "token"

    def __init__(self, reason: Reason, claims: Mapping[str, Any] | None = None) -> None:
        if reason == "expired":
            super().__init__("token_expired", f"This {self.kind} has expired.")
        else:
            super().__init__("unauthenticated", f"This {self.kind} is not accepted.")
        self.reason: Reason = reason
        self.sub = _shortened((claims or {}).get("sub"))

    def report(self) -> None:
        """Count and log it: never the token, and of its claims nothing but `sub`."""
        metrics.auth_refusals.labels(self.kind, self.reason).inc()
        level = INFO if self.reason == "expired" else WARNING  # the first is everyday life
        _log.log((self.kind, self.reason), level=level, kind=self.kind, reason=self.reason, sub=self.sub or None)


class TicketRefused(TokenRefused):
    """The same for a ticket."""

    kind = "ticket"

    @classmethod
    def of(cls, refused: TokenRefused) -> TicketRefused:
        ticket = cls(refused.reason)
        ticket.sub = refused.sub
        return ticket


class AccessRefused(ClientError):
    """Nobody has said who asks, or their token does not allow it. The sentence is the reason, and names nobody."""

    def __init__(self, code: Literal["unauthenticated", "forbidden"], message: str) -> None:
        super().__init__(code, message)

    def report(self, session: object = None) -> None:
        """`session`: what was asked for, as it came."""
        shown = _shortened(session) or None
        _refused.log((self.code, self.message), code=self.code, reason=self.message, session=shown)


def _shortened(given: object) -> str:
    """In ASCII without control characters: a terminal may show the log."""
    if not isinstance(given, str):
        return ""
    cut = given[:_SHOWN].encode("unicode_escape").decode()
    return cut if len(given) <= _SHOWN else f"{cut}..."
