"""What servers that speak Anthropic's Messages API really send, and what must come of it."""

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
    one_of,
    sse,
    tool_call,
    usage,
)

GITHUB = "https://github.com/"
STREAMING = "https://platform.claude.com/docs/en/build-with-claude/streaming"
STOPPING = "https://platform.claude.com/docs/en/build-with-claude/handling-stop-reasons"
STANDARD = "https://html.spec.whatwg.org/multipage/server-sent-events.html"
JSON_STANDARD = "https://www.rfc-editor.org/rfc/rfc8259"
SDK = GITHUB + "anthropics/anthropic-sdk-python/blob/main/src/anthropic/lib/streaming/_messages.py"

SAID = "Héllo 🌍"
BOTH = Answer(SAID, usage=usage(3, 7))

Event = dict[str, Any]


def events(*bodies: Event | str, eol: str = "\n", spaced: bool = False) -> bytes:
    """Each with its type as the event's name; a text has none. `spaced`: blanks in the JSON."""
    out = b""
    for body in bodies:
        text = body if isinstance(body, str) else compact(body)
        name = "" if isinstance(body, str) else str(body.get("type", ""))
        out += sse(text.replace(':"', ': "') if spaced else text, eol=eol, name=name)
    return out


def edited(event: Event, old: str, new: str) -> bytes:
    """The event with this text of its JSON replaced."""
    return sse(compact(event).replace(old, new), name=event["type"])


def unnamed(*bodies: Event | str, eol: str = "\n") -> bytes:
    """Without lines of `event:`."""
    return sse(*(body if isinstance(body, str) else compact(body) for body in bodies), eol=eol)


def start(**counted: Any) -> Event:
    message: Event = {
        "id": "m1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "stop_reason": None,
    }
    return {"type": "message_start", "message": {**message, "usage": counted}}


def block(kind: str, index: int = 0, **fields: Any) -> Event:
    return {"type": "content_block_start", "index": index, "content_block": {"type": kind, **fields}}


def delta(kind: str, index: int = 0, **fields: Any) -> Event:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **fields}}


def closed(index: int = 0) -> Event:
    return {"type": "content_block_stop", "index": index}


def says(text: str, index: int = 0) -> Event:
    return delta("text_delta", index, text=text)


def stops(reason: object = "end_turn", counted: object = None, **fields: Any) -> Event:
    made = {"output_tokens": 7} if counted is None else counted
    return {"type": "message_delta", "delta": {"stop_reason": reason, "stop_sequence": None}, "usage": made, **fields}


START = start(input_tokens=3, output_tokens=1)
PING: Event = {"type": "ping"}
END: Event = {"type": "message_stop"}
TEXT = [block("text", text=""), says("Hé"), says("llo 🌍"), closed()]


def told(*bodies: Event | str, after: list[Event] | None = None) -> bytes:
    """Said, then these, and a good end."""
    return events(START, *TEXT, *bodies, *([stops(), END] if after is None else after))


def failure(**fields: Any) -> Failure:
    return Failure(text=SAID, **fields)


def broken(**fields: Any) -> Failure:
    return failure(code="truncated", **fields)


