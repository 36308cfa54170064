"""What befalls a provider's call, as scripts of the fake, and what has to come of it: the table, as data.

Moments: `before` the first token, in the `middle`, at the `last` (in place of the finish mark), `behind` that mark. An
agent answers whole, so it has one. A status can only come first; later its place is taken by an error in the stream
that means the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from tests.fakes.script import Api, Body, Script, prompt_of

TOKENS = [f"w{number} 🙂 " for number in range(12)]
TEXT = "".join(TOKENS)

Moment = Literal["before", "middle", "last", "behind", "agent"]
STREAMED: tuple[Moment, ...] = ("before", "middle", "last", "behind")
PLACES: dict[Moment, int] = {"before": 0, "middle": 5, "last": len(TOKENS), "behind": len(TOKENS) + 1, "agent": 5}

Make = Callable[[Api, Moment, list[str]], Script]


class Cell(NamedTuple):
    """What comes of it with one provider alone: code "" is `complete`. What was shown stays shown."""

    code: str
    retryable: bool
    calls: int


@dataclass(frozen=True)
class Fault:
    """One row; None: there is nothing of the kind at that moment. `worker`: which one is to meet it."""

    name: str
    make: Make
    before: Cell | None
    middle: Cell | None
    last: Cell | None
    behind: Cell | None
    agent: Cell | None
    worker: Literal["steady", "impatient", "lost"] = "steady"
    silent: bool = False  # held, and never let go on
    wishes: bool = False  # opens the breaker whatever its setting, so it is the last that its worker meets


def status(number: int, named: dict[str, Any] | None = None, **headers: str) -> Make:
    """`named`: what the error is called in a body or a stream, by API."""
    error = named or {"openai": {"code": number}, "anthropic": {"type": _NAMES.get(number, "api_error")}}

    def make(api: Api, moment: Moment, tokens: list[str]) -> Script:
        said = {"message": "as scripted", **error.get(api, {})}
        if moment in ("before", "agent"):
            retry_after = {name.replace("_", "-"): value for name, value in headers.items()}
            body = _body(api, said) if named else None
            return Script(status=number, status_headers=retry_after, status_body=body)
        place = PLACES[moment]
        return Script(tokens=tokens, hold_before=place, error_after=place, error=said)

    return make


def _body(api: Api, error: dict[str, Any]) -> str:
    return json.dumps({"type": "error", "error": error} if api == "anthropic" else {"error": error})


def broken(field: str) -> Make:
    """By a fault of the fake's own. Held until what comes before it is seen: a reset takes what was not read yet."""

    def make(api: Api, moment: Moment, tokens: list[str]) -> Script:
        fields: dict[str, Any] = {field: PLACES[moment]}
        if moment not in ("before", "agent"):
            fields["hold_before"] = PLACES[moment]
        return Script(tokens=tokens, **fields)

    return make


def whole(api: Api, moment: Moment, tokens: list[str]) -> Script:
    return Script(tokens=tokens)


_NAMES = {
    429: "rate_limit_error", 529: "overloaded_error", 401: "authentication_error", 403: "permission_error",
    400: "invalid_request_error",
}  # fmt: skip
_FILTER: dict[str, Any] = {
    "openai": {"code": "content_filter"}, "anthropic": {"type": "content_filter"}, "agent": {"code": "content_filter"},
}  # fmt: skip

WHOLE = Cell("", False, 1)
BAD, BAD_3 = Cell("provider_error", True, 1), Cell("provider_error", True, 3)
OURS = Cell("provider_error", False, 1)
FULL, FULL_3 = Cell("provider_rate_limited", True, 1), Cell("provider_rate_limited", True, 3)
REFUSED = Cell("provider_refused", False, 1)
CUT, CUT_3 = Cell("truncated", True, 1), Cell("truncated", True, 3)
LATE, LATE_3 = Cell("provider_timeout", True, 1), Cell("provider_timeout", True, 3)

