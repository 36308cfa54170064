"""What an error complains about, in the shapes that servers have (refusals.py), and what is no complaint."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay_workers.providers.refused_parameters import complaint
from relay_workers.providers.request import Parameter
from tests.workers.providers.refusals import (
    CHAT,
    LASTING,
    MESSAGES,
    NOT_SUPPORTED,
    USE_NEW,
    anthropic,
    openai,
    pydantic,
)


@pytest.mark.parametrize(
    ("status", "body", "optional", "parameter"),
    [pytest.param(*row[1:], id=f"{row[0]}, {row[4]}") for row in LASTING],
)
def test_what_a_server_does_not_know_is_named(
    status: int, body: Any, optional: frozenset[Parameter], parameter: Parameter
) -> None:
    assert complaint(status, body, optional) == (parameter, True)


@pytest.mark.parametrize(
    ("body", "optional", "parameter"),
    [
        (anthropic("temperature: range: -1..1"), MESSAGES, "temperature"),
        (
            pydantic("temperature", kind="less_than_equal", msg="Input should be less than or equal to 1"),
            CHAT,
            "temperature",
        ),
        # earendil-works/pi#1745: Groq
        (openai("`reasoning_effort` must be one of `none` or `default`"), CHAT, "reasoning_effort"),
        (
            openai(
                "Unsupported value: 'low' is not supported with the model. Supported values are: 'high'.",
                "reasoning_effort",
            ),
            CHAT,
            "reasoning_effort",
        ),
        (openai("Too many stop sequences: at most 2", "stop"), CHAT, "stop"),
    ],
)
def test_a_value_that_does_not_fit_says_nothing_about_others(
    body: Any, optional: frozenset[Parameter], parameter: Parameter
) -> None:
    assert complaint(400, body, optional) == (parameter, False)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (
            400,
            openai(
                "max_tokens is too large: 100000. This model supports at most 16384 completion tokens", "max_tokens"
            ),
        ),
        (400, openai("'max_tokens' is not allowed to exceed 4096")),
        (400, openai("This model's maximum context length is 8192 tokens. However, you requested 9000 tokens")),
        (400, openai("Invalid value: 'max_tokens' must be greater than 0", "max_tokens")),
        (422, pydantic("max_tokens", kind="int_type", msg="Input should be a valid integer")),
        (422, pydantic("messages", 0, "user", "name")),  # Gage-Technologies/mistral-go#2
        (422, pydantic("messages", 0, "content", kind="missing", msg="Field required")),  # its input is the request
        (400, openai("The model `temperature` does not exist")),
        (400, openai("The response was filtered", "prompt", "content_filter")),
        (400, openai(NOT_SUPPORTED.format("logprobs"), "logprobs")),
        (401, openai(NOT_SUPPORTED.format("temperature"), "temperature")),
        (404, openai("Unknown model; roles must alternate")),
        (429, openai(USE_NEW, "max_tokens")),
        (500, openai(NOT_SUPPORTED.format("temperature"), "temperature")),
        (None, openai(NOT_SUPPORTED.format("temperature"), "temperature")),
        (400, None),
        (400, ""),
        (400, 7),
        (400, [[[]]]),
        (400, {"error": None}),
        (400, b"\xff"),
        (400, "<html>Bad Request</html>"),
    ],
)
def test_anything_else_is_the_questions_own_error(status: int | None, body: Any) -> None:
    assert complaint(status, body, CHAT) is None


def test_only_what_was_sent_can_be_complained_about() -> None:
    for _, status, body, optional, parameter in LASTING:
        found = complaint(status, body, optional - {parameter})
        assert found is None or found.parameter in optional - {parameter}
        assert complaint(status, body, frozenset()) is None


_JSON = st.recursive(
    st.none() | st.integers() | st.text() | st.sampled_from(["temperature", "is not supported", "body"]),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["error", "message", "loc", "param", "detail"]), inner)
    ),
)


@given(_JSON)
def test_no_body_is_an_error_of_ours(body: Any) -> None:
    found = complaint(400, body, CHAT)
    assert found is None or found.parameter in CHAT


def test_a_body_that_nests_deep_or_is_long_costs_little() -> None:
    deep: Any = "temperature is not supported"
    for _ in range(100_000):
        deep = {"error": deep}
    assert complaint(400, deep, CHAT) is None
    wide = {"detail": [{"error": "x" * 100_000, "loc": ["a"] * 100_000}] * 10_000}
    assert complaint(400, wide, CHAT) is None