FRAMING = [
    Row("as Anthropic itself", STREAMING, events(START, PING, *TEXT, stops(), END), BOTH),
    Row("with blanks in the JSON, as Anthropic itself", STREAMING, events(START, *TEXT, stops(), END, spaced=True),
        BOTH),
    Row("no lines of event:", GITHUB + "earendil-works/pi/issues/4381", unnamed(START, PING, *TEXT, stops(), END),
        BOTH),
    Row("event: and data: apart", GITHUB + "earendil-works/pi/issues/8430",
        b"".join(f"event: {one['type']}\n\n".encode() + unnamed(one) for one in (START, *TEXT, stops(), END)), BOTH),
    Row("events without data", GITHUB + "NousResearch/hermes-agent/pull/35418",
        events(START) + b"event: content_block_delta\n\n" + events(*TEXT) + b"event: content_block_stop\ndata:\n\n"
        + events(stops(), END), BOTH),
    Row("no space after the colon", GITHUB + "SamSaffron/term-llm/pull/487",
        told().replace(b"data: ", b"data:").replace(b"event: ", b"event:"), BOTH),
    Row("CRLF", STANDARD, events(START, *TEXT, stops(), END, eol="\r\n"), BOTH),
    Row("CR", STANDARD, events(START, *TEXT, stops(), END, eol="\r"), BOTH),
    Row("a byte order mark", STANDARD, b"\xef\xbb\xbf" + told(), BOTH),
    Row("comments", STANDARD, b": keep-alive\n\n" + told() + b":\n\n", BOTH),
    Row("comments between events with an id", GITHUB + "theopenco/llmgateway/pull/2334",
        b"".join(b"id: %d\n" % number + events(one) + b": ping\n\n"
                 for number, one in enumerate([START, *TEXT, stops(), END])), BOTH),
    Row("a stream that says it were JSON", GITHUB + "openclaw/openclaw/pull/97454", told(), BOTH,
        content_type="application/json"),
    Row("a stream that says it were text", GITHUB + "Wei-Shaw/sub2api/issues/2826", unnamed(START, *TEXT, stops(), END),
        BOTH, content_type="text/plain"),
    Row("[DONE] in the end", GITHUB + "ranxianglei/billion-context/issues/549", told() + sse("[DONE]"), BOTH),
    Row("[DONE] and no finish", GITHUB + "ranxianglei/billion-context/issues/549",
        events(START, *TEXT) + sse("[DONE]"), broken()),
    Row("no blank line after the last event", GITHUB + "openai/openai-node/issues/2725",
        events(START, *TEXT, stops())[:-1], BOTH),
    Row("no line break after the last event", GITHUB + "openai/openai-node/issues/2725",
        events(START, *TEXT, stops())[:-2], BOTH),
    Row("JSON over several lines of data", GITHUB + "SamSaffron/term-llm/pull/456",
        b"".join(f"event: {one['type']}\ndata: ".encode() + compact(one).replace(",", ",\ndata: ").encode() + b"\n\n"
                 for one in (START, *TEXT, stops(), END)), BOTH),
    Row("the name of the event is another one", GITHUB + "seifghazi/claude-code-proxy/pull/32",
        sse(*(compact(one) for one in (START, *TEXT, stops(), END)), name="message"), BOTH),
    Row("a surrogate pair in two deltas", GITHUB + "elie222/rakazo/issues/416",
        events(START, block("text", text="")) + edited(says("H@"), "@", r"\u00e9llo \ud83c")
        + edited(says("@"), "@", r"\udf0d") + events(closed(), stops(), END), BOTH),
]  # fmt: skip

