"""What servers that speak OpenAI's chat completions really send, and what must come of it."""

from __future__ import annotations

from typing import Any

from tests.workers.providers.dialect import (
    ANY,
    SECRET,
    Answer,
    Failure,
    Row,
    citation,
    compact,
    named,
    one_of,
    sse,
    tool_call,
    usage,
)

GITHUB = "https://github.com/"
STANDARD = "https://html.spec.whatwg.org/multipage/server-sent-events.html"
JSON_STANDARD = "https://www.rfc-editor.org/rfc/rfc8259"
OPENROUTER_ERRORS = "https://openrouter.ai/docs/api/reference/errors-and-debugging"
OPENAI_STREAMING = (
    "https://developers.openai.com/api/reference/resources/chat/subresources/completions/streaming-events"
)

DONE = "[DONE]"


def chunk(delta: object, finish: object = None, choice: dict[str, Any] | None = None, **fields: Any) -> str:
    """One chunk in OpenAI's own form, with what a server adds to its choice and to itself."""
    made = {"index": 0, "delta": delta, "finish_reason": finish, **(choice or {})}
    return compact({"id": "c1", "object": "chat.completion.chunk", "model": "m", "choices": [made], **fields})


def says(text: str, finish: object = None, **fields: Any) -> str:
    return chunk({"content": text}, finish, **fields)


def without_delta(choice: dict[str, Any], **fields: Any) -> str:
    return compact({"id": "c1", "object": "chat.completion.chunk", "choices": [{"index": 0, **choice}], **fields})


def whole(message: object, finish: object = "stop", **fields: Any) -> str:
    """A whole answer, as without a stream."""
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return compact({"id": "c1", "object": "chat.completion", "model": "m", "choices": [choice], **fields})


def error(code: object = None, kind: object = None, **fields: Any) -> dict[str, Any]:
    """With a sentence that quotes a key, as servers do."""
    return {"message": f"no: {SECRET}", "type": kind, "param": None, "code": code, **fields}


STOP = chunk({}, "stop")
HELLO = [says("Hé"), says("llo 🌍")]
SAID = "Héllo 🌍"
COUNTED = {"prompt_tokens": 3, "completion_tokens": 7, "total_tokens": 10}
BOTH = Answer(SAID)


def ended(*chunks: str) -> bytes:
    """Said, finished, and closed as OpenAI does."""
    return sse(*HELLO, *chunks, STOP, DONE)


def failing(*events: str) -> bytes:
    """After some text, these events; then the end that most servers send all the same."""
    return sse(*HELLO, *events, DONE)


def broken(**fields: Any) -> Failure:
    return Failure(text=SAID, **fields)


PLAIN = [
    Row(
        "as OpenAI itself",
        OPENAI_STREAMING,
        sse(
            chunk({"role": "assistant", "content": "", "refusal": None}, usage=None),
            says("Hé", usage=None),
            says("llo 🌍", usage=None),
            chunk({}, "stop", usage=None),
            compact({"id": "c1", "object": "chat.completion.chunk", "choices": [], "usage": COUNTED}),
            DONE,
        ),
        Answer(SAID, usage=usage(3, 7)),
    ),
    Row("nothing but a finish", OPENAI_STREAMING, sse(chunk({"role": "assistant"}), STOP, DONE), Answer("")),
    Row("a finish and no [DONE]", GITHUB + "agentjido/req_llm/issues/462", sse(*HELLO, STOP), BOTH),
    Row(
        "whole characters escaped",
        GITHUB + "elie222/rakazo/issues/416",
        sse(says("@").replace("@", r"H\u00e9llo \ud83c\udf0d"), STOP, DONE),
        BOTH,
    ),
    Row(
        "a surrogate pair in two deltas",
        GITHUB + "elie222/rakazo/issues/416",
        sse(
            says("@").replace("@", r"H\u00e9llo \ud83c"),
            says("@").replace("@", r"\udf0d"),
            STOP,
            DONE,
        ),
        BOTH,
    ),
    Row(
        "half a surrogate pair",
        GITHUB + "davisp/jiffy/issues/145",
        sse(says("@").replace("@", r"a\ud83c"), says("b"), STOP, DONE),
        Answer("a�b"),
    ),
    Row("NUL in the text", JSON_STANDARD, sse(says("a\0b"), STOP, DONE), Answer("a\0b")),
    Row(
        "line separators in the text",
        STANDARD,
        sse(says("a\u2028b\u2029c\x85d\x0be\x1cf"), STOP, DONE),
        Answer("a\u2028b\u2029c\x85d\x0be\x1cf"),
    ),
    Row("text that looks like the end", STANDARD, sse(says("[DONE]"), says("data: x\n\n"), STOP, DONE),
        Answer("[DONE]data: x\n\n")),
]  # fmt: skip

FRAMING = [
    Row("no space after the colon", GITHUB + "dataelement/Clawith/pull/106",
        ended().replace(b"data: ", b"data:"), BOTH),
    Row("CRLF", STANDARD, sse(*HELLO, STOP, DONE, eol="\r\n"), BOTH),
    Row("CR", STANDARD, sse(*HELLO, STOP, DONE, eol="\r"), BOTH),
    Row("CR and LF in turn", STANDARD, sse(HELLO[0], eol="\r") + sse(HELLO[1]) + sse(STOP, DONE, eol="\r\n"), BOTH),
    Row("a byte order mark", STANDARD, b"\xef\xbb\xbf" + ended(), BOTH),
    Row("comments, as OpenRouter waits", "https://openrouter.ai/docs/api-reference/streaming",
        b": OPENROUTER PROCESSING\n\n" * 3 + sse(HELLO[0]) + b": OPENROUTER PROCESSING\n\n" + sse(HELLO[1], STOP, DONE),
        BOTH),
    Row("an empty comment, as llama.cpp waits", GITHUB + "mistralai/mistral-vibe/pull/794",
        b":\n\n:\n\n" + ended(), BOTH),
    Row("comments between events with an id", GITHUB + "theopenco/llmgateway/pull/2334",
        b"".join(b"id: %d\n" % number + sse(one) + b": ping\n\n"
                 for number, one in enumerate([*HELLO, STOP, DONE])), BOTH),
    Row("a comment amid a line, by a proxy", GITHUB + "open-software-network/os-clovy/pull/659",
        sse(HELLO[0]) + sse(HELLO[1])[:40] + b": keep-alive\n\n" + sse(HELLO[1])[40:] + sse(STOP, DONE),
        Failure(text="Hé")),
    Row("data that is no JSON, as a heartbeat", GITHUB + "aaif-goose/goose/pull/11816",
        sse(*HELLO, "ping", STOP, DONE), (BOTH, broken())),
    Row("a stream that says it were JSON", GITHUB + "openclaw/openclaw/pull/97454", ended(), BOTH,
        content_type="application/json"),
    Row("a stream that says it were text", GITHUB + "Wei-Shaw/sub2api/issues/2826", ended(), BOTH,
        content_type="text/plain; charset=utf-8"),
    Row("a stream that says it were bytes", GITHUB + "tinyhumansai/tinyagents/pull/56", ended(), BOTH,
        content_type="application/octet-stream"),
    Row("a stream with parameters in its type", STANDARD, ended(), BOTH,
        content_type="Text/Event-Stream;charset=UTF-8"),
    Row("comments first, in a stream that says it were JSON", GITHUB + "openclaw/openclaw/pull/97454",
        b": hi\n\n" + ended(), BOTH, content_type="application/json"),
    Row("empty data", GITHUB + "coddy-project/coddy-agent/pull/106",
        sse("") + sse(HELLO[0]) + b"data\n\ndata:\n\n" + sse(HELLO[1], STOP, DONE), BOTH),
    Row("id and retry", STANDARD, b"retry: 3000\nid: 1\n" + sse(HELLO[0]) + b"id: 2\n" + sse(HELLO[1], STOP, DONE),
        BOTH),
    Row("a name on every event", STANDARD, sse(*HELLO, STOP, DONE, name="message"), BOTH),
    Row("the name and the data apart", GITHUB + "earendil-works/pi/issues/8430",
        b"".join(b"event: message\n\n" + sse(one) for one in (*HELLO, STOP, DONE)), BOTH),
    Row("events of a name that nobody knows", GITHUB + "jjang-ai/vmlx/issues/219",
        named("ping", "{}") + sse(HELLO[0]) + named("tool_call_generating", '{"delta":{}}') + sse(HELLO[1], STOP, DONE),
        BOTH),
    Row("JSON over several lines of data", GITHUB + "SamSaffron/term-llm/pull/454",
        b"".join(b"data: " + one.replace(",", ",\ndata: ").encode() + b"\n\n" for one in (*HELLO, STOP))
        + sse(DONE), BOTH),
    Row("one line break between events", GITHUB + "rexxars/eventsource-parser/pull/31",
        b"".join(b"data: " + one.encode() + b"\n" for one in (*HELLO, STOP, DONE)) + b"\n", BOTH),
    Row("no blank line after the last event", GITHUB + "openai/openai-node/issues/2725",
        sse(*HELLO, STOP)[:-1], BOTH),
    Row("no line break after the last event", GITHUB + "openai/openai-node/issues/2725",
        sse(*HELLO, STOP)[:-2], BOTH),
    Row("no line break after [DONE]", GITHUB + "openai/openai-node/issues/2725", ended()[:-2], BOTH),
    Row("blank lines before everything", STANDARD, b"\n\n\n" + ended() + b"\n\n", BOTH),
    Row("blanks around the JSON", GITHUB + "pythops/tenere/issues/51",
        sse(*(f"  {one} " for one in (*HELLO, STOP)), " [DONE] "), BOTH),
]  # fmt: skip

