"""From the claims of a token, whose signature is good, to an identity. Pure.

A claim that is null counts as absent, as everywhere on the wire.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from relay.auth.identity import ANY_SESSION, DEFAULT_SCOPES, SCOPES, Identity, Scope
from relay.auth.refusals import TokenRefused
from relay.protocol.words import SESSION

LEEWAY_S = 30.0  # for clocks that differ; so from its `iat` on a token is accepted for `max_s` and three times this
MAX_PATTERNS = 100
Claims = Mapping[str, Any]

_SUB = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,128}\Z")  # JSON may hold half of a surrogate pair, Redis not
_PREFIX = re.compile(r"[A-Za-z0-9_.:-]{0,128}\*\Z")
_LATEST = 2.0**53  # of a time that can be counted with; beyond it lie infinity and numbers that no float holds


def identity_of(claims: Claims, *, now: float, max_s: float) -> Identity:
    """`max_s`: the longest life of a token. Raises TokenRefused."""
    sub = subject(claims)
    sessions, scopes = _sessions(claims), _scopes(claims)
    expires_at = expiry(claims, now=now, max_s=max_s, leeway_s=LEEWAY_S)
    issued_at = _time(claims, "iat") or 0.0
    if issued_at and expires_at - issued_at > max_s + 2 * LEEWAY_S:  # revocations are kept for no longer
        raise TokenRefused("too_long_lived", claims)
    if max(issued_at, _time(claims, "nbf") or 0.0) > now + LEEWAY_S:
        raise TokenRefused("not_yet_valid", claims)
    return Identity(
        sub=sub,
        scopes=scopes,
        sessions=ANY_SESSION if sessions is None else sessions,
        owns=sessions is None,
        makes="submit" in scopes,
        expires_at=expires_at,
        issued_at=issued_at,
    )


def subject(claims: Claims) -> str:
    """Raises TokenRefused."""
    sub = claims.get("sub")
    if sub is None:
        raise TokenRefused("no_sub")
    if not isinstance(sub, str) or not _SUB.match(sub):
        raise TokenRefused("bad_sub", claims)
    return sub


def expiry(claims: Claims, *, now: float, max_s: float, leeway_s: float) -> float:
    """Raises TokenRefused if it has passed, or lies more than `max_s` ahead."""
    expires_at = _time(claims, "exp")
    if expires_at is None:
        raise TokenRefused("no_exp", claims)
    if has_expired(expires_at, now=now, leeway_s=leeway_s):
        raise TokenRefused("expired", claims)
    if expires_at > now + max_s + LEEWAY_S:
        raise TokenRefused("too_long_lived", claims)
    return expires_at


def has_expired(expires_at: float, *, now: float, leeway_s: float) -> bool:
    return expires_at <= now - leeway_s


def is_session_pattern(value: object) -> bool:
    """A session's id, or the beginning of one with `*` behind it."""
    return isinstance(value, str) and (SESSION.match(value) or _PREFIX.match(value)) is not None


def _sessions(claims: Claims) -> tuple[str, ...] | None:
    """None: absent. An empty list allows no session at all."""
    given = claims.get("sessions")
    if given is None:
        return None
    patterns = [given] if isinstance(given, str) else given
    if not isinstance(patterns, list) or len(patterns) > MAX_PATTERNS or not all(map(is_session_pattern, patterns)):
        raise TokenRefused("bad_sessions", claims)
    return tuple(patterns)


def _scopes(claims: Claims) -> frozenset[Scope]:
    """Words that we do not know are other systems'."""
    given = claims.get("scope")
    if given is None:
        return DEFAULT_SCOPES
    words = given.split() if isinstance(given, str) else given
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise TokenRefused("bad_scope", claims)
    return frozenset(scope for scope in SCOPES if scope in words)


def _time(claims: Claims, name: str) -> float | None:
    """Unix seconds, as a number and nothing else: RFC 7519, section 2, NumericDate."""
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= _LATEST:
        raise TokenRefused("malformed", claims)
    return float(value)
