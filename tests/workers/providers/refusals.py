"""Refusals of a part of a request as servers have sent them, each with the report that it comes from.

In the form in which the SDKs hand them on: OpenAI's without the outer `error`, Anthropic's whole.
"""

from __future__ import annotations

import json
from typing import Any

from relay_workers.providers.request import Parameter

CHAT: frozenset[Parameter] = frozenset(
    {"max_tokens", "stream_options", "temperature", "top_p", "stop", "seed", "reasoning_effort", "roles", "system"}
)
NEW_CHAT: frozenset[Parameter] = CHAT - {"max_tokens"} | frozenset({"max_completion_tokens"})
RESPONSES: frozenset[Parameter] = frozenset({"reasoning.summary", "reasoning.effort", "temperature", "top_p"})
MESSAGES: frozenset[Parameter] = frozenset({"thinking", "output_config", "temperature", "top_p", "stop_sequences"})


def openai(message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    return {"message": message, "type": "invalid_request_error", "param": param, "code": code}


def anthropic(message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": "invalid_request_error", "message": message}, "request_id": "req_1"}


def pydantic(*loc: str | int, kind: str = "extra_forbidden", msg: str = "Extra inputs are not permitted") -> Any:
    return {"detail": [{"type": kind, "loc": ["body", *loc], "msg": msg, "input": {"temperature": 0.2, "seed": 1}}]}


NOT_SUPPORTED = "Unsupported parameter: '{}' is not supported with this model."
USE_NEW = f"{NOT_SUPPORTED.format('max_tokens')} Use 'max_completion_tokens' instead."

LASTING: list[tuple[str, int, Any, frozenset[Parameter], Parameter]] = [
    # OpenAI and Azure
    (
        "owndev/Open-WebUI-Functions#136",
        400,
        openai(USE_NEW, "max_tokens", "unsupported_parameter"),
        CHAT,
        "max_tokens",
    ),
    ("langgenius/dify#9746, without param", 400, openai(USE_NEW), CHAT, "max_tokens"),
    (
        "openai/openai-python#1724",
        400,
        openai("Unrecognized request argument supplied: max_completion_tokens"),
        NEW_CHAT,
        "max_completion_tokens",
    ),
    (
        "johny-b/llmcomp#69",
        400,
        openai(
            "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is "
            "supported.",
            "temperature",
            "unsupported_value",
        ),
        CHAT,
        "temperature",
    ),
    (
        "OpenHands/software-agent-sdk#1837",
        400,
        openai(NOT_SUPPORTED.format("temperature"), "temperature"),
        CHAT,
        "temperature",
    ),
    (
        "topoteretes/cognee#1447",
        400,
        openai("Unrecognized request argument supplied: reasoning_effort"),
        CHAT,
        "reasoning_effort",
    ),
    (
        "continuedev/continue#9666",
        400,
        openai(
            "Your organization must be verified to generate reasoning summaries. Please go to: https://platform.openai."
            "com/settings/organization/general and click on Verify Organization.",
            "reasoning.summary",
            "unsupported_value",
        ),
        RESPONSES,
        "reasoning.summary",
    ),
    (
        "BoundaryML/baml#2708",
        400,
        openai(NOT_SUPPORTED.format("reasoning.effort"), "reasoning.effort"),
        RESPONSES,
        "reasoning.effort",
    ),
    ("a param that holds both", 400, openai("no", "reasoning"), RESPONSES - {"reasoning.effort"}, "reasoning.summary"),
    # Mistral, alone, in Azure AI Foundry, and in another's sentence
    (
        "editor-code-assistant/eca#231",
        422,
        {
            "object": "error",
            "message": pydantic("max_completion_tokens"),
            "type": "invalid_request_error",
            "param": None,
        },
        NEW_CHAT,
        "max_completion_tokens",
    ),
    (
        "mistralai/platform-docs-public#7",
        422,
        {"object": "error", "message": json.dumps(pydantic("stream_options")), "type": "internal_error_proxy"},
        CHAT,
        "stream_options",
    ),
    ("partITech/php-mistral#76", 422, {"object": "Error", **pydantic("seed"), "code": 3001}, CHAT, "seed"),
    (
        "BerriAI/litellm#11696",
        400,
        openai(
            'litellm.BadRequestError: Azure_aiException - {"error":{"code":"Invalid input","message":"{"detail":[{'
            '"type":"extra_forbidden","loc":["body","stream_options","include_usage"],'
            '"msg":"Extra inputs are not permitted","input":true}]}","status":422}}. Received Model Group=mistral',
            code="400",
        ),
        CHAT,
        "stream_options",
    ),
    (
        "gpustack/gpustack#429: vLLM",
        400,
        {
            "object": "error",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
            "message": "[{'type': 'extra_forbidden', 'loc': ('body', 'stream_options'), 'msg': 'Extra inputs are not "
            "permitted', 'input': {'include_usage': True}}]",
        },
        CHAT,
        "stream_options",
    ),
    # Groq, Fireworks, xAI, Gemini, Bedrock
    (
        "vercel/ai#1578: Groq",
        400,
        {
            "message": "property 'stream_options' is unsupported, did you mean 'stream'?",
            "type": "invalid_request_error",
        },
        CHAT,
        "stream_options",
    ),
    (
        "tmc/langchaingo#1028: Groq",
        400,
        openai("property 'max_completion_tokens' is unsupported, did you mean 'max_tokens'?"),
        NEW_CHAT,
        "max_completion_tokens",
    ),
    (
        "iamsrikanthnani/pluely#242: Groq",
        400,
        openai("`reasoning_effort` is not supported with this model"),
        CHAT,
        "reasoning_effort",
    ),
    (
        "FlowiseAI/Flowise#2866: Fireworks",
        400,
        openai("Extra inputs are not permitted, field: 'stream_options'"),
        CHAT,
        "stream_options",
    ),
    ("huggingface/smolagents#1766: xAI", 400, "Argument not supported on this model: stop", CHAT, "stop"),
    (
        "BerriAI/litellm#12635: xAI behind LiteLLM",
        400,
        openai(
            'litellm.BadRequestError: XaiException - {"code":"Client specified an invalid argument","error":"Argument '
            'not supported on this model: stop"}. Received Model Group=xai_grok-4'
        ),
        CHAT,
        "stop",
    ),
    (
        "BerriAI/litellm#16265: xAI",
        400,
        "Model grok-4-latest does not support parameter reasoningEffort.",
        CHAT,
        "reasoning_effort",
    ),
    (
        "Vali-98/ChatterUI#227: Gemini",
        400,
        [
            {
                "error": {
                    "code": 400,
                    "message": 'Invalid JSON payload received. Unknown name "seed": Cannot find field.',
                    "status": "INVALID_ARGUMENT",
                    "details": [{"fieldViolations": [{"description": "…"}]}],
                }
            }
        ],
        CHAT,
        "seed",
    ),
    (
        "yym68686/ChatGPT-Telegram-Bot#101: Gemini",
        400,
        [
            {
                "error": {
                    "code": 400,
                    "message": "Invalid request",
                    "details": [
                        {"fieldViolations": [{"description": 'Unknown name "stream_options": Cannot find field.'}]}
                    ],
                }
            }
        ],
        CHAT,
        "stream_options",
    ),
    (
        "BerriAI/litellm#14225: Bedrock; a list of what it knows names nothing",
        400,
        openai(
            "BedrockException - Failed to deserialize the JSON body into the target type: thinking: unknown field "
            "`thinking`, expected one of `messages`, `model`, `max_tokens`, `seed`, `stop`, `temperature`, `top_p`"
        ),
        CHAT,
        "reasoning_effort",
    ),
    (
        "BerriAI/litellm#11921",
        400,
        openai(
            "litellm.UnsupportedParamsError: vertex_ai does not support parameters: ['reasoning_effort'], for "
            "model=gemini-2.5-pro. To drop these, set `litellm.drop_params=True`"
        ),
        CHAT,
        "reasoning_effort",
    ),
    (
        "HKUDS/nanobot#370: LiteLLM",
        400,
        openai("litellm.UnsupportedParamsError: gpt-5 models (including gpt-5-codex) don't support temperature=0.7."),
        CHAT,
        "temperature",
    ),
    # Anthropic and what stands in front of others
    (
        "rocketride-org/rocketride-server#1194",
        400,
        anthropic("'temperature' is deprecated for this model."),
        MESSAGES,
        "temperature",
    ),
    (
        "platform.claude.com, migration to Claude 4.5",
        400,
        anthropic("`temperature` and `top_p` cannot both be specified for this model. Please use only one."),
        MESSAGES - {"temperature"},
        "top_p",
    ),
    (
        "elizaOS/eliza#16175",
        400,
        anthropic("This model does not support the effort parameter."),
        MESSAGES,
        "output_config",
    ),
    ("elizaOS/eliza#16175", 400, anthropic("adaptive thinking is not supported on this model"), MESSAGES, "thinking"),
    (
        "Aider-AI/aider#4404, another member",
        400,
        anthropic("thinking: Extra inputs are not permitted"),
        MESSAGES,
        "thinking",
    ),
    (
        "anthropics/claude-code#29531: Qwen",
        400,
        {
            "error": openai(
                'event:error\ndata:{"code":"InvalidParameter","message":"Only \'enabled\' and \'disabled\' are '
                "supported for thinking; 'adaptive' is not supported.\"}"
            ),
            "request_id": "647ffb95",
        },
        MESSAGES,
        "thinking",
    ),
    (
        "danny-avila/LibreChat#11949",
        400,
        anthropic("temperature is not supported when thinking is enabled"),
        MESSAGES,
        "temperature",
    ),
    # The order of turns
    (
        "microsoft/autogen#1037: vLLM",
        400,
        {
            "object": "error",
            "message": "Conversation roles must alternate user/assistant/user/assistant/...",
            "code": None,
        },
        CHAT,
        "roles",
    ),
    (
        "anomalyco/opencode#5034: llama.cpp",
        500,
        {
            "code": 500,
            "type": "server_error",
            "message": "After the optional system message, conversation roles must "
            "alternate user and assistant roles except for tool calls and results. at row 189, column 164:",
        },
        CHAT,
        "roles",
    ),
    (
        "the same, with the turns in order",
        500,
        openai("Conversation roles must alternate user/assistant"),
        CHAT - {"roles"},
        "system",
    ),
    (
        "Aider-AI/aider#2974: DeepSeek",
        400,
        openai(
            "deepseek-reasoner does not support successive user or assistant messages (messages[5] and messages[6])"
        ),
        CHAT,
        "roles",
    ),
    (
        "ChatGPTNextWeb/NextChat#6343: DeepSeek",
        400,
        openai("The first message (except the system message) of deepseek-reasoner must be a user message, but an …"),
        CHAT,
        "roles",
    ),
    (
        "anomalyco/opencode#5034: Ministral",
        500,
        openai("Only user, assistant and tool roles are supported, got system"),
        CHAT,
        "system",
    ),
    ("withcatai/node-llama-cpp#263", 400, openai("Only user and assistant roles are supported!"), CHAT, "system"),
    ("Gemma's template", 400, openai("System role not supported"), CHAT, "system"),
    (
        "BerriAI/litellm#5671: o1-preview",
        400,
        openai("Unsupported value: 'messages[0].role' does not support 'system' with this model.", "messages[0].role"),
        CHAT,
        "system",
    ),
    (
        "perplexityai/api-discussion#265",
        400,
        {
            "message": "After the (optional) system message(s), user and assistant roles should be alternating.",
            "type": "invalid_message",
            "code": 400,
        },
        CHAT,
        "roles",
    ),
    (
        "serac-labs/serac#53: Perplexity",
        400,
        openai("After the (optional) system message(s), user or tool message(s) should alternate with assistant …"),
        CHAT,
        "roles",
    ),
    (
        "ggml-org/llama.cpp#20733: Qwen 3.5",
        400,
        openai("Unable to generate parser for this template. … Error: System message must be at the beginning."),
        CHAT,
        "roles",
    ),
    (
        "SillyTavern/SillyTavern#4349: LM Studio",
        400,
        'Error rendering prompt with jinja template: "Conversation roles must alternate user/assistant/user/…".',
        CHAT,
        "roles",
    ),
]
