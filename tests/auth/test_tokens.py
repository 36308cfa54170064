"""Tokens: which are let in, as whom, and why the others are not."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Sequence
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from relay import metrics
from relay.auth import tokens
from relay.auth.identity import DEFAULT_SCOPES, Identity
from relay.auth.refusals import EXPLANATIONS, TokenRefused
from relay.auth.signing_keys import FixedKeys, SigningKey, public_signing_key, secret_keys, secrets_of
from relay.auth.tokens import TokenRules, TokenVerifier
from relay.errors import ClientError
from tests.auth.signing import NOW, OTHER_SECRET, SECRET, Clock, forged, private_key, public_pem, token

EXP = int(NOW) + 600
GOOD = {"sub": "ada", "exp": EXP}


def verifier(keys: FixedKeys | None = None, *, clock: Clock | None = None, **rules: Any) -> TokenVerifier:
    return TokenVerifier(keys or secret_keys(secrets_of(SECRET)), TokenRules(**rules), now=clock or Clock())


def public_keys(*algorithms: str) -> FixedKeys:
    return FixedKeys([public_signing_key(private_key(name).public_key()) for name in algorithms])


def signed_by_hand(header: Any, claims: Any, secret: str = SECRET) -> str:
    unsigned = forged(header, claims).rpartition(".")[0]
    tail = forged("", "", hmac.new(secret.encode(), unsigned.encode(), hashlib.sha256).digest()).rpartition(".")[2]
    return f"{unsigned}.{tail}"


async def refusal(verifier: TokenVerifier, given: str) -> TokenRefused:
    with pytest.raises(TokenRefused) as raised:
        await verifier.verify(given)
    return raised.value


async def reason(verifier: TokenVerifier, given: str) -> str:
    return (await refusal(verifier, given)).reason


async def test_a_good_token_says_whose_it_is() -> None:
    assert await verifier().verify(token()) == Identity(
        "ada", DEFAULT_SCOPES, ("*",), owns=True, makes=True, expires_at=EXP, issued_at=NOW
    )


async def test_sessions_and_scope_are_those_of_the_token() -> None:
    identity = await verifier().verify(token(sessions=["a", "team:*"], scope="read admin openid", iat=None))
    assert identity == Identity("ada", frozenset({"read", "admin"}), ("a", "team:*"), expires_at=EXP)


@pytest.mark.parametrize(
    ("scope", "scopes"),
    [
        (None, {"read", "submit", "stop"}),
        ("", set()),
        ("read", {"read"}),
        (" read \t stop ", {"read", "stop"}),
        (["read", "delete"], {"read", "delete"}),
        ("profile email", set()),
        ("READ", set()),
    ],
)
async def test_scope_is_words_with_blanks_or_a_list_and_unknown_words_are_others(scope: Any, scopes: set[str]) -> None:
    identity = await verifier().verify(token(scope=scope))
    assert identity.scopes == scopes
    assert identity.makes == ("submit" in scopes)


@pytest.mark.parametrize(
    ("sessions", "patterns"),
    [([], ()), ("a", ("a",)), ("team:*", ("team:*",)), (["*"], ("*",)), (["a"] * 100, ("a",) * 100)],
)
async def test_a_token_with_sessions_owns_none(sessions: Any, patterns: tuple[str, ...]) -> None:
    identity = await verifier().verify(token(sessions=sessions))
    assert (identity.sessions, identity.owns) == (patterns, False)


async def test_no_session_at_all_is_what_an_empty_list_allows() -> None:
    identity = await verifier().verify(token(sessions=[]))
    with pytest.raises(ClientError, match="not for that session"):
        identity.access("read", "a")


async def test_a_claim_that_is_null_is_absent() -> None:
    given = signed_by_hand({"alg": "HS256"}, {**GOOD, "sessions": None, "scope": None, "iat": None, "nbf": None})
    assert await verifier().verify(given) == Identity(
        "ada", DEFAULT_SCOPES, ("*",), owns=True, makes=True, expires_at=EXP
    )


REFUSED: list[tuple[str, str]] = [
    ("", "malformed"),
    ("x", "malformed"),
    ("a.b.c", "malformed"),
    ("..", "malformed"),
    ("é.é.é", "malformed"),
    ("\ud800.x.y", "malformed"),
    (token() + "é", "malformed"),
    (token() + "==", "malformed"),
    ("x" * 16385, "too_large"),
    (forged({"alg": "none"}, GOOD), "wrong_algorithm"),
    (forged({"alg": "None"}, GOOD), "wrong_algorithm"),
    (forged({}, GOOD), "wrong_algorithm"),
    (forged({"alg": ["HS256"]}, GOOD), "wrong_algorithm"),
    (forged({"alg": "RS256"}, GOOD), "wrong_algorithm"),
    (token(SECRET * 2, "HS512"), "wrong_algorithm"),
    (forged([], GOOD), "malformed"),
    (signed_by_hand({"alg": "HS256", "kid": 7}, GOOD), "malformed"),
    (signed_by_hand({"alg": "HS256", "crit": ["b64"], "b64": False}, GOOD), "malformed"),
    (signed_by_hand({"alg": "HS256", "crit": ["exp"], "exp": 1}, GOOD), "malformed"),
    (forged({"alg": "HS256"}, GOOD), "bad_signature"),
    (token(OTHER_SECRET), "bad_signature"),
    (token()[:-4] + "AAAA", "bad_signature"),
    (signed_by_hand({"alg": "HS256"}, [GOOD]), "malformed"),
    (token(aud="relay"), "wrong_audience"),
    (token(exp=None), "no_exp"),
    (token(exp=NOW - 30), "expired"),
    (token(exp=-1), "expired"),
    (token(exp=NOW + 86431), "too_long_lived"),
    (token(iat=NOW - 61, exp=NOW + 86400), "too_long_lived"),
    (token(exp=2**60), "malformed"),
    (token(exp=10**400), "malformed"),
    (token(exp=float("inf")), "malformed"),
    (token(exp=float("nan")), "malformed"),
    (token(exp=str(EXP)), "malformed"),
    (token(exp=True), "malformed"),
    (token(exp=[EXP]), "malformed"),
    (token(nbf=NOW + 31), "not_yet_valid"),
    (token(nbf="x"), "malformed"),
    (token(iat=NOW + 31), "not_yet_valid"),
    (token(iat=float("nan")), "malformed"),
    (token(sub=None), "no_sub"),
    (token(sub=""), "bad_sub"),
    (token(sub="a" * 129), "bad_sub"),
    (token(sub=7), "bad_sub"),
    (token(sub=["ada"]), "bad_sub"),
    (token(sub="a\nb"), "bad_sub"),
    (token(sub="a\x85b"), "bad_sub"),
    (token(sub="ada\n"), "bad_sub"),
    (token(sub="\ud800"), "bad_sub"),
    (token(sessions={}), "bad_sessions"),
    (token(sessions=7), "bad_sessions"),
    (token(sessions=[7]), "bad_sessions"),
    (token(sessions=["a", None]), "bad_sessions"),
    (token(sessions=[""]), "bad_sessions"),
    (token(sessions=""), "bad_sessions"),
    (token(sessions=["a b"]), "bad_sessions"),
    (token(sessions=["*a"]), "bad_sessions"),
    (token(sessions=["a*b"]), "bad_sessions"),
    (token(sessions=["a**"]), "bad_sessions"),
    (token(sessions=["a*\n"]), "bad_sessions"),
    (token(sessions=[".."]), "bad_sessions"),
    (token(sessions=["a" * 129]), "bad_sessions"),
    (token(sessions=["a" * 129 + "*"]), "bad_sessions"),
    (token(sessions=["a"] * 101), "bad_sessions"),
    (token(scope=7), "bad_scope"),
    (token(scope={"read": True}), "bad_scope"),
    (token(scope=["read", 7]), "bad_scope"),
]


@pytest.mark.parametrize(("given", "why"), REFUSED, ids=[f"{n}-{why}" for n, (_, why) in enumerate(REFUSED)])
async def test_what_is_refused_and_why(given: str, why: str) -> None:
    refused = await refusal(verifier(), given)
    assert (refused.reason, refused.code) == (why, "token_expired" if why == "expired" else "unauthenticated")
    assert not refused.retryable


async def test_a_person_reads_no_reason() -> None:
    said = {(await refusal(verifier(), given)).message for given, _ in REFUSED}
    assert said == {"This token is not accepted.", "This token has expired."}


def test_every_reason_is_explained_and_shown_here() -> None:
    seen = {why for _, why in REFUSED} | {
        "wrong_issuer",
        "unknown_key",
        "revoked",
    }  # below, in test_jwks.py, in test_guard.py
    assert seen == set(EXPLANATIONS)


@pytest.mark.parametrize(
    ("claims", "ahead_s"),
    [
        ({"exp": NOW + 86430}, 0),
        ({"exp": NOW + 0.5}, 0),
        ({"exp": NOW}, 29.5),
        ({"nbf": NOW + 30, "iat": NOW + 30}, 0),
        ({"nbf": NOW - 1e9, "iat": NOW - 80000}, 0),
        ({"sub": "ä" * 128}, 0),
        ({"sub": "u:1|x y"}, 0),
        ({"jti": 7}, 0),
    ],
)
async def test_clocks_may_differ_by_thirty_seconds(claims: dict[str, Any], ahead_s: float) -> None:
    await verifier(clock=Clock(NOW + ahead_s)).verify(token(**claims))


@pytest.mark.parametrize("aud", ["relay", ["x", "relay"]])
async def test_the_audience_is_one_of_those_of_the_token(aud: Any) -> None:
    await verifier(audience="relay").verify(token(aud=aud))


@pytest.mark.parametrize("aud", [None, "", [], "rela", "relay2", ["x"], {"relay": 1}, [["relay"]], 7])
async def test_a_token_for_others_is_refused(aud: Any) -> None:
    assert await reason(verifier(audience="relay"), token(aud=aud)) == "wrong_audience"


async def test_the_issuer_is_who_it_must_be() -> None:
    rules = verifier(issuer="https://id.example.com")
    await rules.verify(token(iss="https://id.example.com"))
    await verifier().verify(token(iss="anybody"))
    for wrong in (
        token(),
        token(iss="https://id.example.com/"),
        signed_by_hand({"alg": "HS256"}, {**GOOD, "iss": [7]}),
    ):
        assert await reason(rules, wrong) == "wrong_issuer"


async def test_the_longest_life_of_a_token_is_a_setting() -> None:
    short = verifier(max_s=60)
    await short.verify(token(exp=NOW + 90))
    assert await reason(short, token(exp=NOW + 91)) == "too_long_lived"


async def test_two_secrets_count_while_one_is_being_replaced() -> None:
    both = verifier(secret_keys(secrets_of(f"{OTHER_SECRET},{SECRET}")))
    assert (await both.verify(token())).sub == (await both.verify(token(OTHER_SECRET))).sub == "ada"
    assert await reason(both, token("a-third-one-that-nobody-has-ever-been-given")) == "bad_signature"


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_public_keys_verify_their_own_algorithm_and_no_other(algorithm: str) -> None:
    keys = public_keys(algorithm)
    key = private_key(algorithm)
    assert (await verifier(keys).verify(token(key, algorithm))).sub == "ada"
    assert await reason(verifier(keys), token(private_key(algorithm, 1), algorithm)) == "bad_signature"
    assert await reason(verifier(keys), forged({"alg": "none"}, GOOD)) == "wrong_algorithm"


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_a_public_key_is_no_secret(algorithm: str) -> None:
    """The oldest trick: what everybody may know, used as an HMAC secret."""
    pem = public_pem(private_key(algorithm))
    for secret in (pem, pem.strip()):
        given = signed_by_hand({"alg": "HS256"}, GOOD, secret)
        assert await reason(verifier(public_keys(algorithm)), given) == "wrong_algorithm"


async def test_a_token_is_not_tried_with_a_key_of_another_algorithm() -> None:
    both = public_keys("RS256", "ES256")
    assert (await verifier(both).verify(token(private_key("ES256"), "ES256"))).sub == "ada"
    claims = token(private_key("ES256"), "ES256").split(".")
    mixed = ".".join([forged({"alg": "RS256"}, 0).split(".")[0], *claims[1:]])
    assert await reason(verifier(both), mixed) == "bad_signature"


@given(st.text(), st.dictionaries(st.text(), st.integers() | st.text() | st.none() | st.lists(st.text())))
async def test_whatever_comes_is_refused_or_let_in_and_nothing_else(text: str, claims: dict[str, Any]) -> None:
    for attempt in (text, f"{text}.{text}.{text}", forged(claims, claims), signed_by_hand({"alg": "HS256"}, claims)):
        with pytest.raises(TokenRefused):
            await verifier().verify(attempt)


# The cache


class Counted(FixedKeys):
    """`asked`: how often a signature was judged. Its version can be moved."""

    def __init__(self) -> None:
        super().__init__([SigningKey("HS256", SECRET.encode())])
        self.asked = 0
        self.version = 0

    async def find(self, algorithm: str, kid: str | None) -> Sequence[SigningKey]:
        self.asked += 1
        return await super().find(algorithm, kid)


async def test_a_token_is_verified_once() -> None:
    keys = Counted()
    verifying = verifier(keys)
    first, second = await verifying.verify(token()), await verifying.verify(token())
    assert (first, keys.asked) == (second, 1)


async def test_a_cached_token_expires_as_others_do() -> None:
    clock = Clock()
    verifying = verifier(clock=clock)
    await verifying.verify(token())
    clock.now = EXP + 29.9
    await verifying.verify(token())
    clock.now = EXP + 30
    for _ in range(2):
        refused = await refusal(verifying, token())
        assert (refused.code, refused.sub) == ("token_expired", "ada")


async def test_what_was_refused_is_not_remembered() -> None:
    keys = Counted()
    clock = Clock()
    verifying = verifier(keys, clock=clock)
    assert await reason(verifying, token(nbf=NOW + 60)) == "not_yet_valid"
    clock.now = NOW + 60
    await verifying.verify(token(nbf=NOW + 60))
    assert keys.asked == 2


async def test_a_cached_token_does_not_outlive_its_key() -> None:
    keys = Counted()
    verifying = verifier(keys)
    await verifying.verify(token())
    keys._by_algorithm = {"HS256": [SigningKey("HS256", OTHER_SECRET.encode())]}
    keys.version += 1
    assert await reason(verifying, token()) == "bad_signature"


async def test_keys_that_change_while_a_token_is_verified_leave_nothing_stale_behind() -> None:
    class Moving(Counted):
        async def find(self, algorithm: str, kid: str | None) -> Sequence[SigningKey]:
            self.version += 1
            return await super().find(algorithm, kid)

    keys = Moving()
    verifying = verifier(keys)
    await verifying.verify(token())
    await verifying.verify(token())
    assert keys.asked == 1, "it is remembered under the version of the keys that it was verified with"


async def test_the_cache_is_bounded_and_forgets_the_longest_unused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MAX_CACHED", 2)
    keys = Counted()
    verifying = verifier(keys)
    for sub in ("a", "b", "a", "c", "a"):
        await verifying.verify(token(sub=sub))
    assert (keys.asked, len(verifying._cache)) == (3, 2)
    await verifying.verify(token(sub="b"))
    assert keys.asked == 4


# What is said of it


async def test_a_refusal_is_counted_and_logged_without_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("relay.auth.refusals._log._seldom._told", {})
    counter = metrics.auth_refusals.labels("token", "bad_sessions")
    before = counter._value.get()
    given = token(sub="ada\u202e" + "x" * 99, sessions=["a b"], email="ada@example.com")
    with structlog.testing.capture_logs() as lines:
        await refusal(verifier(), given)
        await refusal(verifier(), given)
    warnings = [line for line in lines if line["log_level"] == "warning"]
    assert warnings == [
        {
            "part": "auth", "event": "token_refused", "log_level": "warning", "kind": "token",
            "reason": "bad_sessions", "sub": "ada\\u202e" + "x" * 28 + "...",
        }
    ]  # fmt: skip
    assert counter._value.get() == before + 2
    said = json.dumps(lines)
    assert not any(part in said for part in (*given.split("."), "example.com", "a b"))


async def test_nothing_is_said_of_whom_no_key_vouches_for() -> None:
    refused = await refusal(verifier(), token(OTHER_SECRET, sub="mallory"))
    assert refused.sub == ""


async def test_claims_are_shown_to_who_has_the_token_in_hand() -> None:
    claims = await verifier().claims(token(scope="read", email="ada@example.com"))
    assert (claims["sub"], claims["email"]) == ("ada", "ada@example.com")
    with pytest.raises(TokenRefused):
        await verifier().claims(token(sub=None))
