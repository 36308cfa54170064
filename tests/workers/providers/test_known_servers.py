"""What is known of hosts and models, as people name them; each row of the table has its source beside it."""

from __future__ import annotations

from typing import Literal

import pytest

from relay_workers.providers.known_servers import known

NEW, OLD = "max_completion_tokens", "max_tokens"
OPENAI, AZURE = "api.openai.com", "us1.openai.azure.com"
FOUNDRY = "x.services.ai.azure.com"


@pytest.mark.parametrize(
    ("host", "model", "limit", "refused"),
    [
        (OPENAI, "gpt-5-mini", NEW, "temperature top_p"),
        (OPENAI, "gpt-5-2025-08-07", NEW, "temperature top_p"),
        (OPENAI, "gpt-5.1", NEW, ""),
        (OPENAI, "gpt-5-chat-latest", NEW, ""),
        (OPENAI, "o3-mini", NEW, "stop temperature top_p"),
        (OPENAI, "o4-mini", NEW, "stop temperature top_p"),
        (OPENAI, "o1", NEW, "temperature top_p"),
        (OPENAI, "gpt-4o-mini", NEW, "reasoning_effort"),
        (OPENAI, "gpt-4.1", NEW, "reasoning_effort"),
        (OPENAI, "chatgpt-4o-latest", NEW, "reasoning_effort"),
        ("eu.api.openai.com", "gpt-6", NEW, ""),
        (AZURE, "my-deployment", NEW, ""),
        (AZURE, "gpt-5", NEW, "temperature top_p"),
        (FOUNDRY, "gpt-4.1-nano", NEW, ""),
        (FOUNDRY, "gpt-5", NEW, "temperature top_p"),
        (FOUNDRY, "Mistral-Large-3", OLD, "roles stream_options"),
        (FOUNDRY, "Ministral-3B", OLD, "roles stream_options"),
        (FOUNDRY, "Llama-3.3-70B-Instruct", OLD, ""),
        ("x.cognitiveservices.azure.com", "mistral-small-2503", OLD, "roles stream_options"),
        ("x.cognitiveservices.azure.com", "gpt-4o", NEW, ""),
        ("x.eastus2.models.ai.azure.com", "Codestral-2501", OLD, "roles stream_options"),
        ("x.eastus2.inference.ai.azure.com", "DeepSeek-R1", OLD, "roles"),
        ("api.mistral.ai", "magistral-medium-latest", OLD, "roles seed stream_options"),
        ("api.mistral.ai", "open-weights", OLD, "roles seed stream_options"),
        ("api.groq.com", "llama-3.3-70b-versatile", OLD, ""),
        ("api.groq.com", "openai/gpt-oss-120b", OLD, ""),
        ("api.deepseek.com", "deepseek-chat", OLD, ""),
        ("api.deepseek.com", "deepseek-reasoner", OLD, "roles"),
        ("api.x.ai", "grok-4-0709", OLD, "stop"),
        ("api.x.ai", "grok-4-fast-non-reasoning", OLD, ""),
        ("api.perplexity.ai", "sonar-pro", OLD, "roles"),
        ("api.together.xyz", "meta-llama/Llama-3.3-70B-Instruct-Turbo", OLD, ""),
        ("api.fireworks.ai", "accounts/fireworks/models/qwen3-235b", OLD, ""),
        ("generativelanguage.googleapis.com", "gemini-2.5-pro", OLD, ""),
        ("openrouter.ai", "anthropic/claude-sonnet-4.5", OLD, ""),
        ("openrouter.ai", "openai/gpt-5-mini", NEW, "temperature top_p"),
        ("api.cohere.ai", "command-a-03-2025", OLD, ""),
        ("127.0.0.1", "gpt-5-mini", NEW, "temperature top_p"),  # a gateway in front of OpenAI
        ("litellm.example", "azure/o4-mini", NEW, "stop temperature top_p"),
        ("litellm.example", "gpt-4o", OLD, ""),
        ("localhost", "google/gemma-3-12b-it", OLD, "roles"),
        ("localhost", "mistralai/Mixtral-8x7B-Instruct-v0.1", OLD, "roles"),
        ("localhost", "pixtral-12b", OLD, "roles"),
        ("localhost", "llama3.2", OLD, ""),
        ("localhost", "Llama-2-7b-chat-hf", OLD, "roles"),
        ("localhost", "qwen3:8b", OLD, ""),
        ("localhost", "", OLD, ""),
        ("notopenai.com", "x", OLD, ""),
        ("openai.com.evil.example", "x", OLD, ""),
        ("netflix.ai", "grok-4", OLD, ""),
    ],
)
def test_chat_completions(host: str, model: str, limit: str, refused: str) -> None:
    found = known("chat", host, model)
    assert (found.limit, sorted(found.refuses)) == (limit, refused.split())


@pytest.mark.parametrize(
    ("model", "refused"),
    [
        ("gpt-5-mini", "temperature top_p"),
        ("o3", "temperature top_p"),
        ("gpt-5.2", ""),
        ("gpt-5-chat-latest", "reasoning.effort reasoning.summary"),
        ("gpt-4.1", "reasoning.effort reasoning.summary"),
        ("test-model", "reasoning.effort reasoning.summary"),
    ],
)
def test_background_responses(model: str, refused: str) -> None:
    assert sorted(known("responses", OPENAI, model).refuses) == refused.split()


@pytest.mark.parametrize(
    ("model", "refused"),
    [
        ("claude-sonnet-5-5", "temperature top_p"),
        ("claude-opus-5", "temperature top_p"),
        ("claude-opus-4-8", "temperature thinking top_p"),
        ("claude-opus-4-7-20260416", "temperature thinking top_p"),
        ("claude-opus-4-6", "thinking"),
        ("claude-opus-4-5-20251101", "thinking"),
        ("claude-sonnet-4-6", "thinking"),
        ("claude-opus-4.6", "thinking"),
        ("us.anthropic.claude-opus-4-5-20251101-v1:0", "thinking"),
        ("claude-opus-4-20250514", "output_config thinking"),
        ("claude-opus-4-1-20250805", "output_config thinking"),
        ("claude-sonnet-4-5-20250929", "output_config thinking"),
        ("claude-haiku-4-5", "output_config thinking"),
        ("claude-3-7-sonnet-20250219", "output_config thinking"),
        ("claude-local", "output_config thinking"),  # an alias that may be anything
        ("glm-5", "output_config thinking"),
    ],
)
def test_messages(model: str, refused: str) -> None:
    assert sorted(known("messages", "api.anthropic.com", model).refuses) == refused.split()


@pytest.mark.parametrize("api", ["chat", "responses", "messages"])
def test_any_name_is_answered(api: Literal["chat", "responses", "messages"]) -> None:
    for model in ("\n", "x" * 256, "👩‍👩‍👧", "(", "\\"):
        assert known(api, "", model).limit == OLD