# What fails before the first token and may succeed is asked twice more; not so once the first token's deadline is over.
# What is missing behind the mark is the usage, which has a deadline of its own, whatever that of a token.
FAULTS = [
    #                                                           before   middle   last     behind  agent
    Fault("429", status(429),                                   FULL_3,  FULL,    FULL,    WHOLE,  FULL_3),
    Fault("429 for a moment", status(429, retry_after="0.05"),  FULL_3,  None,    None,    None,   FULL_3, wishes=True),
    Fault("429 for a minute", status(429, retry_after="60"),    FULL,    None,    None,    None,   FULL,
          worker="impatient", wishes=True),
    Fault("500", status(500),                                   BAD_3,   BAD,     BAD,     WHOLE,  BAD_3),
    Fault("502", status(502),                                   BAD_3,   BAD,     BAD,     WHOLE,  BAD_3),
    Fault("503", status(503),                                   BAD_3,   BAD,     BAD,     WHOLE,  BAD_3),
    Fault("529", status(529),                                   BAD_3,   BAD,     BAD,     WHOLE,  BAD_3),
    Fault("401", status(401),                                   OURS,    OURS,    OURS,    WHOLE,  OURS),
    Fault("403", status(403),                                   OURS,    OURS,    OURS,    WHOLE,  OURS),
    Fault("400", status(400),                                   OURS,    OURS,    OURS,    WHOLE,  OURS),
    Fault("refused", status(400, _FILTER),                      REFUSED, REFUSED, REFUSED, WHOLE,  REFUSED),
    Fault("refused as 403", status(403, _FILTER),               REFUSED, None,    None,    None,   REFUSED),
    Fault("clean close", broken("close_after"),                 CUT_3,   CUT,     CUT,     WHOLE,  BAD_3),
    Fault("cut body", broken("cut_after"),                      CUT_3,   CUT,     CUT,     WHOLE,  CUT_3),
    Fault("reset", broken("reset_after"),                       CUT_3,   CUT,     CUT,     WHOLE,  CUT_3),
    Fault("error event", broken("error_after"),                 BAD_3,   BAD,     BAD,     WHOLE,  BAD_3),
    Fault("garbage", broken("garbage_after"),                   BAD_3,   BAD,     BAD,     WHOLE,  BAD_3),
    Fault("silence", broken("hold_before"),                     LATE,    LATE,    LATE,    WHOLE,  LATE,
          worker="impatient", silent=True),
    Fault("nobody there", whole,                                LATE_3,  None,    None,    None,   LATE_3, "lost"),
]  # fmt: skip


class Course(NamedTuple):
    """With another provider left: who is asked in turn, first or second, and which attempt the answer is of."""

    asked: str
    attempt: int


HERE, GOES_ON, RESTARTS = Course("1", 1), Course("12", 1), Course("12", 2)

# Whatever the fault, the next one is asked: at once, or in a new attempt. But no laxer judge is looked for.
COURSES: dict[str, dict[Moment, Course]] = {
    fault.name: {
        "before": HERE if "refused" in fault.name else GOES_ON,
        "middle": HERE if "refused" in fault.name else RESTARTS,
        "last": HERE if "refused" in fault.name else RESTARTS,
        "behind": HERE,
        "agent": HERE if "refused" in fault.name else GOES_ON,
    }
    for fault in FAULTS
}


class Questions:
    """What each API says to each question, for `FakeProvider.script`."""

    def __init__(self) -> None:
        self._scripts: dict[tuple[str, Api], Script] = {}

    def __call__(self, body: Body) -> Script:
        return self._scripts[prompt_of(body), _asked(body)]

    def add(self, question: str, api: Api, script: Script) -> None:
        self._scripts[question, api] = script


def _asked(body: Body) -> Api:
    if "session" in body:
        return "agent"
    return "openai" if "stream_options" in body else "anthropic"