CHOICES = [
    Row("empty choices first, as Azure", GITHUB + "AbanteAI/archive-old-cli-mentat/issues/429",
        sse(compact({"id": "", "choices": [], "created": 0, "model": "", "object": "", "prompt_filter_results":
            [{"prompt_index": 0, "content_filter_results": {"hate": {"filtered": False, "severity": "safe"}}}]}))
        + ended(), BOTH),
    Row("null and absent choices", GITHUB + "ROCm/ATOM/pull/1711",
        sse('{"id":"c1","choices":null}', HELLO[0], '{"id":"c1"}', "{}", HELLO[1], STOP, compact({"usage": COUNTED})),
        Answer(SAID, usage=usage(3, 7))),
    Row("an empty object before the end, as llama.cpp", GITHUB + "ggml-org/llama.cpp/pull/10694",
        sse(*HELLO, "{}", STOP, DONE), BOTH),
    Row("no delta, as Azure's asynchronous filter",
        GITHUB + "openai/openai-python/issues/1677",
        sse(*HELLO, without_delta({"finish_reason": None, "content_filter_offsets": {"check_offset": 44},
                                   "content_filter_results": {"hate": {"filtered": False}}}), STOP, DONE), BOTH),
    Row("no delta after the finish, as Azure's asynchronous filter", GITHUB + "langchain-ai/langchain/issues/18977",
        sse(*HELLO, STOP, without_delta({"finish_reason": None, "content_filter_offsets": {"check_offset": 44,
            "start_offset": 44, "end_offset": 51}, "content_filter_results": {"hate": {"filtered": False}}}), DONE),
        BOTH),
    Row("a null delta", GITHUB + "openai/openai-python/issues/1677",
        sse(*HELLO, chunk(None), chunk(None, "stop"), DONE), BOTH),
    Row("a null content, as llama.cpp", GITHUB + "ggml-org/llama.cpp/issues/14268",
        sse(chunk({"role": "assistant", "content": None}), *HELLO, chunk({"content": None}, "stop"), DONE), BOTH),
    Row("an empty role, as MiniMax", GITHUB + "MiniMax-AI/MiniMax-M2.5/issues/2",
        sse(chunk({"role": "", "content": "Hé", "reasoning_content": ""}, input_sensitive=False,
                  usage={"total_tokens": 0, "total_characters": 0}), HELLO[1], STOP, DONE), BOTH),
    Row("another index than 0, as old LiteLLM", GITHUB + "BerriAI/litellm/issues/376",
        sse(*(says(text, choice={"index": 1}) for text in ("Hé", "llo 🌍")), chunk({}, "stop", {"index": 1}), DONE),
        BOTH),
    Row("no index, as Cloudflare", GITHUB + "vercel/ai/pull/4031",
        sse(*(compact({"id": "c1", "choices": [{"delta": {"content": text}}]}) for text in ("Hé", "llo 🌍")),
            compact({"id": "c1", "choices": [{"delta": {}, "finish_reason": "stop"}]}), DONE), BOTH),
    Row("two answers at once", GITHUB + "ModelTC/LightLLM/pull/1445",
        sse(*(compact({"choices": [{"index": 0, "delta": {"content": text}}, {"index": 1, "delta": {"content": "no"}}]})
              for text in ("Hé", "llo 🌍")), compact({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"},
              {"index": 1, "delta": {}, "finish_reason": "length"}]}), DONE), BOTH),
    Row("empty tool calls in every chunk, as vLLM", GITHUB + "n4ze3m/page-assist/issues/614",
        sse(chunk({"content": "Hé", "tool_calls": []}), chunk({"content": "llo 🌍", "tool_calls": None}), STOP, DONE),
        BOTH),
    Row("success as code and message", "https://www.xfyun.cn/doc/spark/HTTP%E8%B0%83%E7%94%A8%E6%96%87%E6%A1%A3.html",
        sse(says("Hé", code=0, message="Success", sid="s"), says("llo 🌍", code=0, message="Success"),
            chunk({}, "stop", code=0, message="Success"), DONE), BOTH),
    Row("a null error in every chunk", GITHUB + "BerriAI/litellm/pull/32237",
        sse(says("Hé", error=None), says("llo 🌍", error=None, base_resp={"status_code": 0, "status_msg": ""}),
            chunk({}, "stop", error=None, detail=None), DONE), BOTH),
    Row("numbers of any size where none is needed", JSON_STANDARD,
        sse(says("Hé", created=10**400).replace('"index":0', '"index":1e308'),
            says("llo 🌍").replace('"index":0', '"index":' + "9" * 50), STOP, DONE), BOTH),
    Row("fields that are of another type", GITHUB + "betalgo/openai/issues/408",
        sse(says("Hé", id=5, object=[], model={}, created="now", system_fingerprint=7, usage="none", service_tier=[]),
            says("llo 🌍", choice={"logprobs": "x"}), STOP, DONE), BOTH),
]  # fmt: skip

CONTENT = [
    Row("content as a list of parts, as Mistral", GITHUB + "Arize-ai/openinference/pull/3761",
        sse(chunk({"content": [{"type": "text", "text": "Hé"}]}), chunk({"content": [{"type": "text", "text": "llo "},
            {"type": "text", "text": "🌍"}]}), STOP, DONE), BOTH),
    Row("an empty list of parts", GITHUB + "Arize-ai/openinference/pull/3761",
        sse(chunk({"content": []}), *HELLO, STOP, DONE), BOTH),
    Row("parts that are no text", GITHUB + "vercel/ai/pull/8072",
        sse(chunk({"content": [{"type": "text", "text": "Hé"}, {"type": "reference", "reference_ids": [1]},
            {"type": "image_url", "image_url": "x"}, None, {"type": "text", "text": "llo 🌍"}]}), STOP, DONE), BOTH),
    Row("message in place of delta", GITHUB + "langgenius/dify/issues/2144",
        sse(*(without_delta({"message": {"role": "assistant", "content": text}, "finish_reason": None})
              for text in ("Hé", "llo 🌍")), without_delta({"message": {"content": ""}, "finish_reason": "stop"})),
        BOTH),
    Row("reasoning in the delta, and the text in a message", GITHUB + "langgenius/dify/issues/2144",
        sse(chunk({"reasoning_content": "hm"}), without_delta({"message": {"content": SAID}, "finish_reason": "stop"})),
        Answer(SAID, reasoning="hm")),
    Row("text in place of delta, as the old completions", GITHUB + "abetlen/llama-cpp-python/issues/133",
        sse(*(without_delta({"text": text, "logprobs": None, "finish_reason": None}) for text in ("Hé", "llo 🌍")),
            without_delta({"text": "", "finish_reason": "stop"})), BOTH),
    Row("delta, and everything so far as message, as Perplexity", GITHUB + "BerriAI/litellm/issues/13777",
        sse(says("Hé", choice={"message": {"role": "assistant", "content": "Hé"}}),
            says("llo 🌍", choice={"message": {"role": "assistant", "content": SAID}}),
            chunk({"content": ""}, "stop", {"message": {"role": "assistant", "content": SAID}})), BOTH),
    Row("a refusal", OPENAI_STREAMING, sse(chunk({"refusal": "I can't"}), chunk({"refusal": "."}), STOP, DONE),
        Answer("I can't.", "filter")),
    Row("filtered, and closed without [DONE], as Azure AI Foundry", GITHUB + "experientiallabs/experiential/pull/962",
        sse(*HELLO, chunk({"refusal": ""}, "content_filter")), Answer(SAID, "filter")),
    Row("filtered, as Azure", "https://learn.microsoft.com/en-us/azure/ai-foundry/openai/concepts/content-filter",
        sse(*HELLO, chunk({}, "content_filter", {"content_filter_results": {"hate": {"filtered": True}}}), DONE),
        Answer(SAID, "filter")),
]  # fmt: skip