FINISHES = [
    *(Row(f"stop_reason {reason}", source, events(START, *TEXT, stops(reason), END),
          Answer(SAID, finish, usage(3, 7)))
      for reason, finish, source in (
          ("max_tokens", "length", STOPPING),
          ("stop_sequence", "stop", STOPPING),
          ("refusal", "filter", STOPPING),
          ("pause_turn", "other", STOPPING),
          ("model_context_window_exceeded", "length", STOPPING),
          ("tool_use", "other", STOPPING),
          ("something new", "other", STOPPING),
          ("stop", one_of("stop", "other"), GITHUB + "CangShui/workbuddy-gateway/pull/3"),
      )),
    Row("no stop_sequence, as vLLM", GITHUB + "vllm-project/vllm/issues/55324",
        told(after=[{**stops(), "delta": {"stop_reason": "end_turn"}}, END]), BOTH),
    Row("stop_reason error", GITHUB + "Portkey-AI/gateway/pull/741",
        told(after=[stops("error"), END]), Failure(text=SAID)),
    Row("a refusal without text", GITHUB + "BerriAI/litellm/pull/40864",
        events(start(input_tokens=0, output_tokens=0), block("text", text=""), closed(),
               stops("refusal", {"input_tokens": 19, "output_tokens": 0}), END), Answer("", "filter", usage(19, 0))),
    Row("a refusal with details", GITHUB + "anthropics/anthropic-sdk-python/pull/1469",
        events(START, *TEXT, {**stops("refusal"), "delta": {"stop_reason": "refusal", "stop_details":
               {"type": "refusal", "category": "cyber", "explanation": None}}}, END), Answer(SAID, "filter", usage(3,
                   7))),
    Row("no message_stop", GITHUB + "esengine/DeepSeek-Reasonix/pull/8756", told(after=[stops()]), BOTH),
    Row("no message_stop, but pings", GITHUB + "tombii/better-ccflare/pull/307", told(after=[stops(), PING, PING]),
        BOTH),
    Row("message_stop and no stop_reason", GITHUB + "Wei-Shaw/sub2api/issues/4141",
        told(after=[stops(None), END]), Answer(SAID, "other", usage(3, 7))),
    Row("message_stop and no message_delta", GITHUB + "Wei-Shaw/sub2api/issues/4141",
        told(after=[END]), Answer(SAID, "other", one_of(None, usage(3, 1)))),
    Row("a later message_delta without a stop_reason", GITHUB + "anthropics/anthropic-sdk-python/issues/1940",
        told(after=[stops("max_tokens"), {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 7}}, END]),
        Answer(SAID, "length", usage(3, 7))),
    Row("a later message_delta without usage", GITHUB + "use-agent-os/agent-os/pull/1854",
        told(after=[stops(), {"type": "message_delta", "delta": {"stop_reason": None}}, END]), BOTH),
    Row("an empty stop_reason first", GITHUB + "CangShui/workbuddy-gateway/pull/3",
        events(START, stops(""), *TEXT, stops(), END), BOTH),
    Row("a stop_reason, then text, then message_stop", GITHUB + "BerriAI/litellm/pull/27139",
        events(START, stops(), *TEXT, END), Answer(SAID, one_of("stop", "other"), usage(3, 7))),
    Row("a stop_reason, then text, then another", GITHUB + "BerriAI/litellm/pull/27139",
        events(START, stops(), *TEXT, stops("max_tokens"), END), Answer(SAID, "length", usage(3, 7))),
    Row("a stop_reason, then text, then cut", GITHUB + "BerriAI/litellm/pull/27139",
        events(START, stops(), *TEXT), broken(), end="cut"),
    Row("cut where only message_stop is missing", GITHUB + "charmbracelet/fantasy/pull/245",
        told(after=[stops()]), BOTH, end="cut"),
    Row("cut amid message_stop", GITHUB + "charmbracelet/fantasy/pull/245", told()[:-10], BOTH, end="cut"),
    Row("cut amid the text", GITHUB + "charmbracelet/fantasy/pull/245", events(START, *TEXT), broken(), end="cut"),
    Row("cut amid the stop_reason", GITHUB + "charmbracelet/fantasy/pull/245",
        told(after=[stops()])[:-40], broken(), end="cut"),
    Row("reset amid the text", GITHUB + "charmbracelet/fantasy/pull/245", events(START, *TEXT), broken(), end="reset"),
    Row("closed amid the text", GITHUB + "charmbracelet/fantasy/pull/245", events(START, *TEXT[:3]), broken()),
    Row("closed with every block closed", GITHUB + "charmbracelet/fantasy/pull/245", events(START, *TEXT), broken()),
    Row("nothing at all", GITHUB + "earendil-works/pi/issues/1983", b"",
        Failure(one_of("truncated", "provider_error"))),
    Row("pings only", GITHUB + "tombii/better-ccflare/pull/307", events(START, PING, PING), Failure("truncated")),
]  # fmt: skip


def counted(name: str, source: str, first: dict[str, Any], last: object, expected: Any) -> Row:
    return Row(f"usage {name}", source, events(start(**first), *TEXT, stops("end_turn", last), END),
               Answer(SAID, usage=expected))  # fmt: skip


