"""Keys taken out of text that a server sent, before it is logged. Pure.

Servers quote what they were sent: the key that they refuse, whole, shortened or with stars in it; an Authorization
header; now and then a whole request.
"""

from __future__ import annotations

import re

MASK = "[masked]"

_MAX_CHARS = 4096  # looked at, of any text
_SHORTEST_PIECE = 8  # of our own key; a shorter piece may be any word

_LOOKS_LIKE_A_KEY = re.compile(
    r"""
      \b(?:bearer|basic|digest)\s+[\w.~+/=*-]{4,}
    | \b(?:sk|pk|rk|gsk|xai|hf|r8|nvapi|pplx|fw|ghp|pat|lm)[-_](?=[\w.*-]{0,64}[\d*])[\w.*…-]{6,}
    | \bsk-[\w.*…-]+
    | \bAIza[\w-]{8,}
    | \beyJ[\w-]{8,}[\w.-]*
    | \b(?:(?:x-)?api[-_ ]?key|x-goog-api-key|authorization|access[-_]token|secret|password)["']?\s*[:=]\s*
      ["']?[^\s"',}]+
    | [^\s"'`]{0,64}\*{3,}[^\s"'`]{0,64}
    """,
    re.IGNORECASE | re.VERBOSE,
)
_RUN = re.compile(r"[\w+/=-]{24,}")


def mask_keys(text: str, key: str | None = None) -> str:
    """The text without any piece of `key`, our own, and without what has the shape of one."""
    return _LOOKS_LIKE_A_KEY.sub(MASK, _without(text[:_MAX_CHARS], key))


def mask_secrets(text: str, key: str | None = None) -> str:
    """As mask_keys does, and without any long run of letters and digits: not for ids and paths, which are such runs."""
    return _RUN.sub(lambda run: MASK if _is_random(run[0]) else run[0], mask_keys(text, key))


def printable(text: str, limit: int) -> str:
    """In one line, and at most `limit` characters of it."""
    return " ".join("".join(one if one.isprintable() else " " for one in text[: 4 * limit]).split())[:limit]


def _is_random(run: str) -> bool:
    return any(map(str.isdigit, run)) and any(map(str.isalpha, run))


def _without(text: str, key: str | None) -> str:
    """Take out each piece of the key, however it was shortened."""
    if not key:
        return text
    size = min(_SHORTEST_PIECE, len(key))
    pieces = {key[start : start + size] for start in range(len(key) - size + 1)}
    hidden = [False] * len(text)
    for piece in pieces:
        at = text.find(piece)
        while at >= 0:
            hidden[at : at + size] = [True] * size
            at = text.find(piece, at + 1)
    kept = "".join("\x00" if is_hidden else one for one, is_hidden in zip(text, hidden, strict=True))
    return re.sub("\x00+", MASK, kept.replace("\x00\x00", "\x00")) if True in hidden else text
