"""What a failure is for each SDK alike: its class, whether to ask again, whether to ask there again, and when."""

from __future__ import annotations

import os
import time
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx2
import pytest

from relay_workers.providers.anthropic import AnthropicProvider
from relay_workers.providers.base import Prompt, Provider, ProviderError, ProviderErrorCode, Turn
from relay_workers.providers.failures import ErrorClassifier, classify_body, find_error, retry_after
from relay_workers.providers.openai import OpenAIProvider
from tests.fakes.provider import FakeProvider, Script

both_sdks = pytest.mark.parametrize("sdk", ["openai", "anthropic"])


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    prefixes = ("OPENAI_", "ANTHROPIC_")
    for name in [name for name in os.environ if name.startswith(prefixes) or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ANTHROPIC_CONFIG_DIR", str(tmp_path))


async def failure_of(sdk: str, script: Script) -> ProviderError:
    async with FakeProvider(script) as fake:
        provider: Provider = (
            OpenAIProvider("k", fake.openai_base_url, "m", connect_timeout_s=5)
            if sdk == "openai"
            else AnthropicProvider("k", fake.anthropic_base_url, "m", connect_timeout_s=5)
        )
        try:
            with pytest.raises(ProviderError) as caught:
                [part async for part in provider.stream(Prompt([Turn("user", "?")]))]
        finally:
            await provider.aclose()
    return caught.value


@both_sdks
@pytest.mark.parametrize(
    ("status", "code", "retryable", "sick"),
    [
        *((status, "provider_error", True, True) for status in (408, 409, 500, 502, 503, 504, 529)),
        *((status, "provider_error", False, True) for status in (401, 402, 403)),  # the key, whatever is asked
        *((status, "provider_error", False, False) for status in (400, 404, 413, 422)),  # what was asked
        (429, "provider_rate_limited", True, True),
    ],
)
async def test_a_status_has_one_class(
    sdk: str, status: int, code: ProviderErrorCode, retryable: bool, sick: bool
) -> None:
    error = await failure_of(sdk, Script(status=status))
    assert (error.code, error.retryable, error.status, error.is_sick) == (code, retryable, status, sick)
    assert error.retry_after_s is None


@both_sdks
@pytest.mark.parametrize(
    ("status", "waits"), [(429, True), (500, True), (503, True), (529, True), (400, False), (401, False), (404, False)]
)
async def test_whoever_may_be_asked_again_says_when(sdk: str, status: int, waits: bool) -> None:
    error = await failure_of(sdk, Script(status=status, status_headers={"retry-after": "7"}))
    assert error.retry_after_s == (7 if waits else None)


@both_sdks
@pytest.mark.parametrize(
    ("error", "code", "retryable", "sick"),
    [
        ({"type": "overloaded_error"}, "provider_error", True, True),
        ({"type": "api_error"}, "provider_error", True, True),
        ({"type": "rate_limit_error"}, "provider_rate_limited", True, True),
        ({"type": "authentication_error"}, "provider_error", False, True),
        ({"type": "billing_error"}, "provider_error", False, True),
        ({"type": "permission_error"}, "provider_error", False, True),
        ({"type": "invalid_request_error"}, "provider_error", False, False),
        ({"type": "content_filter"}, "provider_refused", False, False),
    ],
)
async def test_an_error_inside_the_stream_is_classed_by_its_names(
    sdk: str, error: dict[str, Any], code: ProviderErrorCode, retryable: bool, sick: bool
) -> None:
    failure = await failure_of(sdk, Script(tokens=["x"], error_after=1, error={"message": "", **error}))
    assert (failure.code, failure.retryable, failure.is_sick) == (code, retryable, sick)


async def test_a_status_that_a_compatible_server_puts_into_a_code_counts() -> None:
    said = [("503", 503, True), (401, 401, True), (404, 404, False), ("1234", None, True), (200, None, True)]
    for code, status, sick in said:
        error = {"message": "", "code": code}
        failure = await failure_of("openai", Script(tokens=["x"], error_after=1, error=error))
        assert (failure.status, failure.is_sick) == (status, sick)


@both_sdks
@pytest.mark.parametrize("status", [400, 403])
async def test_a_refusal_says_nothing_about_the_next_question(sdk: str, status: int) -> None:
    # Azure and LiteLLM word it in `code`, which the anthropic SDK does not read: its refusals are finish reasons.
    kind = "code" if sdk == "openai" else "type"
    body = '{"error": {"message": "no", "%s": "content_filter"}}' % kind  # noqa: UP031
    error = await failure_of(sdk, Script(status=status, status_body=body))
    assert (error.code, error.retryable, error.status, error.is_sick) == ("provider_refused", False, status, False)


@both_sdks
@pytest.mark.parametrize("fault", ["close_after", "cut_after", "reset_after"])
async def test_a_cut_stream_is_truncated(sdk: str, fault: str) -> None:
    error = await failure_of(sdk, Script(tokens=["x", "y"], **{fault: 1}))  # type: ignore[arg-type]
    assert (error.code, error.retryable, error.status, error.is_sick) == ("truncated", True, None, True)


@pytest.mark.parametrize(
    ("error", "code", "retryable", "sick"),
    [
        (httpx2.UnsupportedProtocol("ftp"), "provider_error", False, True),  # its address is wrong, whatever is asked
        (httpx2.TooManyRedirects("many"), "provider_error", False, True),
        (httpx2.ConnectError("refused"), "provider_timeout", True, True),
        (httpx2.ReadTimeout("slow"), "provider_timeout", True, True),
        (TimeoutError(), "provider_timeout", True, True),
    ],
)
def test_without_an_sdk_the_http_clients_errors_are_classed_alike(
    error: Exception, code: ProviderErrorCode, retryable: bool, sick: bool
) -> None:
    failure = ErrorClassifier().classify(error)
    assert (failure.code, failure.retryable, failure.is_sick) == (code, retryable, sick)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": " 0 "}, 0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "7200"}, 3600),
        ({"retry-after": "9" * 400}, 3600),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "7"}, 7),
        ({"retry-after-ms": "99999999"}, 3600),
        ({"retry-after": formatdate(time.time() + 86400, usegmt=True)}, 3600),
        ({"retry-after": formatdate(time.time() - 60, usegmt=True)}, None),
        *(
            ({"retry-after": odd}, None)
            for odd in ("-1", "nan", "inf", "1e3", "٣", "soon", "", "0x10", "Mon, 99 Foo 2026", "Mon, 1 Jan 99999 0:0")
        ),
        ({"retry-after": "Mon, 01 Jan 0001 00:00:00 +2359"}, None),
    ],
)
def test_a_wait_is_read_in_every_form_and_bounded(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


def test_a_date_to_wait_for_is_as_far_as_it_is_away() -> None:
    waiting = retry_after({"retry-after": formatdate(time.time() + 60, usegmt=True)})
    assert waiting is not None
    assert 50 < waiting <= 60


@pytest.mark.parametrize(
    ("body", "code", "status"),
    [
        # https://developers.openai.com/api/docs/guides/error-codes, and the codes of its policies
        ({"error": {"code": "bio_policy"}}, "provider_refused", None),
        ({"error": {"code": "misalignment_policy_violation"}}, "provider_refused", None),
        ({"error": {"code": "image_content_policy_violation"}}, "provider_refused", None),
        # https://platform.minimax.io/docs/api-reference/errorcode
        ({"base_resp": {"status_code": 1026, "status_msg": "x"}}, "provider_refused", None),
        ({"base_resp": {"status_code": 1027, "status_msg": "x"}}, "provider_refused", None),
        ({"base_resp": {"status_code": 2049, "status_msg": "x"}}, "provider_error", 401),
        ({"base_resp": {"status_code": 1039, "status_msg": "x"}}, "provider_rate_limited", 429),
        # Qianfan: https://cloud.baidu.com/doc/WENXINWORKSHOP/s/tlmyncueh
        ({"error_code": 429, "error_msg": "x"}, "provider_rate_limited", 429),
        ({"error_msg": "x"}, "provider_error", None),
        # https://docs.aws.amazon.com/apigateway/latest/developerguide/supported-gateway-response-types.html
        ({"message": "x", "http_status": 503}, "provider_error", 503),
        ({"message": "x", "errorCode": "rate_limit_exceeded"}, "provider_rate_limited", None),
    ],
)
def test_an_error_in_json_is_classed_by_the_names_in_it(
    body: dict[str, Any], code: ProviderErrorCode, status: int | None
) -> None:
    found = find_error(body)
    assert found is not None
    failure = classify_body("error event", found)
    assert (failure.code, failure.status) == (code, status)
    assert " x" not in str(failure)