USAGE = [
    counted("in the end only, as LiteLLM", GITHUB + "langchain-ai/langchainjs/pull/11195",
            {"input_tokens": 0, "output_tokens": 0}, {"input_tokens": 3, "output_tokens": 7}, usage(3, 7)),
    counted("in the end only, with the cache", GITHUB + "langchain-ai/langchainjs/pull/11195",
            {"input_tokens": 0, "output_tokens": 0, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0},
            {"input_tokens": 3, "output_tokens": 7, "cache_creation_input_tokens": 10, "cache_read_input_tokens": 100},
            usage(113, 7)),
    counted("with the cache, as Anthropic itself", SDK,
            {"input_tokens": 3, "cache_creation_input_tokens": 10, "cache_read_input_tokens": 100, "output_tokens": 1},
            {"output_tokens": 7}, usage(113, 7)),
    counted("with the cache, twice, as Anthropic itself", SDK,
            {"input_tokens": 3, "cache_creation_input_tokens": 10, "cache_read_input_tokens": 100, "output_tokens": 1},
            {"input_tokens": 3, "cache_creation_input_tokens": 10, "cache_read_input_tokens": 100, "output_tokens": 7},
            usage(113, 7)),
    counted("that grows by a server tool", SDK, {"input_tokens": 3, "output_tokens": 1},
            {"input_tokens": 500, "output_tokens": 7, "server_tool_use": {"web_search_requests": 1}}, usage(500, 7)),
    counted("with null", GITHUB + "use-agent-os/agent-os/pull/1854",
            {"input_tokens": 3, "cache_read_input_tokens": None, "output_tokens": 1},
            {"input_tokens": None, "output_tokens": 7, "cache_read_input_tokens": None}, usage(3, 7)),
    counted("as strings", GITHUB + "BerriAI/litellm/issues/28024", {"input_tokens": "3", "output_tokens": "1"},
            {"output_tokens": "7"}, usage(3, 7)),
    counted("as floats", GITHUB + "BerriAI/litellm/issues/28024", {"input_tokens": 3.0, "output_tokens": 1.0},
            {"output_tokens": 7.0}, usage(3, 7)),
    counted("beyond every number", JSON_STANDARD, {"input_tokens": 1e308}, {"output_tokens": 10**400}, None),
    counted("that is negative", JSON_STANDARD, {"input_tokens": -1}, {"output_tokens": 7}, None),
    counted("that is a text", JSON_STANDARD, {}, "none", None),
    counted("that is a list", JSON_STANDARD, {}, [1], None),
    Row("no usage in message_start", GITHUB + "envoyproxy/ai-gateway/pull/2239",
        events({"type": "message_start", "message": {"id": "m1"}}, *TEXT, stops(), END), Answer(SAID)),
    Row("a null usage in message_start", GITHUB + "envoyproxy/ai-gateway/pull/2239",
        events({"type": "message_start", "message": {"id": "m1", "usage": None, "model": None}}, *TEXT,
               stops("end_turn", {"input_tokens": 3, "output_tokens": 7}), END), BOTH),
    Row("usage in several message_delta", GITHUB + "langchain-ai/langchainjs/pull/11195",
        told(after=[stops(None, {"input_tokens": 3, "output_tokens": 2}), stops("end_turn", {"output_tokens": 7}),
            END]),
        BOTH),
    Row("metrics of Bedrock in message_stop",
        "https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-anthropic-claude-messages.html",
        told(after=[stops(), {**END, "amazon-bedrock-invocationMetrics": {"inputTokenCount": 9,
            "outputTokenCount": 9}}]),
        BOTH),
]  # fmt: skip

BLOCKS = [
    Row("no message_start", GITHUB + "seifghazi/claude-code-proxy/pull/32",
        events(*TEXT, stops("end_turn", {"input_tokens": 3, "output_tokens": 7}), END), BOTH),
    Row("no content_block_start", GITHUB + "luohy15/y-router/pull/22", events(START, *TEXT[1:3], stops(), END), BOTH),
    Row("text in content_block_start", GITHUB + "luohy15/y-router/pull/22",
        events(START, block("text", text="Hé"), says("llo 🌍"), closed(), stops(), END), BOTH),
    Row("two blocks of text", STREAMING,
        events(START, block("text", text=""), says("Hé"), closed(), block("text", 1, text=""), says("llo 🌍", 1),
               closed(1), stops(), END), BOTH),
    Row("an index that is no number", GITHUB + "mlx-node/mlx-node/pull/45",
        events(START, {**TEXT[0], "index": None}, {**TEXT[1], "index": "0"}, {**TEXT[2], "index": 1e308}, stops(), END),
        BOTH),
    Row("thinking", STREAMING,
        events(START, block("thinking", thinking="", signature=""), delta("thinking_delta", thinking="hm"),
               delta("thinking_delta", thinking=" …"), delta("signature_delta", signature="Zm9v"), closed(),
               block("text", 1, text=""), says(SAID, 1), closed(1), stops(), END),
        Answer(SAID, reasoning="hm …", usage=usage(3, 7))),
    Row("thinking that is redacted", "https://platform.claude.com/docs/en/build-with-claude/extended-thinking",
        events(START, block("redacted_thinking", data="Zm9v"), closed(), *TEXT, stops(), END), BOTH),
    Row("thinking that nobody can read", GITHUB + "luohy15/y-router/pull/22",
        told(block("thinking", 1, thinking=5), delta("thinking_delta", 1, thinking=["x"]),
             delta("thinking_delta", 1, thinking=None), delta("thinking_delta", 1), closed(1)), BOTH),
    Row("unknown events", STREAMING, told({"type": "usage_update", "x": 1}, {"type": "vendor.note", "text": "no"}),
        BOTH),
    Row("unknown blocks", STREAMING,
        told(block("container_upload", 1, file_id="f"), delta("upload_delta", 1, bytes="x"), closed(1)), BOTH),
    Row("unknown deltas in a block of text", STREAMING,
        told(block("text", 1, text=""), delta("emphasis_delta", 1, weight=2), closed(1)), BOTH),
    Row("an event without a type, but with a name", GITHUB + "earendil-works/pi/issues/1993",
        events(START, *TEXT) + b"event: ping\ndata: {}\n\n" + events(stops(), END), BOTH),
    Row("text that is no text", JSON_STANDARD, events(START, *TEXT, delta("text_delta", text=5), stops(), END),
        (failure(), Answer(SAID + "5", usage=usage(3, 7)))),
    Row("a null text", JSON_STANDARD, events(START, block("text", text=None), *TEXT[1:], stops(), END), BOTH),
    Row("fields that are of another type", JSON_STANDARD,
        events({"type": "message_start", "message": {"id": 5, "model": [], "content": "x",
            "usage": {"input_tokens": 3}}},
               *TEXT, stops(), END), BOTH),
    Row("numbers of any size where none is needed", JSON_STANDARD,
        events(START, TEXT[0]) + edited(TEXT[1], '"index":0', '"index":' + "9" * 50)
        + edited(TEXT[2], '"index":0', '"index":-1e308') + events(stops(), END), BOTH),
]  # fmt: skip


