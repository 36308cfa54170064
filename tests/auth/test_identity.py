"""What a token allows, by action and session."""

from __future__ import annotations

import pytest

from relay.auth.identity import DEFAULT_SCOPES, EVERYBODY, SCOPES, UNRESTRICTED, Access, Identity
from relay.errors import ClientError


@pytest.mark.parametrize("action", SCOPES)
def test_without_auth_everybody_may_do_everything_anywhere(action: str) -> None:
    assert EVERYBODY.access(action, "s") == UNRESTRICTED  # type: ignore[arg-type]


@pytest.mark.parametrize("action", SCOPES)
def test_a_scope_is_for_its_action_only(action: str) -> None:
    one = Identity("a", frozenset({action}))  # type: ignore[arg-type]
    for other in SCOPES:
        if other == action:
            one.require(other)
            one.access(other, "s")
        else:
            with pytest.raises(ClientError, match=f"lacks the scope {other}") as refused:
                one.access(other, "s")
            assert refused.value.code == "forbidden"


@pytest.mark.parametrize(
    ("patterns", "session", "is_for"),
    [
        (["s"], "s", True),
        (["s"], "s1", False),
        (["s1"], "s", False),
        (["a", "s*"], "s1", True),
        (["s*"], "s", True),
        (["s*"], "t", False),
        (["team:7:*"], "team:70:x", False),
        (["team:7:*"], "team:7:x", True),
        (["*"], "anything", True),
        ([], "s", False),
        (["S"], "s", False),
    ],
)
def test_a_token_is_for_the_sessions_that_it_names(patterns: list[str], session: str, is_for: bool) -> None:
    named = Identity("a", DEFAULT_SCOPES, tuple(patterns))
    if is_for:
        assert named.access("read", session) == Access(None, "")
    else:
        with pytest.raises(ClientError, match="not for that session"):
            named.access("read", session)


@pytest.mark.parametrize(
    ("owns", "makes", "access", "may_make"),
    [
        (True, True, Access("a", "a"), True),
        (True, False, Access("a", ""), False),
        (False, True, Access(None, "a"), True),
        (False, False, Access(None, ""), True),
    ],
)
def test_what_it_asks_of_the_owner(owns: bool, makes: bool, access: Access, may_make: bool) -> None:
    found = Identity("a", DEFAULT_SCOPES, owns=owns, makes=makes).access("read", "s")
    assert (found, found.makes) == (access, may_make)