WHOLE = [
    Row("a whole answer where a stream was asked for", GITHUB + "huggingface/chat-ui/issues/430",
        whole({"role": "assistant", "content": SAID}, usage=COUNTED).encode(), Answer(SAID, usage=usage(3, 7)),
        content_type="application/json"),
    Row("a whole answer over many lines", GITHUB + "langgenius/dify/issues/2144",
        whole({"role": "assistant", "content": SAID}, "length", usage=COUNTED).replace(",", ",\r\n  ").encode() + b"\n",
        Answer(SAID, "length", usage(3, 7)), content_type="application/json; charset=utf-8"),
    Row("a whole answer that says it were a stream", GITHUB + "decolua/9router/issues/3492",
        whole({"role": "assistant", "content": SAID}, usage=COUNTED).encode() + b"\n\n" + sse(DONE),
        Answer(SAID, usage=usage(3, 7))),
    Row("a whole answer as the only event", GITHUB + "BerriAI/litellm/pull/38153",
        sse(whole({"role": "assistant", "content": SAID}, usage=COUNTED), DONE), Answer(SAID, usage=usage(3, 7))),
    Row("a whole answer without a type", GITHUB + "huggingface/chat-ui/issues/430",
        whole({"role": "assistant", "content": SAID}).encode(), BOTH, content_type="text/plain"),
    Row("a whole answer with everything", GITHUB + "langchain4j/langchain4j/pull/4474",
        whole({"role": "assistant", "reasoning_content": "hm", "content": [{"type": "text", "text": SAID}],
               "tool_calls": [{"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}],
               "annotations": [{"type": "url_citation", "url_citation": {"url": "https://a.example"}}]},
              "tool_calls").encode(),
        Answer(SAID, "other", reasoning="hm", data=one_of(
            [tool_call("f", {"a": 1}, "t1"), citation(type="url_citation", url="https://a.example")],
            [citation(type="url_citation", url="https://a.example"), tool_call("f", {"a": 1}, "t1")])),
        content_type="application/json"),
    Row("a whole refusal", OPENAI_STREAMING, whole({"content": None, "refusal": "I can't."}).encode(),
        Answer("I can't.", "filter"), content_type="application/json"),
    Row("a whole answer without a finish", GITHUB + "ollama/ollama/issues/7547",
        whole({"role": "assistant", "content": SAID}, None).encode(), Answer(SAID, one_of("stop", "other")),
        content_type="application/json"),
    Row("a whole answer that was cut", GITHUB + "vllm-project/vllm/issues/10126",
        whole({"role": "assistant", "content": SAID}).encode()[:-30],
        Failure(one_of("truncated", "provider_error"), text=one_of("", SAID)),
        content_type="application/json", end="cut"),
    Row("a whole answer without choices", GITHUB + "infiniflow/ragflow/pull/17292",
        b'{"id":"c1","object":"chat.completion","choices":[]}', Failure(one_of("truncated", "provider_error"), ANY),
        content_type="application/json"),
    Row("nothing at all", GITHUB + "earendil-works/pi/issues/2537", b"", Failure(one_of("truncated",
        "provider_error"))),
    Row("nothing at all, as JSON", GITHUB + "earendil-works/pi/issues/2537", b"",
        Failure(one_of("truncated", "provider_error")), content_type="application/json"),
]  # fmt: skip


def thinks(*deltas: dict[str, Any]) -> bytes:
    return sse(*(chunk(delta) for delta in deltas), *HELLO, STOP, DONE)


def parted(*parts: object) -> dict[str, Any]:
    return {"content": list(parts)}


REASONED = Answer(SAID, reasoning="hm …")

REASONING = [
    Row("reasoning_content, as DeepSeek", "https://api-docs.deepseek.com/guides/reasoning_model",
        thinks({"content": None, "reasoning_content": "hm"}, {"content": None, "reasoning_content": " …"}), REASONED),
    Row("reasoning, as OpenRouter and Groq", "https://openrouter.ai/docs/use-cases/reasoning-tokens",
        thinks({"content": "", "reasoning": "hm"}, {"content": "", "reasoning": " …"}), REASONED),
    Row("both names with the same", GITHUB + "vellum-ai/vellum-assistant/pull/30953",
        thinks({"reasoning": "hm …", "reasoning_content": "hm …"}), REASONED),
    Row("reasoning and its details with the same", "https://openrouter.ai/docs/use-cases/reasoning-tokens",
        thinks(*({"content": "", "reasoning": text, "reasoning_details": [{"type": "reasoning.text", "text": text,
                  "format": "anthropic-claude-v1", "index": 0}]} for text in ("hm", " …"))), REASONED),
    Row("details only, with text", GITHUB + "earendil-works/pi/pull/8246",
        thinks(*({"reasoning_details": [{"type": "reasoning.text", "text": text, "index": 0}]}
                 for text in ("hm", " …"))), REASONED),
    Row("details only, with a summary", GITHUB + "OpenRouterTeam/ai-sdk-provider/issues/519",
        thinks(*({"reasoning_details": [{"type": "reasoning.summary", "summary": text, "index": 0}]}
                 for text in ("hm", " …"))), REASONED),
    Row("details that are encrypted", GITHUB + "vellum-ai/vellum-assistant/pull/30953",
        thinks({"reasoning": None, "reasoning_details": [{"type": "reasoning.encrypted", "data": "Zm9v", "index": 0}]}),
        BOTH),
    Row("thinking parts, as Mistral", GITHUB + "BerriAI/litellm/issues/16272",
        thinks(*(parted({"type": "thinking", "thinking": [{"type": "text", "text": text}]}) for text in ("hm", " …"))),
        REASONED),
    Row("thinking parts with a string", GITHUB + "simonw/llm-mistral/pull/39",
        thinks(parted({"type": "thinking", "thinking": "hm …"})), REASONED),
    Row("thinking and text in one list", GITHUB + "langchain4j/langchain4j/pull/4474",
        sse(chunk(parted({"type": "thinking", "thinking": [{"type": "text", "text": "hm …"}], "closed": True},
                         {"type": "text", "text": SAID})), STOP, DONE), REASONED),
    Row("a list of texts", GITHUB + "anima-research/animachat/pull/129",
        thinks({"reasoning": [{"text": "hm"}, {"text": " …"}]}), Answer(SAID, reasoning=one_of("", "hm …"))),
    Row("an object with text", GITHUB + "anima-research/animachat/pull/129", thinks({"reasoning": {"text": "hm …"}}),
        Answer(SAID, reasoning=one_of("", "hm …"))),
    Row("an object with content", GITHUB + "anima-research/animachat/pull/129",
        thinks({"reasoning_content": {"content": "hm …"}}),
        Answer(SAID, reasoning=one_of("", "hm …"))),
    Row("reasoning that nobody can read", GITHUB + "anima-research/animachat/pull/129",
        sse(chunk({"content": "Hé", "reasoning": 5}), chunk({"content": "llo ", "reasoning_content": [[]]}),
            chunk({"content": "🌍", "reasoning_details": 5, "thinking": {"a": 1}}), STOP, DONE), BOTH),
    Row("details that nobody can read", GITHUB + "anima-research/animachat/pull/129",
        thinks({"reasoning_details": [5, None, {}, {"type": 1}, {"type": "reasoning.text", "text": None}]}), BOTH),
    Row("reasoning only", GITHUB + "BerriAI/litellm/issues/21744",
        sse(chunk({"reasoning_content": "hm"}), chunk({}, "length"), DONE), Answer("", "length", reasoning="hm")),
]  # fmt: skip

FINISHES = [
    Row("the finish with the last text, as vLLM", GITHUB + "vllm-project/vllm/pull/36944",
        sse(HELLO[0], says("llo 🌍", "stop"), DONE), BOTH),
    Row("an empty finish in every chunk, as Ollama", GITHUB + "ollama/ollama/issues/4357",
        sse(says("Hé", ""), says("llo 🌍", ""), chunk({"content": ""}, "stop"), DONE), BOTH),
    Row("an empty finish in every chunk, and never another", GITHUB + "qualcomm/GenieX/pull/1246",
        sse(says("Hé", ""), says("llo 🌍", ""), chunk({"content": ""}, "")), broken(code="truncated")),
    Row("the finish in every chunk", GITHUB + "open-webui/open-webui/issues/16377",
        sse(says("Hé", "stop"), says("llo 🌍", "stop"), STOP, DONE), BOTH),
    Row("the finish in every chunk, with text in the last one", GITHUB + "BerriAI/litellm/issues/376",
        sse(says("Hé", "stop"), says("llo 🌍", "stop"), DONE), BOTH),
    Row("the first finish is not the last", GITHUB + "open-webui/open-webui/pull/23929",
        sse(chunk({"content": ""}, "stop"), says("Hé", "stop"), says("llo 🌍"), chunk({}, "length"), DONE),
        Answer(SAID, "length")),
    Row("a finish, then text, then a finish", GITHUB + "open-webui/open-webui/pull/23929",
        sse(chunk({"content": ""}, "stop"), *HELLO, STOP, DONE), BOTH),
    Row("a finish, then text, then cut", GITHUB + "open-webui/open-webui/pull/23929",
        sse(chunk({"content": ""}, "stop"), *HELLO), broken(code="truncated"), end="cut"),
    Row("a finish, then text, then closed without another", GITHUB + "open-webui/open-webui/pull/23929",
        sse(says("Hé", "stop"), HELLO[1]), broken(code="truncated")),
    Row("a finish, then text, then [DONE]", GITHUB + "open-webui/open-webui/pull/23929",
        sse(says("Hé", "stop"), HELLO[1], DONE), (Answer(SAID, one_of("stop", "other")), broken(code="truncated"))),
    Row("a finish, then text, then [DONE], which counts", GITHUB + "open-webui/open-webui/pull/23929",
        sse(says("Hé", "stop"), HELLO[1], DONE), Answer(SAID, one_of("stop", "other")), settings={"done_ends": "yes"}),
    Row("a finish, then text, then [DONE], which does not count", GITHUB + "open-webui/open-webui/pull/23929",
        sse(says("Hé", "stop"), HELLO[1], DONE), broken(code="truncated"), settings={"done_ends": "no"}),
    Row("a finish, then text, then an error", GITHUB + "open-webui/open-webui/pull/23929",
        sse(says("Hé", "stop"), HELLO[1], compact({"error": error(500, "server_error")}), DONE), broken(status=500)),
    Row("cut where only the usage is missing", GITHUB + "vllm-project/vllm/issues/10126",
        sse(*HELLO, STOP) + b'data: {"id":"c1","choices":[],"usage":{"prompt_t', BOTH, end="cut"),
    Row("reset where only the usage is missing", GITHUB + "vllm-project/vllm/issues/10126",
        sse(*HELLO, STOP), (BOTH, broken(code="truncated")), end="reset"),
    Row("cut after a finish with the last text", GITHUB + "vllm-project/vllm/pull/36944",
        sse(HELLO[0], says("llo 🌍", "stop")), BOTH, end="cut"),
    Row("cut amid the text", GITHUB + "vllm-project/vllm/issues/10126", sse(*HELLO), broken(code="truncated"),
        end="cut"),
    Row("cut amid a chunk", GITHUB + "vllm-project/vllm/issues/10126",
        sse(*HELLO, says("lost"))[:-12], broken(code="truncated"), end="cut"),
    Row("cut amid the finish", GITHUB + "vllm-project/vllm/issues/10126",
        sse(*HELLO, STOP)[:-6], broken(code="truncated"), end="cut"),
    Row("closed amid a chunk", GITHUB + "EchoYue-lp/echo-agent/issues/95",
        sse(*HELLO, says("lost"))[:-12], broken(code=one_of("truncated", "provider_error"))),
    Row("reset amid the text", GITHUB + "vllm-project/vllm/issues/10126", sse(*HELLO), broken(code="truncated"),
        end="reset"),
    Row("closed without a finish", GITHUB + "anomalyco/opencode/issues/43882", sse(*HELLO), broken(code="truncated")),
    Row("[DONE] and no finish", GITHUB + "waybarrios/vllm-mlx/issues/628", sse(*HELLO, DONE), Answer(SAID, "other")),
    Row("[DONE] and no finish, which counts", GITHUB + "waybarrios/vllm-mlx/issues/628", sse(*HELLO, DONE),
        Answer(SAID, "other"), settings={"done_ends": "yes"}),
    Row("[DONE] and no finish, which does not count", GITHUB + "waybarrios/vllm-mlx/issues/628", sse(*HELLO, DONE),
        broken(code="truncated"), settings={"done_ends": "no"}),
    Row("[DONE] and no finish, with the usage", GITHUB + "alfredapp/openai-workflow/pull/52",
        sse(*HELLO, compact({"choices": [], "usage": COUNTED}), DONE), Answer(SAID, "other", usage(3, 7))),
    Row("nothing but [DONE]", GITHUB + "vllm-project/vllm/pull/40986", sse(DONE),
        Failure(one_of("truncated", "provider_error"))),
    Row("text after [DONE]", OPENAI_STREAMING, ended() + sse(says("late")), BOTH),
    Row("finishReason beside a null finish_reason, as early Gemini", GITHUB + "jakobdylanc/llmcord/issues/84",
        sse(*HELLO, chunk({"content": "."}, None, {"finishReason": "stop"}), DONE),
        Answer(SAID + ".", one_of("stop", "other"))),
    *(Row(f"finish {reason}", source, sse(*HELLO, chunk({"content": ""}, reason), DONE), Answer(SAID, finish))
      for reason, finish, source in (
          ("length", "length", OPENAI_STREAMING),
          ("tool_calls", "other", OPENAI_STREAMING),
          ("eos_token", one_of("stop", "other"), GITHUB + "huggingface/text-generation-inference"),
          ("eos", one_of("stop", "other"), "https://docs.together.ai/reference/chat-completions-1"),
          ("model_length", "length", "https://docs.mistral.ai/api/"),
          ("max_tokens", one_of("length", "other"), "https://platform.claude.com/docs/en/api/openai-sdk"),
          ("MAX_TOKENS", one_of("length", "other"), GITHUB + "theopenco/llmgateway/pull/2218"),
          ("STOP", one_of("stop", "other"), GITHUB + "theopenco/llmgateway/pull/2218"),
          ("sensitive", "filter", GITHUB + "promptfoo/promptfoo/pull/9905"),
          ("SAFETY", "filter", GITHUB + "HKUDS/Vibe-Trading/pull/308"),
          ("RECITATION", "filter", GITHUB + "nearai/ironclaw/pull/5578"),
          ("content_filter: RECITATION", "filter", GITHUB + "coder/coder/pull/28470"),
          ("something new", "other", OPENAI_STREAMING),
      )),
    Row("a finish that is an object", GITHUB + "betalgo/openai/issues/408",
        sse(*HELLO, chunk({}, {"type": "stop"}), STOP, DONE), BOTH),
    *(Row(f"a finish that means failure: {reason}", source, sse(*HELLO, chunk({}, reason), DONE), broken())
      for reason, source in (
          ("error", OPENROUTER_ERRORS),
          ("network_error", GITHUB + "NousResearch/hermes-agent/pull/92161"),
          ("network-error", GITHUB + "NousResearch/hermes-agent/pull/92161"),
          ("insufficient_system_resource", "https://api-docs.deepseek.com/api/create-chat-completion"),
          ("abort", GITHUB + "vllm-project/vllm/issues/57082"),
          ("function_call_filter: MALFORMED_FUNCTION_CALL", GITHUB + "coder/coder/pull/28470"),
          ("MALFORMED_FUNCTION_CALL", GITHUB + "googleapis/python-genai/issues/1836"),
          ("malformed_function_call", GITHUB + "NousResearch/hermes-agent/pull/83886"),
      )),
    Row("the model behind was overloaded, as finish", GITHUB + "MoonshotAI/MoonshotAI-Cookbook/issues/16",
        sse(*HELLO, chunk({}, "engine_overloaded"), DONE), broken(code=one_of("provider_error",
            "provider_rate_limited"))),
    Row("native_finish_reason network_error under stop", GITHUB + "earendil-works/pi/issues/8511",
        sse(chunk({"role": "assistant", "content": ""}), chunk({"content": ""}, "stop",
            {"native_finish_reason": "network_error"}), DONE), Failure()),
    Row("native_finish_reason network_error after text", GITHUB + "earendil-works/pi/issues/8511",
        sse(*HELLO, chunk({"content": ""}, "stop", {"native_finish_reason": "network_error"}), DONE), broken()),
    Row("native_finish_reason MALFORMED_FUNCTION_CALL", GITHUB + "BerriAI/litellm/issues/21744",
        sse(*HELLO, chunk({"content": ""}, "stop", {"native_finish_reason": "MALFORMED_FUNCTION_CALL"}), DONE),
            broken()),
    Row("native_finish_reason of a model that ended well", GITHUB + "openai/openai-go/issues/227",
        sse(says("Hé", choice={"native_finish_reason": None}), HELLO[1],
            chunk({}, "stop", {"native_finish_reason": "end_turn"}), DONE), BOTH),
    Row("native_finish_reason refusal", GITHUB + "CherryHQ/cherry-studio/pull/16079",
        sse(*HELLO, chunk({}, "content_filter", {"native_finish_reason": "refusal"}), DONE), Answer(SAID, "filter")),
]  # fmt: skip


def counts(**fields: Any) -> str:
    return compact({"id": "c1", "object": "chat.completion.chunk", "choices": [], "usage": fields})


USAGE = [
    *(Row(f"usage {name}", source, ended(counts(**fields)), Answer(SAID, usage=expected))
      for name, fields, expected, source in (
          ("as strings", {"prompt_tokens": "3", "completion_tokens": "7"}, usage(3, 7),
           GITHUB + "BerriAI/litellm/issues/28024"),
          ("as floats", {"prompt_tokens": 3.0, "completion_tokens": 7.0}, usage(3, 7),
           GITHUB + "BerriAI/litellm/issues/28024"),
          ("with fractions", {"prompt_tokens": 3, "completion_tokens": 7.25}, one_of(None, usage(3, 7)),
           GITHUB + "philschmid/easyllm/issues/40"),
          ("by other names, as mlx-vlm", {"input_tokens": 3, "output_tokens": 7, "prompt_tps": 21.5}, usage(3, 7),
           GITHUB + "earendil-works/pi/issues/2326"),
          ("with null", {"prompt_tokens": None, "completion_tokens": 7}, None,
              GITHUB + "sgl-project/sglang/issues/3912"),
          ("that is negative", {"prompt_tokens": -1, "completion_tokens": 7}, None, JSON_STANDARD),
          ("beyond every number", {"prompt_tokens": 1e308, "completion_tokens": 10**400}, None, JSON_STANDARD),
          ("that is no number", {"prompt_tokens": True, "completion_tokens": "many"}, None, JSON_STANDARD),
          ("of 2^53", {"prompt_tokens": 2**53, "completion_tokens": 7}, None, JSON_STANDARD),
          ("by both names", {"prompt_tokens": 3, "completion_tokens": 7, "input_tokens": 3, "output_tokens": 7},
           usage(3, 7), GITHUB + "openclaw/openclaw/issues/49316"),
      )),
    Row("usage in every chunk", GITHUB + "pydantic/pydantic-ai/pull/4056",
        sse(says("Hé", usage={"prompt_tokens": 3, "completion_tokens": 1}),
            says("llo 🌍", usage={"prompt_tokens": 3, "completion_tokens": 4}),
            chunk({}, "stop", usage={"prompt_tokens": 3, "completion_tokens": 7}), DONE), Answer(SAID, usage=usage(3,
                7))),
    Row("usage in every chunk, null in the last one", GITHUB + "openai/openai-agents-python/pull/2126",
        sse(says("Hé", usage={"prompt_tokens": 3, "completion_tokens": 1}), says("llo 🌍", usage=COUNTED),
            chunk({}, "stop", usage=None), DONE), Answer(SAID, usage=usage(3, 7))),
    Row("usage of zero first", GITHUB + "mudler/LocalAI/issues/1194",
        sse(*(says(text, usage={"prompt_tokens": 0, "completion_tokens": 0}) for text in ("Hé", "llo 🌍")),
            chunk({}, "stop", usage=COUNTED), DONE), Answer(SAID, usage=usage(3, 7))),
    Row("usage with the finish", GITHUB + "ggml-org/llama.cpp/pull/10694",
        sse(*HELLO, chunk({}, "stop", usage=COUNTED, timings={"prompt_n": 1}), DONE), Answer(SAID, usage=usage(3, 7))),
    Row("usage after the finish", OPENAI_STREAMING, sse(*HELLO, STOP, counts(**COUNTED), DONE),
        Answer(SAID, usage=usage(3, 7))),
    Row("usage in the choice, as Moonshot", GITHUB + "earendil-works/pi/issues/2017",
        sse(*HELLO, chunk({}, "stop", {"usage": COUNTED}), DONE), Answer(SAID, usage=usage(3, 7))),
    Row("usage in x_groq", "https://console.groq.com/docs/api-reference",
        sse(*HELLO, chunk({}, "stop", x_groq={"id": "r", "usage": {**COUNTED, "queue_time": 0.01}}), DONE),
        Answer(SAID, usage=one_of(None, usage(3, 7)))),
    Row("usage that is a list", JSON_STANDARD, sse(*HELLO, chunk({}, "stop", usage=[COUNTED]), DONE), BOTH),
    Row("usage that is a text", JSON_STANDARD, sse(*HELLO, chunk({}, "stop", usage="none"), DONE), BOTH),
]  # fmt: skip


def fails(name: str, source: str, event: object, **fields: Any) -> Row:
    """A row for an error inside the stream, after some text."""
    body = failing(event if isinstance(event, str) else compact(event))
    return Row(f"error: {name}", source, body, broken(**fields))


LIMITED = one_of("provider_error", "provider_rate_limited")
REFUSED = one_of("provider_error", "provider_refused")
ERROR_LINE = compact({"code": 400, "message": f"the request exceeds the available context size {SECRET}",
                      "type": "invalid_request_error"})  # fmt: skip

ERRORS = [
    fails("an object, as OpenAI", OPENAI_STREAMING, {"error": error(None, "server_error")}),
    fails("with an HTTP status as code, as vLLM", GITHUB + "vllm-project/guidellm/issues/743",
          {"error": error(504, "GatewayTimeout")}, status=504),
    fails("with the status as text", GITHUB + "BerriAI/litellm/pull/38153", {"error": error("500", "None")},
        status=500),
    fails("rate limited", GITHUB + "vllm-project/guidellm/issues/743", {"error": error(429, "TooManyRequests")},
          code="provider_rate_limited", status=429),
    fails("our mistake, as vLLM", GITHUB + "vllm-project/vllm/pull/40986", {"error": error(400, "BadRequestError")},
          retryable=False, status=400),
    fails("the context is too long", GITHUB + "vercel/ai/issues/13506",
          {"error": error("context_length_exceeded", "invalid_request_error")}, retryable=False),
    fails("the context is too long, in capitals", GITHUB + "vercel/ai/issues/13506",
          {"error": {"message": SECRET, "code": "CONTEXT_LENGTH_EXCEEDED"}}, retryable=False),
    fails("refused, as Azure", "https://learn.microsoft.com/en-us/azure/ai-foundry/openai/concepts/content-filter",
          {"error": error("content_filter", None, status=400,
                          innererror={"code": "ResponsibleAIPolicyViolation"})}, code="provider_refused",
                              retryable=False),
    fails("refused, as DashScope", GITHUB + "QwenLM/qwen-code/issues/3145",
          {"error": error("data_inspection_failed", "data_inspection_failed")}, code=REFUSED, retryable=False),
    fails("a text", GITHUB + "OpenSecretCloud/maple-proxy/pull/47", {"error": f"Stream error: {SECRET}"}),
    fails("a text and its type, as TGI", GITHUB + "huggingface/huggingface_hub/issues/2514",
          {"error": f"Request failed during generation: {SECRET}", "error_type": "generation"}),
    fails("a text and its type, overloaded, as TGI", GITHUB + "huggingface/text-generation-inference/issues/439",
          {"error": f"Model is overloaded {SECRET}", "error_type": "overloaded"}, code=LIMITED),
    fails("an object, and the sentence again, as LM Studio", GITHUB + "zendev-sh/goai/pull/110",
          {"error": {"message": f"Compute error. {SECRET}"}, "message": f"Compute error. {SECRET}"}),
    fails("the object itself, as vLLM and FastChat",
        GITHUB + "vllm-project/vllm/blob/v0.9.0/vllm/entrypoints/openai/protocol.py",
          {"object": "error", **error(400, "BadRequestError")}, retryable=False, status=400),
    fails("the object itself, the server's fault", GITHUB + "sgl-project/sglang/pull/19357",
          {"object": "error", **error(500, "InternalServerError")}, status=500),
    fails("an object in an object, as Anthropic", GITHUB + "envoyproxy/ai-gateway/pull/2698",
          {"type": "error", "error": {"type": "overloaded_error", "message": SECRET}}),
    fails("an object in an object, rate limited", GITHUB + "envoyproxy/ai-gateway/pull/2698",
          {"type": "error", "error": {"type": "rate_limit_error", "message": SECRET}}, code="provider_rate_limited"),
    fails("type and message", GITHUB + "zendev-sh/goai/pull/110", {"type": "error", "code": "server_error",
        "message": SECRET}),
    fails("detail, as FastAPI", "https://fastapi.tiangolo.com/tutorial/handling-errors/", {"detail": f"no: {SECRET}"}),
    fails("detail as a list, as FastAPI", "https://fastapi.tiangolo.com/tutorial/handling-errors/",
          {"detail": [{"loc": ["body"], "msg": SECRET, "type": "value_error"}]}, retryable=ANY),
    fails("code and message, as DashScope", GITHUB + "QwenLM/Qwen/issues/938",
          {"code": "InternalError", "message": SECRET, "request_id": "r"}),
    fails("code and message, throttled, as DashScope", "https://help.aliyun.com/zh/model-studio/error-code",
          {"code": "Throttling.RateQuota", "message": SECRET, "request_id": "r"}, code=LIMITED),
    fails("code and message with a status", GITHUB + "zhengxs2018/ai/pull/13",
          {"code": 429, "message": SECRET}, code="provider_rate_limited", status=429),
    fails("in the choice, as OpenRouter", "https://openrouter.ai/docs/api-reference/overview",
          chunk({"content": ""}, "error", {"error": {"code": 502, "message": SECRET}}), status=502),
    fails("in the choice, rate limited", "https://openrouter.ai/docs/api-reference/overview",
          chunk({"content": ""}, None, {"error": {"code": 429, "message": SECRET}}),
          code="provider_rate_limited", status=429),
    fails("beside the choices, as OpenRouter", GITHUB + "damianvtran/local-operator/pull/223",
          chunk({"content": ""}, "error", error={"code": "server_error", "message": SECRET,
                "metadata": {"error_type": "provider_unavailable"}})),
    fails("beside empty choices, as OpenRouter", GITHUB + "diegosouzapw/OmniRoute/pull/8210",
          {"id": "g", "object": "chat.completion.chunk", "choices": [], "error": {"code": 502, "message": SECRET}},
          status=502),
    fails("a list, as Gemini", "https://ai.google.dev/gemini-api/docs/troubleshooting",
          [{"error": {"code": 503, "message": SECRET, "status": "UNAVAILABLE"}}], status=503),
    fails("errors, as Cloudflare", GITHUB + "cloudflare/cloudflare-docs/issues/15116",
          {"result": None, "success": False, "errors": [{"code": 7009, "message": SECRET}], "messages": []}),
    fails("base_resp, rate limited, as MiniMax", GITHUB + "infiniflow/ragflow/pull/17292",
          {"id": "c1", "choices": None, "base_resp": {"status_code": 1002, "status_msg": SECRET}}, code=LIMITED),
    fails("base_resp, a wrong key, as MiniMax", GITHUB + "ENTERPILOT/GoModel/pull/640",
          {"id": "c1", "base_resp": {"status_code": 1004, "status_msg": SECRET}}, retryable=False),
    fails("base_resp, no balance, as MiniMax", GITHUB + "adrianlyjak/obsidian-aloud-tts/pull/114",
          {"id": "c1", "base_resp": {"status_code": 1008, "status_msg": SECRET}}, retryable=False),
    fails("its type and sentence beside no choices, as DeepInfra", GITHUB + "NousResearch/hermes-agent/pull/86635",
          {"id": "c1", "choices": None, "error_type": "BadRequestError", "error_message": SECRET}, retryable=False),
    fails("the sentence only, as a gateway to Bedrock", GITHUB + "BerriAI/litellm/issues/40578",
          {"error": {"message": SECRET}}),
    fails("problem details, as NVIDIA", GITHUB + "Alishahryar1/free-claude-code/issues/690",
          {"status": 429, "title": "Too Many Requests"}, code=LIMITED),
    fails("a number of its own, as Zhipu", GITHUB + "yilewang/llm-for-zotero/issues/17",
          {"error": {"code": "1302", "message": SECRET}}, code=LIMITED),
    fails("rate limited, as Moonshot", GITHUB + "CherryHQ/cherry-studio/issues/2959",
          {"error": {"message": SECRET, "type": "rate_limit_reached_error"}}, code=LIMITED),
    fails("in x_groq", GITHUB + "groq/groq-python/blob/main/src/groq/types/chat/chat_completion_chunk.py",
          chunk({}, None, x_groq={"id": "r", "error": SECRET}), code=one_of("provider_error", "truncated")),
    fails("overloaded, as Moonshot", GITHUB + "MoonshotAI/MoonshotAI-Cookbook/issues/16",
          {"error": {"message": SECRET, "type": "engine_overloaded_error"}}, code=LIMITED),
    fails("a wrong key", GITHUB + "xuy/sgo/issues/1", {"error": error("invalid_api_key", "invalid_request_error")},
          retryable=False),
    fails("no money left", OPENROUTER_ERRORS, {"error": {"code": 402, "message": SECRET}}, retryable=False, status=402),
    fails("no money left, as OpenAI", "https://developers.openai.com/api/docs/guides/error-codes",
          {"error": error("insufficient_quota", "insufficient_quota")}, code="provider_rate_limited"),
    fails("a key in the code", GITHUB + "betalgo/openai/issues/408", {"error": {"code": f"Bad key {SECRET}",
        "message": ""}},
          retryable=ANY),
    fails("a key as type", GITHUB + "betalgo/openai/issues/408", {"error": {"type": SECRET, "message": ""}},
        retryable=ANY),
    fails("an error that is a number", GITHUB + "betalgo/openai/issues/408", {"error": 500}, status=one_of(None, 500)),
    fails("no JSON", GITHUB + "lucasjinreal/Crane/pull/121", f"error: {SECRET}"),
    fails("a tool call that failed, as Groq", GITHUB + "BerriAI/litellm/issues/40566",
          {"error": error("tool_use_failed", "invalid_request_error", failed_generation=SECRET)}, retryable=ANY),
    Row("error: the event's name", GITHUB + "vercel/ai/issues/6916",
        sse(*HELLO) + named("error", compact({"error": error(None, "server_error")})), broken()),
    Row("error: the event's name, and the object itself", GITHUB + "zendev-sh/goai/pull/110",
        sse(*HELLO) + named("error", compact(error(429, "too_many_requests"))) + sse(DONE),
        broken(code="provider_rate_limited", status=429)),
    Row("error: the event's name, and a text", GITHUB + "SamSaffron/term-llm/pull/454",
        sse(*HELLO) + named("error", f"upstream timeout {SECRET}") + sse(DONE), broken()),
    Row("error: a field of its own, as llama.cpp", GITHUB + "ggml-org/llama.cpp/pull/16109",
        sse(*HELLO) + f"error: {ERROR_LINE}\n\n".encode() + sse(DONE), broken(retryable=False, status=400)),
    Row("error: a field of its own and nothing before, as llama.cpp", GITHUB + "coddy-project/coddy-agent/pull/106",
        f"error: {ERROR_LINE}\n\n".encode() + sse(DONE), Failure(retryable=False, status=400)),
    Row("error: a line without data", GITHUB + "OpenSecretCloud/maple-proxy/pull/47",
        sse(*HELLO) + compact({"error": error(429, "rate_limit")}).encode() + b"\n\n",
        broken(code="provider_rate_limited", status=429)),
    Row("error: a line without data, a text, as Ollama", GITHUB + "chatboxai/chatbox/issues/2114",
        sse(*HELLO) + compact({"error": f"an error was encountered while running the model: {SECRET}"}).encode()
        + b"\n", broken()),
    Row("error: lines without data, as Gemini", GITHUB + "vercel/ai/issues/5217",
        sse(*HELLO) + b'{\n  "error": {\n    "code": 503,\n    "message": "' + SECRET.encode()
        + b'",\n    "status": "UNAVAILABLE"\n  }\n}\n', broken(status=503)),
    Row("error: before any text, and then a finish", GITHUB + "diegosouzapw/OmniRoute/pull/8210",
        sse(compact({"error": error(503, "overloaded")}), STOP, DONE), Failure(status=503)),
    Row("error: after the finish, where only the usage is missing", GITHUB + "vllm-project/vllm/issues/22341",
        sse(*HELLO, STOP, compact({"error": error(500, "server_error")}), DONE), BOTH),
]  # fmt: skip


def answers(name: str, source: str, body: object, content_type: str = "application/json", **fields: Any) -> Row:
    """A row for a whole body with status 200 that is no answer."""
    text = body if isinstance(body, str) else compact(body)
    return Row(f"200: {name}", source, text.encode(), Failure(**fields), content_type=content_type)


BODIES = [
    answers("an error", OPENROUTER_ERRORS, {"error": {"code": 502, "message": SECRET}}, status=502),
    answers("rate limited", OPENROUTER_ERRORS, {"error": {"code": 429, "message": SECRET}},
            code="provider_rate_limited", status=429),
    answers("a wrong key", OPENROUTER_ERRORS, {"error": {"code": 401, "message": SECRET}}, retryable=False, status=401),
    answers("an unknown model, as new-api", GITHUB + "QuantumNous/new-api",
            {"error": error("model_not_found", "new_api_error")}, retryable=False),
    answers("refused", "https://learn.microsoft.com/en-us/azure/ai-foundry/openai/concepts/content-filter",
            {"error": error("content_filter", None)}, code="provider_refused", retryable=False),
    answers("an unknown path, as LM Studio", GITHUB + "lmstudio-ai/lmstudio-bug-tracker/issues/1879",
            {"error": "Unexpected endpoint or method. (POST /chat/completions)"}, retryable=ANY),
    answers("base_resp, as MiniMax", GITHUB + "infiniflow/ragflow/pull/17292",
            {"base_resp": {"status_code": 1002, "status_msg": SECRET}}, code=LIMITED),
    answers("base_resp, a wrong key, as MiniMax", GITHUB + "ENTERPILOT/GoModel/pull/640",
            {"id": "", "choices": None, "base_resp": {"status_code": 1004, "status_msg": SECRET}}, retryable=False),
    answers("errors, as Cloudflare", GITHUB + "anomalyco/opencode/issues/18552",
            {"result": None, "success": False, "errors": [{"code": 7003, "message": SECRET}], "messages": []},
            retryable=ANY),
    answers("detail", "https://fastapi.tiangolo.com/tutorial/handling-errors/", {"detail": SECRET}, retryable=ANY),
    answers("code and message", GITHUB + "zhengxs2018/ai/pull/13", {"code": 401, "message": SECRET, "data": None},
            retryable=False, status=401),
    answers("an error over many lines", "https://ai.google.dev/gemini-api/docs/troubleshooting",
            '{\n  "error": {\n    "code": 503,\n    "message": "x",\n    "status": "UNAVAILABLE"\n  }\n}\n',
                status=503),
    answers("an error that says it were a stream", OPENROUTER_ERRORS, {"error": {"code": 429, "message": SECRET}},
            "text/event-stream", code="provider_rate_limited", status=429),
    answers("JSON that is no answer", GITHUB + "InternLM/MindSearch/issues/310", {"hello": "world"}, retryable=ANY,
            code=one_of("provider_error", "truncated")),
    answers("HTML", GITHUB + "Jazee6/cloudflare-ai-web/issues/49",
            "<!doctype html>\n<html><head><title>Welcome</title></head><body>" + SECRET + "</body></html>\n",
            "text/html; charset=utf-8", retryable=False, misconfigured=True),
    answers("HTML that says it were a stream", GITHUB + "Jazee6/cloudflare-ai-web/issues/49",
            "<!DOCTYPE html>\r\n<html>\r\n<body>Sign in</body></html>", retryable=ANY, content_type="text/event-stream",
            code=one_of("provider_error", "truncated")),
    answers("a sentence", GITHUB + "huggingface/chat-ui/issues/430", "Ollama is running", "text/plain", retryable=ANY,
            code=one_of("provider_error", "truncated")),
    Row("429 with a list, as Gemini", "https://ai.google.dev/gemini-api/docs/troubleshooting",
        compact([{"error": {"code": 429, "message": SECRET, "status": "RESOURCE_EXHAUSTED"}}]).encode(),
        Failure("provider_rate_limited", status=429), status=429, content_type="application/json"),
    Row("400 with a list, as Gemini", "https://ai.google.dev/gemini-api/docs/troubleshooting",
        compact([{"error": {"code": 400, "message": f"API key not valid: {SECRET}",
            "status": "INVALID_ARGUMENT"}}]).encode(),
        Failure(retryable=False, status=400), status=400, content_type="application/json"),
    Row("503 in a stream", GITHUB + "diegosouzapw/OmniRoute/pull/8210",
        sse(compact({"error": error(503, "overloaded")})), Failure(status=503), status=503),
]  # fmt: skip


def call(index: int | None, call_id: str | None, name: str | None, arguments: object) -> dict[str, Any]:
    """A piece of a tool call, without the fields that are None."""
    function = {"name": name, "arguments": arguments}
    fields = {"index": index, "id": call_id, "type": "function" if call_id else None}
    kept = {field: value for field, value in fields.items() if value is not None}
    return {**kept, "function": {field: value for field, value in function.items() if value is not None}}


def calls(*pieces: dict[str, Any] | list[dict[str, Any]], finish: str = "tool_calls", before: str = "") -> bytes:
    """Each piece in a chunk of its own."""
    deltas = [chunk({"tool_calls": piece if isinstance(piece, list) else [piece]}) for piece in pieces]
    return sse(*([says(before)] if before else []), *deltas, chunk({}, finish), DONE)


def called(*calls: tuple[str, dict[str, Any]], text: str = "", finish: Any = "other", data: Any = None) -> Answer:
    return Answer(text, finish, data=list(calls) if data is None else data)


NESTED = '{"a":' * 400 + "9" * 40 + "}" * 400
PARIS, OSLO = {"city": "Paris"}, {"city": "Oslo"}
WEATHER = '{"city":"Paris"}'

TOOLS = [
    Row("a tool call in pieces, as OpenAI", OPENAI_STREAMING,
        calls(call(0, "t1", "weather", ""), call(0, None, None, '{"ci'), call(0, None, None, 'ty":"Paris"}'),
            before="Hm."),
        Answer("Hm.", "other", data=[tool_call("weather", PARIS, "t1")], order=("Hm.", "tool_call"))),
    Row("a tool call in one piece, as llama.cpp and Mistral", GITHUB + "theroyallab/tabbyAPI/issues/460",
        calls(call(0, "t1", "weather", WEATHER)), called(tool_call("weather", PARIS, "t1"))),
    Row("a tool call with the finish, as Mistral", GITHUB + "vllm-project/vllm/issues/10589",
        sse(chunk({"content": "", "tool_calls": [call(0, "t1", "weather", WEATHER)]}, "tool_calls"), DONE),
        called(tool_call("weather", PARIS, "t1"))),
    Row("a tool call without an index, as Gemini", GITHUB + "openai/openai-python/issues/2806",
        calls({**call(None, "t1", "weather", WEATHER), "extra_content": {"google": {"thought_signature": "x"}}},
              finish="stop"), called(tool_call("weather", PARIS, "t1"), finish="stop")),
    Row("a tool call in pieces without an index, as Gemini", GITHUB + "open-webui/computer/issues/224",
        calls(call(None, "t1", "weather", '{"city":'), call(None, None, None, '"Paris"}'), finish="stop"),
        called(tool_call("weather", PARIS, "t1"), finish="stop")),
    Row("two calls without an index", GITHUB + "SamSaffron/term-llm/pull/314",
        calls(call(None, "t1", "weather", WEATHER), call(None, "t2", "weather", '{"city":"Oslo"}')),
        called(tool_call("weather", PARIS, "t1"), tool_call("weather", OSLO, "t2"))),
    Row("two calls without an index in one chunk", GITHUB + "SamSaffron/term-llm/pull/314",
        calls([call(None, "t1", "weather", WEATHER), call(None, "t2", "weather", '{"city":"Oslo"}')]),
        called(tool_call("weather", PARIS, "t1"), tool_call("weather", OSLO, "t2"))),
    Row("a tool call without an id", GITHUB + "BerriAI/litellm/issues/15133",
        calls(call(0, None, "weather", '{"city":'), call(0, None, None, '"Paris"}')), called(tool_call("weather",
            PARIS))),
    Row("a tool call with a null id in the later pieces", GITHUB + "ogx-ai/ogx/pull/5462",
        calls({**call(0, "t1", "weather", None), "function": {"name": "weather", "arguments": None}},
              {"index": 0, "id": None, "type": None, "function": {"name": None, "arguments": WEATHER}}),
        called(tool_call("weather", PARIS, "t1"))),
    Row("a tool call with an empty id and name in the later pieces, as LM Studio",
        GITHUB + "lmstudio-ai/lmstudio-bug-tracker/issues/649",
        calls(call(0, "t1", "weather", '{"city":'),
              {"index": 0, "id": "", "function": {"name": "", "arguments": '"Paris"}'}}),
        called(tool_call("weather", PARIS, "t1"))),
    Row("id and name in every piece", GITHUB + "lmstudio-ai/lmstudio-bug-tracker/issues/649",
        calls(call(0, "t1", "weather", '{"city":'), call(0, "t1", "weather", '"Paris"}')),
        called(tool_call("weather", PARIS, "t1"))),
    Row("two calls in turn", OPENAI_STREAMING,
        calls(call(0, "t1", "weather", WEATHER), call(1, "t2", "weather", '{"city":'), call(1, None, None, '"Oslo"}')),
        called(tool_call("weather", PARIS, "t1"), tool_call("weather", OSLO, "t2"))),
    Row("two calls at once", GITHUB + "ai-dynamo/dynamo/pull/4723",
        calls([call(0, "t1", "weather", '{"city":'), call(1, "t2", "weather", '{"city":')],
              call(1, None, None, '"Oslo"}'), call(0, None, None, '"Paris"}')),
        called(tool_call("weather", PARIS, "t1"), tool_call("weather", OSLO, "t2"))),
    Row("two calls with the same index, as Ollama", GITHUB + "ollama/ollama/issues/15457",
        calls(call(0, "t1", "weather", WEATHER), call(0, "t2", "weather", '{"city":"Oslo"}')),
        called(tool_call("weather", PARIS, "t1"), tool_call("weather", OSLO, "t2"))),
    Row("arguments as an object, as MiniMax", GITHUB + "can1357/oh-my-pi/pull/1779",
        calls(call(0, "t1", "weather", PARIS)), called(tool_call("weather", PARIS, "t1"))),
    Row("arguments that do not parse", GITHUB + "huggingface/smolagents/pull/1958",
        calls(call(0, "t1", "weather", '{"city":'), finish="length"),
        called(tool_call("weather", '{"city":', "t1"), finish="length")),
    Row("no arguments", GITHUB + "ogx-ai/ogx/pull/5462", calls(call(0, "t1", "now", "")),
        called(tool_call("now", one_of("", {}, None), "t1"))),
    Row("the old function_call", "https://developers.openai.com/api/docs/deprecations",
        sse(chunk({"function_call": {"name": "weather", "arguments": ""}}),
            chunk({"function_call": {"arguments": WEATHER}}), chunk({}, "function_call"), DONE),
        called(tool_call("weather", PARIS))),
    Row("an empty function_call in the last chunk", GITHUB + "CangShui/workbuddy-gateway/pull/3",
        sse(*HELLO, chunk({"function_call": {"name": "", "arguments": ""}}, "stop"), DONE), BOTH),
    Row("text after a tool call", GITHUB + "vllm-project/vllm/issues/10589",
        sse(says("A"), chunk({"tool_calls": [call(0, "t1", "weather", WEATHER)]}), says("B"), STOP, DONE),
        Answer("AB", data=[tool_call("weather", PARIS, "t1")], order=("A", "tool_call", "B"))),
    Row("cut amid a tool call", GITHUB + "justrach/codegraff/issues/132",
        sse(*HELLO, chunk({"tool_calls": [call(0, "t1", "weather", '{"city":')]})), broken(code="truncated"),
            end="cut"),
    Row("tool calls that nobody can read", GITHUB + "betalgo/openai/issues/408",
        sse(chunk({"content": "Hé", "tool_calls": "x"}), chunk({"content": "llo ", "tool_calls": [5, None, {}, [],
            {"index": "a", "id": 7, "function": 3}]}), says("🌍"), STOP, DONE), Answer(SAID, data=ANY)),
    Row("arguments that nest deep", JSON_STANDARD, calls(call(0, "t1", "f", NESTED)), called(data=ANY)),
    Row("arguments with a number beyond every number", JSON_STANDARD,
        calls(call(0, "t1", "f", '{"a":' + "9" * 40 + ',"b":1e999,"c":-1e999}')), called(data=ANY)),
    Row("arguments with half a surrogate pair", GITHUB + "davisp/jiffy/issues/145",
        calls(call(0, "t1", "f", '{"a":"@"}')).replace(b"@", rb"\\ud83c"), called(data=ANY)),
    Row("a name with half a surrogate pair", GITHUB + "davisp/jiffy/issues/145",
        calls(call(0, "t1", "@", WEATHER)).replace(b"@", rb"\ud83c"), called(data=ANY)),
    Row("an index beyond every number", JSON_STANDARD,
        calls(call(0, "t1", "weather", WEATHER)).replace(b'{"index":0,"id"', b'{"index":1e308,"id"', 1),
        called(tool_call("weather", PARIS, "t1"))),
    Row("arguments that are larger than a data event", JSON_STANDARD,
        sse(*HELLO, *(chunk({"tool_calls": [call(0, None if n else "t1", None if n else "f", "x" * 10_000)]})
                      for n in range(14)), STOP, DONE), BOTH),
]  # fmt: skip

URL_1 = {"type": "url_citation", "url_citation": {"url": "https://a.example", "title": "A", "start_index": 0,
                                                 "end_index": 2}}  # fmt: skip
URL_2 = {"type": "url_citation", "url_citation": {"url": "https://b.example", "title": "B", "start_index": 2,
                                                 "end_index": 6}}  # fmt: skip
CITED_1 = citation(type="url_citation", url="https://a.example", title="A", start_index=0, end_index=2)
CITED_2 = citation(type="url_citation", url="https://b.example", title="B", start_index=2, end_index=6)

CITATIONS = [
    Row("annotations in the delta, as OpenAI", GITHUB + "openai/openai-agents-python/pull/4252",
        sse(*HELLO, chunk({"annotations": [URL_1, URL_2]}), STOP, DONE), Answer(SAID, data=[CITED_1, CITED_2])),
    Row("annotations where they stand", GITHUB + "openai/openai-agents-python/pull/4252",
        sse(chunk({"content": "A", "annotations": [URL_1]}), says("B"), chunk({"annotations": [URL_2]}, "stop"), DONE),
        Answer("AB", data=[CITED_1, CITED_2], order=("A", "citation", "B", "citation"))),
    Row("annotations once more in the end", GITHUB + "openai/openai-agents-js/pull/1617",
        sse(chunk({"content": "Hé", "annotations": [URL_1]}), chunk({"content": "llo 🌍", "annotations": [URL_2]}),
            chunk({"annotations": [URL_1, URL_2]}, "stop"), DONE), Answer(SAID, data=[CITED_1, CITED_2])),
    Row("annotations in the choice", GITHUB + "BerriAI/litellm/pull/23662",
        sse(*HELLO, chunk({}, "stop", {"annotations": [URL_1]}), DONE), Answer(SAID, data=[CITED_1])),
    Row("null and empty annotations", GITHUB + "BerriAI/litellm/pull/23662",
        sse(chunk({"content": "Hé", "annotations": None}), chunk({"content": "llo 🌍", "annotations": []}), STOP, DONE),
        BOTH),
    Row("citations of the whole chunk, as Perplexity", GITHUB + "langchain-ai/langchain/pull/38070",
        sse(*(says(text, citations=["https://a.example", "https://b.example"]) for text in ("Hé", "llo 🌍")),
            chunk({}, "stop", citations=["https://a.example", "https://b.example"])),
        Answer(SAID, data=[citation(url="https://a.example"), citation(url="https://b.example")])),
    Row("citations that grow, as xAI", "https://docs.x.ai/docs/guides/live-search",
        sse(says("Hé", citations=["https://a.example"]),
            says("llo 🌍", citations=["https://a.example", "https://b.example"]), STOP, DONE),
        Answer(SAID, data=[citation(url="https://a.example"), citation(url="https://b.example")])),
    Row("citations that nobody can read", GITHUB + "BerriAI/litellm/issues/9358",
        sse(says("Hé", citations=[5, None, []]), chunk({"content": "llo 🌍", "annotations": [7, "x"]}, citations="x"),
            STOP, DONE), Answer(SAID, data=ANY)),
    Row("a citation that nests deep", JSON_STANDARD,
        sse(*HELLO, chunk({"annotations": ["DEEP"]}).replace('"DEEP"', NESTED), STOP, DONE), Answer(SAID, data=ANY)),
    Row("a citation with half a surrogate pair", GITHUB + "davisp/jiffy/issues/145",
        sse(*HELLO, chunk({"annotations": [{"type": "url_citation", "url_citation": {"url": "https://a.example",
            "title": "@"}}]}).replace("@", r"\ud83c"), STOP, DONE), Answer(SAID, data=ANY)),
    Row("a citation that is larger than a data event", GITHUB + "maximhq/bifrost/pull/2656",
        sse(*HELLO, chunk({"annotations": [{"type": "url_citation", "url_citation": {"url": "https://a.example",
            "content": "x" * 140_000}}]}), STOP, DONE), BOTH),
]  # fmt: skip

DEEP = "[" * 100_000 + "]" * 100_000

HOSTILE = [
    Row("JSON that nests without end, where nobody reads it", JSON_STANDARD,
        sse(*HELLO, '{"choices":[],"x":DEEP}'.replace("DEEP", DEEP), STOP, DONE), (broken(), BOTH)),
    Row("JSON that nests without end in the text", JSON_STANDARD,
        sse(*HELLO, chunk({"content": "DEEP"}).replace('"DEEP"', DEEP), STOP, DONE), (broken(), BOTH)),
    Row("JSON that nests without end in a tool call", JSON_STANDARD,
        sse(*HELLO, chunk({"tool_calls": [call(0, "t1", "f", "DEEP")]}).replace('DEEP', DEEP), STOP, DONE),
        (Answer(SAID, data=ANY), broken(data=ANY))),
    Row("bytes that are no UTF-8", STANDARD,
        sse(HELLO[0], says("a@b").encode().replace(b"@", b"\xff"), STOP, DONE),
        (Answer("Héa�b"), Failure(text="Hé"))),
    Row("bytes that are no UTF-8 in a comment", STANDARD, b": \xff\xfe\n\n" + ended(), BOTH),
    Row("a character that stops half-way", STANDARD,
        sse(HELLO[0], says("a@").encode().replace(b"@", b"\xf0\x9f\x8c"), STOP, DONE),
        (Answer("Héa�"), Failure(text="Hé"))),
    Row("a raw NUL", JSON_STANDARD, sse(HELLO[0], says("a@b").encode().replace(b"@", b"\0"), STOP, DONE),
        (Answer("Héa\0b"), Answer("Héa�b"), Failure(text="Hé"))),
    Row("a field that is said twice", JSON_STANDARD,
        sse(HELLO[0], HELLO[1].replace('"object"', '"object":"x","object"'), STOP, DONE), BOTH),
    Row("JSON, but null", JSON_STANDARD, sse(*HELLO, "null", STOP, DONE),
        (BOTH, broken(code=one_of("provider_error", "truncated")))),
    Row("JSON, but a list", JSON_STANDARD, sse(*HELLO, "[1]", STOP, DONE), (BOTH, broken())),
    Row("a choice that is a number", GITHUB + "betalgo/openai/issues/408", sse(*HELLO, '{"choices":[5]}', STOP, DONE),
        (BOTH, broken())),
    Row("content that is a number", GITHUB + "betalgo/openai/issues/408", sse(*HELLO, chunk({"content": 5}), STOP,
        DONE),
        (broken(), Answer(SAID + "5"))),
    Row("NaN, as Python prints it", GITHUB + "sgl-project/sglang/issues/3912",
        sse(HELLO[0], HELLO[1].replace('"model":"m"', '"logprob":NaN'), STOP, DONE), (BOTH, Failure(text="Hé"))),
]  # fmt: skip

OPENAI = [
    *PLAIN, *FRAMING, *CHOICES, *CONTENT, *WHOLE, *REASONING, *FINISHES, *USAGE, *ERRORS, *BODIES, *TOOLS, *CITATIONS,
    *HOSTILE,
]  # fmt: skip