def piece(text: str, index: int = 0) -> Event:
    return delta("input_json_delta", index, partial_json=text)


def used(*data: Any, text: str = "", finish: str = "other", order: tuple[str, ...] | None = None) -> Answer:
    return Answer(text, finish, usage(3, 7), data=list(data), order=order)


def asks(*bodies: Event, reason: str = "tool_use") -> bytes:
    return events(START, *bodies, stops(reason), END)


NESTED = '{"a":' * 400 + "9" * 40 + "}" * 400
PARIS, OSLO = {"city": "Paris"}, {"city": "Oslo"}
FOUND = {"type": "web_search_result", "url": "https://a.example", "title": "A", "encrypted_content": "Zm9v"}
PLACE = {"type": "web_search_result_location", "url": "https://a.example", "title": "A", "cited_text": "é",
         "encrypted_index": "Zm9v"}  # fmt: skip

TOOLS = [
    Row("a tool call in pieces", STREAMING,
        asks(block("text", text=""), says("Hm."), closed(), block("tool_use", 1, id="t1", name="weather", input={}),
             piece("", 1), piece('{"ci', 1), piece('ty":"Paris"}', 1), closed(1)),
        used(tool_call("weather", PARIS, "t1"), text="Hm.", order=("Hm.", "tool_call"))),
    Row("a tool call in one piece", GITHUB + "luohy15/y-router/pull/22",
        asks(block("tool_use", id="t1", name="weather", input={}), piece('{"city":"Paris"}'), closed()),
        used(tool_call("weather", PARIS, "t1"))),
    Row("a tool call with its input in the block's start", GITHUB + "mlx-node/mlx-node/pull/45",
        asks(block("tool_use", id="t1", name="weather", input=PARIS), closed()), used(tool_call("weather", PARIS,
            "t1"))),
    Row("a tool call without input", STREAMING,
        asks(block("tool_use", id="t1", name="now", input={}), piece(""), closed()), used(tool_call("now", {}, "t1"))),
    Row("two tool calls", STREAMING,
        asks(block("tool_use", id="t1", name="weather", input={}), piece('{"city":"Paris"}'), closed(),
             block("tool_use", 1, id="t2", name="weather", input={}), piece('{"city":"Oslo"}', 1), closed(1)),
        used(tool_call("weather", PARIS, "t1"), tool_call("weather", OSLO, "t2"))),
    Row("two tool calls at once", GITHUB + "BerriAI/litellm/issues/14315",
        asks(block("tool_use", id="t1", name="weather", input={}), block("tool_use", 1, id="t2", name="weather",
            input={}),
             piece('{"city":', 0), piece('{"city":', 1), piece('"Oslo"}', 1), piece('"Paris"}', 0), closed(1),
                 closed(0)),
        (used(tool_call("weather", OSLO, "t2"), tool_call("weather", PARIS, "t1")),
         used(tool_call("weather", PARIS, "t1"), tool_call("weather", OSLO, "t2")))),
    Row("a tool call whose block is never closed", GITHUB + "BerriAI/litellm/issues/14315",
        asks(block("tool_use", id="t1", name="weather", input={}), piece('{"city":"Paris"}')),
        used(tool_call("weather", PARIS, "t1"))),
    Row("a tool call that does not parse", STREAMING,
        asks(block("tool_use", id="t1", name="weather", input={}), piece('{"city":'), closed(), reason="max_tokens"),
        used(tool_call("weather", '{"city":', "t1"), finish="length")),
    Row("cut amid a tool call", STREAMING,
        events(START, *TEXT, block("tool_use", 1, id="t1", name="weather", input={}), piece('{"city":', 1)), broken(),
        end="cut"),
    Row("text after a tool call", STREAMING,
        asks(block("text", text=""), says("A"), closed(), block("tool_use", 1, id="t1", name="weather", input={}),
             piece('{"city":"Paris"}', 1), closed(1), block("text", 2, text=""), says("B", 2), closed(2)),
        used(tool_call("weather", PARIS, "t1"), text="AB", order=("A", "tool_call", "B"))),
    Row("a tool of the server, and what it found", STREAMING,
        asks(block("server_tool_use", id="s1", name="web_search", input={}), piece('{"query":"é"}'), closed(),
             block("web_search_tool_result", 1, tool_use_id="s1", content=[FOUND]), closed(1),
             block("text", 2, text=""), says(SAID, 2), closed(2), reason="end_turn"),
        used(tool_call("web_search", {"query": "é"}, "s1"), text=SAID, finish="stop", order=("tool_call", SAID))),
    Row("a tool that nobody can read", JSON_STANDARD,
        told(block("tool_use", 1, id=5, name=None, input="x"), delta("input_json_delta", 1, partial_json=7), closed(1)),
        Answer(SAID, usage=usage(3, 7), data=ANY)),
    Row("a piece of a tool call without its block", JSON_STANDARD, told(piece('{"a":1}', 4)),
        Answer(SAID, usage=usage(3, 7), data=ANY)),
    Row("a tool call that nests deep", JSON_STANDARD,
        told(block("tool_use", 1, id="t1", name="f", input={}), piece(NESTED, 1), closed(1)),
        Answer(SAID, usage=usage(3, 7), data=ANY)),
    Row("a tool call with half a surrogate pair", GITHUB + "davisp/jiffy/issues/145",
        events(START, *TEXT, block("tool_use", 1, id="t1", name="f", input={}))
        + edited(piece('{"a":"@"}', 1), "@", r"\\ud83c") + events(closed(1), stops(), END),
        Answer(SAID, usage=usage(3, 7), data=ANY)),
    Row("a citation that nests deep", JSON_STANDARD,
        events(START, *TEXT) + edited(delta("citations_delta", citation=0), "0}}", NESTED + "}}") + events(stops(),
            END),
        Answer(SAID, usage=usage(3, 7), data=ANY)),
    Row("a tool call that is larger than a data event", JSON_STANDARD,
        told(block("tool_use", 1, id="t1", name="f", input={}), *(piece("x" * 10_000, 1) for _ in range(14)),
            closed(1)),
        BOTH),
    Row("citations where they stand", "https://platform.claude.com/docs/en/build-with-claude/citations",
        asks(block("text", text="", citations=[]), says("A"), delta("citations_delta", citation=PLACE), closed(),
             block("text", 1, text=""), says("B", 1), closed(1), reason="end_turn"),
        used(("citation", PLACE), text="AB", finish="stop", order=("A", "citation", "B"))),
    Row("the same citation twice", "https://platform.claude.com/docs/en/build-with-claude/citations",
        asks(block("text", text="", citations=[]), says("A"), delta("citations_delta", citation=PLACE),
             delta("citations_delta", citation=PLACE), closed(), reason="end_turn"),
        used(("citation", PLACE), text="A", finish="stop")),
    Row("a citation of a document", "https://platform.claude.com/docs/en/build-with-claude/citations",
        asks(block("text", text=""), says("A"), delta("citations_delta", citation={"type": "char_location",
             "cited_text": "é", "document_index": 0, "start_char_index": 0, "end_char_index": 1}), closed(),
             reason="end_turn"),
        used(citation(type="char_location", cited_text="é", document_index=0, start_char_index=0, end_char_index=1),
             text="A", finish="stop")),
    Row("citations that nobody can read", JSON_STANDARD,
        told(delta("citations_delta", citation=5), delta("citations_delta", citation=None), delta("citations_delta")),
        BOTH),
]  # fmt: skip


