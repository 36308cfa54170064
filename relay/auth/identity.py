"""Who asks, and what they may do: the one place that decides, by action and session. Pure.

Whatever a client asks for needs an action on a session. `Identity.access` says whether its token allows that, and what
the session's owner must then be; the store checks the owner in the same step as it acts.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

from relay.auth.refusals import AccessRefused
from relay.errors import ClientError

Scope = Literal["read", "submit", "stop", "delete", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
DEFAULT_SCOPES: frozenset[Scope] = frozenset({"read", "submit", "stop"})
ANY_SESSION = ("*",)


class Access(NamedTuple):
    """What an allowed action asks of a session.

    `sub`: whose it must be; None: anybody's, or nobody's. `maker`: the `sub` that owns it if this action makes it;
    empty: nobody will.
    """

    sub: str | None = None
    maker: str = ""

    @property
    def makes(self) -> bool:
        """Whether the action may make the session, where it needs one."""
        return self.sub is None or self.maker != ""


UNRESTRICTED = Access()  # where auth is off


class Identity(NamedTuple):
    """Whom a token, or a ticket, speaks for.

    `sessions`: ids, or prefixes that end in `*`. `owns`: of these, only sessions that `sub` made. `makes`: it may
    become the owner of a session that it makes. `expires_at`, `issued_at`: Unix seconds; no expiry is None, an unknown
    time of issue 0.
    """

    sub: str
    scopes: frozenset[Scope]
    sessions: tuple[str, ...] = ANY_SESSION
    owns: bool = False
    makes: bool = False
    expires_at: float | None = None
    issued_at: float = 0.0

    def access(self, action: Scope, session: str) -> Access:
        """Raises ClientError `forbidden`."""
        self.require(action)
        if not any(_matches(pattern, session) for pattern in self.sessions):
            raise AccessRefused("forbidden", "This token is not for that session.")
        return Access(self.sub if self.owns else None, self.sub if self.makes else "")

    def require(self, action: Scope) -> None:
        """For what concerns no session. Raises ClientError `forbidden`."""
        if action not in self.scopes:
            raise AccessRefused("forbidden", f"This token does not allow that; it lacks the scope {action}.")


# Where auth is off. Admin routes ask for more than this: the loopback interface (gateway/authentication.py).
EVERYBODY = Identity("", frozenset(SCOPES))


def foreign() -> ClientError:
    """A session that is not theirs, or that they may not make, for those who asked to follow it or to ask in it."""
    return AccessRefused("forbidden", "That session is not yours.")


def _matches(pattern: str, session: str) -> bool:
    return session.startswith(pattern[:-1]) if pattern.endswith("*") else session == pattern
