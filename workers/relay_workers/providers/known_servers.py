"""What is known of the servers and models that people use: a table for each API, and nothing else. Pure.

A row is here only where a server refuses what all others take, and says where that is known from. Whatever is not here
is found out by asking: see request_adapter.py. All rows that fit count.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal, NamedTuple

from relay_workers.providers.request import Parameter

Limit = Literal["max_tokens", "max_completion_tokens"]


class _Row(NamedTuple):
    """Fits if both patterns are found, `hosts` in the host and `models` in the model's name.

    `but`: a pattern of models that the row is not about.
    """

    hosts: str = ""
    models: str = ""
    refuses: tuple[Parameter, ...] = ()
    limit: Limit | None = None
    but: str | None = None


class Known(NamedTuple):
    """`refuses`: not sent, or (roles, system) put differently. `limit`: the name under which a limit is sent."""

    refuses: frozenset[Parameter]
    limit: Limit


_OPENAI = r"(^|\.)openai\.(com|azure\.com|azure\.us|azure\.cn)\.?$"
# One resource of Azure AI Foundry serves OpenAI's models and others by the same hosts.
_FOUNDRY = r"\.(services\.ai|cognitiveservices|inference\.ai|models\.ai|inference\.ml)\.azure\.com$"
_REASONING = r"(^|[/.:])(o[1-9](-|$)|gpt-([5-9]|\d\d))"  # OpenAI's, also as gateways name them: openai/gpt-5
_MISTRAL = r"mistral|ministral|codestral|devstral|magistral|mixtral|pixtral"

_CHAT = (
    # "max_tokens … is now deprecated … and is not compatible with o-series models": openai 3.57,
    # types/chat/completion_create_params.py
    _Row(hosts=_OPENAI, limit="max_completion_tokens"),
    # Behind a gateway the model's name decides: https://github.com/langgenius/dify/issues/9746,
    # https://github.com/lfnovo/open-notebook/issues/111
    _Row(models=_REASONING, limit="max_completion_tokens"),
    _Row(hosts=_FOUNDRY, models=r"^gpt-\d|^chatgpt-", limit="max_completion_tokens"),
    # Only the default temperature: https://github.com/tmc/langchaingo/issues/1355. Later models take another, if their
    # effort allows it: https://github.com/HKUDS/nanobot/issues/370
    _Row(models=r"(^|[/.:])(o[1-9](-|$)|gpt-5(?!\.))", but=r"-chat", refuses=("temperature", "top_p")),
    # "Not supported with latest reasoning models o3 and o4-mini": the same file of openai
    _Row(models=r"(^|[/.:])o[34](-|$)", refuses=("stop",)),
    # https://github.com/BerriAI/litellm/issues/40470
    _Row(hosts=_OPENAI, models=r"^(gpt-[34]|chatgpt-)", refuses=("reasoning_effort",)),
    # 422 for whatever it does not know: https://github.com/mistralai/platform-docs-public/issues/7,
    # https://github.com/editor-code-assistant/eca/issues/231. Its usage comes unasked; its seed is `random_seed`.
    _Row(hosts=r"(^|\.)mistral\.ai$", refuses=("stream_options", "seed", "roles")),
    # https://github.com/BerriAI/litellm/issues/11696, https://github.com/pydantic/pydantic-ai/issues/6593
    _Row(hosts=_FOUNDRY, models=rf"(?i){_MISTRAL}", refuses=("stream_options",)),
    # "Argument not supported on this model: stop": https://github.com/BerriAI/litellm/issues/12635,
    # https://github.com/langchain-ai/langchain/pull/38335
    _Row(hosts=r"(^|\.)x\.ai$", models=r"grok-[34]", but=r"non-reasoning", refuses=("stop",)),
    # https://github.com/perplexityai/api-discussion/issues/265
    _Row(hosts=r"(^|\.)perplexity\.ai$", refuses=("roles",)),
    # https://github.com/Aider-AI/aider/issues/2974
    _Row(models=r"(?i)deepseek-(reasoner|r1)", refuses=("roles",)),
    # Chat templates that raise "roles must alternate", by vLLM, llama.cpp and TGI:
    # https://github.com/vllm-project/vllm/issues/6862, https://github.com/suitenumerique/conversations/issues/197
    _Row(models=rf"(?i){_MISTRAL}|gemma|llama-?2", refuses=("roles",)),
)

_RESPONSES = (
    # Others refuse the whole question. https://developers.openai.com/api/docs/guides/reasoning
    _Row(but=r"(^|[/.:])(o[1-9](-|$)|gpt-([5-9]|\d\d))(?!.*-chat)", refuses=("reasoning.summary", "reasoning.effort")),
    # As in chat completions; https://github.com/OpenHands/software-agent-sdk/issues/1837
    _Row(models=r"(^|[/.:])(o[1-9](-|$)|gpt-5(?!\.))", but=r"-chat", refuses=("temperature", "top_p")),
)

_CLAUDE_5 = r"claude-[a-z]+-([5-9]|\d\d)(?!\d)"

_MESSAGES = (
    # Claude 5 and later think anyway, but show it only on request; earlier models would start to think, or fail, and
    # models of others fail or fall silent. https://platform.claude.com/docs/en/build-with-claude/thinking,
    # https://github.com/anthropics/claude-code/issues/68551
    _Row(but=_CLAUDE_5, refuses=("thinking",)),
    # https://platform.claude.com/docs/en/build-with-claude/effort, https://github.com/elizaOS/eliza/pull/16175 (tried)
    _Row(but=rf"{_CLAUDE_5}|claude-opus-4[-.][5-9](?!\d)|claude-sonnet-4[-.][6-9](?!\d)", refuses=("output_config",)),
    # "`temperature` is deprecated for this model": https://github.com/rocketride-org/rocketride-server/issues/1194,
    # https://github.com/github/app/issues/2574
    _Row(models=rf"{_CLAUDE_5}|claude-opus-4[-.][7-9](?!\d)", refuses=("temperature", "top_p")),
)

_TABLES: dict[str, tuple[_Row, ...]] = {"chat": _CHAT, "responses": _RESPONSES, "messages": _MESSAGES}


@lru_cache(maxsize=256)
def known(api: Literal["chat", "responses", "messages"], host: str, model: str) -> Known:
    """What is known of this model on this host."""
    rows = [row for row in _TABLES[api] if _fits(row, host, model)]
    limit: Limit = next((row.limit for row in rows if row.limit is not None), "max_tokens")
    return Known(frozenset(parameter for row in rows for parameter in row.refuses), limit)


def is_openai_or_azure(host: str) -> bool:
    """Whether OpenAI's own rules hold there, also where Azure serves its models, or its API management is in front."""
    return any(re.search(hosts, host) for hosts in (_OPENAI, _FOUNDRY, r"\.azure-api\.(net|us)\.?$"))


def _fits(row: _Row, host: str, model: str) -> bool:
    if row.but is not None and re.search(row.but, model):
        return False
    return bool(re.search(row.hosts, host) and re.search(row.models, model))