def fails(name: str, source: str, event: Event | str, **fields: Any) -> Row:
    """A row for an error inside the stream, after some text."""
    return Row(f"error: {name}", source, events(START, *TEXT, event), failure(**fields))


def error(kind: str, **fields: Any) -> Event:
    return {"type": "error", "error": {"details": None, "type": kind, "message": f"no: {SECRET}"}, **fields}


def bare(kind: str) -> str:
    return compact(error(kind))


LIMITED = one_of("provider_error", "provider_rate_limited")
ERROR_EVENTS = GITHUB + "anthropics/anthropic-sdk-python/issues/1918"

ERRORS = [
    fails("overloaded", ERROR_EVENTS, error("overloaded_error", request_id="r")),
    fails("rate limited", ERROR_EVENTS, error("rate_limit_error"), code="provider_rate_limited"),
    fails("our mistake", ERROR_EVENTS, error("invalid_request_error"), retryable=False),
    fails("a wrong key", ERROR_EVENTS, error("authentication_error"), retryable=False, status=401),
    fails("an internal error", ERROR_EVENTS, error("api_error")),
    fails("a type that is new", ERROR_EVENTS, error("gateway_error")),
    fails("without a name", GITHUB + "earendil-works/pi/issues/4381", bare("overloaded_error")),
    fails("rate limited, without a name", GITHUB + "earendil-works/pi/issues/4381", bare("rate_limit_error"),
          code="provider_rate_limited"),
    fails("as OpenAI, as LiteLLM", GITHUB + "BerriAI/litellm/pull/38153",
          compact({"error": {"message": SECRET, "type": "None", "param": "None", "code": "500"}}), status=500),
    fails("as OpenAI, rate limited", GITHUB + "BerriAI/litellm/pull/38153",
          compact({"error": {"message": SECRET, "type": "throttling_error", "code": "429"}}),
          code="provider_rate_limited", status=429),
    fails("a text", GITHUB + "mito-ds/mito/issues/1842", {"type": "error", "error": f"There was an error: {SECRET}"}),
    fails("the sentence only", GITHUB + "use-agent-os/agent-os/issues/2118", {"type": "error", "message": SECRET}),
    fails("null", GITHUB + "use-agent-os/agent-os/issues/2118", {"type": "error", "error": None}),
    fails("detail, as FastAPI", "https://fastapi.tiangolo.com/tutorial/handling-errors/", compact({"detail": SECRET})),
    fails("a key as type", ERROR_EVENTS, error(SECRET), retryable=ANY),
    Row("error: the event's name, and the object itself", GITHUB + "anthropics/anthropic-sdk-go/issues/200",
        events(START, *TEXT) + sse(compact({"type": "overloaded_error", "message": SECRET}), name="error"), failure()),
    Row("error: the event's name, and a text", GITHUB + "mito-ds/mito/issues/1842",
        events(START, *TEXT) + sse(f"upstream timeout {SECRET}", name="error"), failure()),
    Row("error: the event's name, and nothing", GITHUB + "mito-ds/mito/issues/1842",
        events(START, *TEXT) + b"event: error\ndata: {}\n\n", failure()),
    Row("error: a line without data", GITHUB + "OpenSecretCloud/maple-proxy/pull/47",
        events(START, *TEXT) + compact(error("rate_limit_error")).encode() + b"\n\n",
        failure(code="provider_rate_limited")),
    Row("error: before any text", GITHUB + "anthropics/anthropic-sdk-python/issues/688",
        events(error("overloaded_error")), Failure()),
    Row("error: and a good end all the same", GITHUB + "Portkey-AI/gateway/pull/741",
        events(START, *TEXT, error("overloaded_error"), stops(), END), failure()),
    Row("error: where only message_stop is missing", GITHUB + "charmbracelet/fantasy/pull/245",
        told(after=[stops(), error("api_error")]), BOTH),
]  # fmt: skip


def whole(content: object, reason: object = "end_turn", **fields: Any) -> Event:
    return {"id": "m1", "type": "message", "role": "assistant", "model": "m", "content": content, "stop_reason": reason,
            "stop_sequence": None, "usage": {"input_tokens": 3, "output_tokens": 7}, **fields}  # fmt: skip


def body(name: str, source: str, said: object, expected: Any, content_type: str = "application/json") -> Row:
    text = said if isinstance(said, str) else compact(said)
    return Row(f"200: {name}", source, text.encode(), expected, content_type=content_type)


BODIES = [
    body("a whole answer", GITHUB + "ShouZhuo0413/codebuddy2api/pull/15", whole([{"type": "text", "text": SAID}]),
        BOTH),
    body("a whole answer with everything", GITHUB + "ShouZhuo0413/codebuddy2api/pull/15",
         whole([{"type": "thinking", "thinking": "hm", "signature": "x"}, {"type": "text", "text": "A",
             "citations": [PLACE]},
                {"type": "tool_use", "id": "t1", "name": "weather", "input": PARIS}, {"type": "new", "x": 1},
                {"type": "text", "text": "B", "citations": None}], "tool_use"),
         Answer("AB", "other", usage(3, 7), "hm", [("citation", PLACE), tool_call("weather", PARIS, "t1")],
                order=("A", "citation", "tool_call", "B"))),
    body("a whole answer that says it were a stream", GITHUB + "decolua/9router/issues/3492",
         whole([{"type": "text", "text": SAID}], "max_tokens"), Answer(SAID, "length", usage(3, 7)),
             "text/event-stream"),
    body("a whole answer with its text as content", GITHUB + "ShouZhuo0413/codebuddy2api/issues/11",
         whole(SAID), (BOTH, Failure(text=one_of("", SAID)))),
    body("a whole refusal", STOPPING, whole([], "refusal"), Answer("", "filter", usage(3, 7))),
    body("an error", ERROR_EVENTS, error("overloaded_error"), Failure()),
    body("rate limited", ERROR_EVENTS, error("rate_limit_error"), Failure("provider_rate_limited")),
    body("a wrong key", ERROR_EVENTS, error("authentication_error"), Failure(retryable=False, status=401)),
    body("as OpenAI", GITHUB + "BerriAI/litellm/pull/38153", {"error": {"message": SECRET, "code": 429}},
         Failure("provider_rate_limited", status=429)),
    body("base_resp, as MiniMax", GITHUB + "infiniflow/ragflow/pull/17292",
         {"base_resp": {"status_code": 1004, "status_msg": SECRET}}, Failure(retryable=False)),
    body("detail", "https://fastapi.tiangolo.com/tutorial/handling-errors/", {"detail": SECRET},
        Failure(retryable=ANY)),
    body("HTML", GITHUB + "Jazee6/cloudflare-ai-web/issues/49", f"<html><body>{SECRET}</body></html>",
         Failure(retryable=False, misconfigured=True), "text/html"),
    body("JSON that is no answer", GITHUB + "InternLM/MindSearch/issues/310", {"hello": "world"},
         Failure(one_of("provider_error", "truncated"), ANY)),
    body("an answer of the other API", GITHUB + "BerriAI/litellm/pull/38153",
         {"object": "chat.completion", "choices": [{"message": {"content": SAID}, "finish_reason": "stop"}]},
         (Failure(one_of("provider_error", "truncated"), ANY), Answer(SAID, usage=ANY))),
]  # fmt: skip

DEEP = "[" * 100_000 + "]" * 100_000

HOSTILE = [
    Row("JSON that nests without end, where nobody reads it", JSON_STANDARD,
        events(START, *TEXT) + edited({**PING, "x": 0}, "0", DEEP) + events(stops(), END), (failure(), BOTH)),
    Row("JSON that nests without end in a tool call", JSON_STANDARD,
        told(block("tool_use", 1, id="t1", name="f", input={}), piece(DEEP, 1), closed(1)),
        (Answer(SAID, usage=usage(3, 7), data=ANY), failure(data=ANY))),
    Row("bytes that are no UTF-8", STANDARD, events(START, *TEXT) + events(says("a@b")).replace(b"@", b"\xff")
        + events(stops(), END), (Answer(SAID + "a�b", usage=usage(3, 7)), failure())),
    Row("bytes that are no UTF-8 in a comment", STANDARD, b": \xff\xfe\n\n" + told(), BOTH),
    Row("no JSON", JSON_STANDARD, told('{"type": '), (failure(), BOTH)),
    Row("JSON, but null", JSON_STANDARD, told("null"), (failure(), BOTH)),
    Row("JSON, but a list", JSON_STANDARD, told("[1]"), (failure(), BOTH)),
    Row("half a surrogate pair", GITHUB + "davisp/jiffy/issues/145",
        events(START, *TEXT) + edited(says("@"), "@", r"\ud83c") + events(stops(), END),
        Answer(SAID + "�", usage=usage(3, 7))),
    Row("NUL in the text", JSON_STANDARD, told(says("a\0b")), Answer(SAID + "a\0b", usage=usage(3, 7))),
]  # fmt: skip

ANTHROPIC = [*FRAMING, *FINISHES, *USAGE, *BLOCKS, *TOOLS, *ERRORS, *BODIES, *HOSTILE]
