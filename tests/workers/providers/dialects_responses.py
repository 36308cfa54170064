"""What servers that speak OpenAI's Responses API really send, and what must come of it.

Only what ends by itself: a stream that breaks is opened again, which test_openai_background.py is about.
"""

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
EVENTS = "https://developers.openai.com/api/reference/resources/responses/streaming-events"
STANDARD = "https://html.spec.whatwg.org/multipage/server-sent-events.html"

SAID = "Héllo 🌍"
BOTH = Answer(SAID, usage=usage(3, 7))
COUNTED = {"input_tokens": 3, "output_tokens": 7, "total_tokens": 10}

Event = dict[str, Any]


def response(status: str, **fields: Any) -> Event:
    made: Event = {"id": "resp_1", "object": "response", "status": status, "model": "m", "error": None, "output": []}
    return {**made, "incomplete_details": None, "usage": None, **fields}


def state(status: str, **fields: Any) -> Event:
    return {"type": f"response.{status}", "response": response(status, **fields)}


def says(text: str, kind: str = "output_text") -> Event:
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    return {"type": f"response.{kind}.delta", **at, "delta": text}


def item(kind: str, step: str = "done", **fields: Any) -> Event:
    return {"type": f"response.output_item.{step}", "output_index": 1, "item": {"type": kind, "id": "i1", **fields}}


CREATED = state("created")
TEXT = [says("Hé"), says("llo 🌍")]
COMPLETED = state("completed", usage=COUNTED)


def numbered(*bodies: Event) -> list[Event]:
    return [{"sequence_number": number, **body} for number, body in enumerate(bodies)]


def events(*bodies: Event, eol: str = "\n", names: bool = True) -> bytes:
    return b"".join(sse(compact(body), eol=eol, name=str(body["type"]) if names else "") for body in numbered(*bodies))


def told(*bodies: Event) -> bytes:
    """Begun, said, these, and a good end."""
    return events(CREATED, *TEXT, *bodies, COMPLETED)


FRAMING = [
    Row("as OpenAI itself", EVENTS, events(CREATED, state("in_progress"), item("message", "added", content=[]), *TEXT,
        {"type": "response.output_text.done", "text": SAID}, item("message", content=[{"type": "output_text",
        "text": SAID, "annotations": []}]), COMPLETED), BOTH),
    Row("no lines of event:", GITHUB + "ranxianglei/billion-context/issues/549",
        events(CREATED, *TEXT, COMPLETED, names=False), BOTH),
    Row("event: and data: apart", GITHUB + "earendil-works/pi/issues/8430",
        b"".join(f"event: {one['type']}\n\n".encode() + sse(compact(one))
                 for one in numbered(CREATED, *TEXT, COMPLETED)), BOTH),
    Row("CRLF", STANDARD, events(CREATED, *TEXT, COMPLETED, eol="\r\n"), BOTH),
    Row("a byte order mark", STANDARD, b"\xef\xbb\xbf" + told(), BOTH),
    Row("comments", STANDARD, b": hi\n\n" + told(), BOTH),
    Row("[DONE] in the end", GITHUB + "BerriAI/litellm/pull/34095", told() + sse("[DONE]"), BOTH),
    Row("JSON over several lines of data", GITHUB + "SamSaffron/term-llm/pull/456",
        b"".join(b"data: " + compact(one).replace(",", ",\ndata: ").encode() + b"\n\n"
                 for one in numbered(CREATED, *TEXT, COMPLETED)), BOTH),
    Row("keepalives", EVENTS, events(CREATED) + sse('{"type":"keepalive","sequence_number":1}', name="keepalive")
        + b"".join(sse(compact(one)) for one in numbered(CREATED, *TEXT, COMPLETED)[1:]), BOTH),
    Row("unknown events", EVENTS, told({"type": "response.vendor.note", "delta": "no"}, {"type": "ping"}), BOTH),
    Row("a surrogate pair in two deltas", GITHUB + "elie222/rakazo/issues/416",
        b"".join(sse(compact(one).replace("@", r"\u00e9llo \ud83c").replace("#", r"\udf0d"))
                 for one in numbered(CREATED, says("H@"), says("#"), COMPLETED)), BOTH),
]  # fmt: skip

ANSWERS = [
    Row("reasoning", EVENTS, events(CREATED, says("hm", "reasoning_summary_text"), says(" …", "reasoning_text"), *TEXT,
        COMPLETED), Answer(SAID, reasoning="hm …", usage=usage(3, 7))),
    Row("a refusal", EVENTS, events(CREATED, says("I can't.", "refusal"), COMPLETED),
        Answer("I can't.", "filter", usage(3, 7))),
    Row("too long", EVENTS, events(CREATED, *TEXT, state("incomplete", incomplete_details={"reason":
        "max_output_tokens"}, usage=COUNTED)), Answer(SAID, "length", usage(3, 7))),
    Row("filtered", EVENTS, events(CREATED, *TEXT, state("incomplete", incomplete_details={"reason": "content_filter"},
        usage=COUNTED)), Answer(SAID, "filter", usage(3, 7))),
    Row("incomplete without a reason", GITHUB + "Wei-Shaw/sub2api/issues/4141",
        events(CREATED, *TEXT, state("incomplete", usage=COUNTED)), Answer(SAID, "other", usage(3, 7))),
    Row("no usage", GITHUB + "Wei-Shaw/sub2api/issues/4141", events(CREATED, *TEXT, state("completed")), Answer(SAID)),
    Row("usage as strings", GITHUB + "BerriAI/litellm/issues/28024",
        events(CREATED, *TEXT, state("completed", usage={"input_tokens": "3", "output_tokens": "7"})), BOTH),
    Row("usage by other names", GITHUB + "earendil-works/pi/issues/2326",
        events(CREATED, *TEXT, state("completed", usage={"prompt_tokens": 3, "completion_tokens": 7})), BOTH),
    Row("usage that is a text", EVENTS, events(CREATED, *TEXT, state("completed", usage="none")), Answer(SAID)),
    Row("usage beyond every number", EVENTS, events(CREATED, *TEXT, state("completed", usage={"input_tokens": 1e308,
        "output_tokens": 10**400})), Answer(SAID)),
    Row("deltas left out, and all of it in the end", GITHUB + "BerriAI/litellm/pull/34095",
        events(CREATED, TEXT[0], state("completed", output=[{"type": "message", "content": [{"type": "output_text",
        "text": SAID}]}], usage=COUNTED)), BOTH),
    Row("no delta, and all of it in the end", GITHUB + "BerriAI/litellm/pull/34095",
        events(CREATED, state("completed", output=[{"type": "message", "content": [{"type": "output_text",
        "text": SAID}]}], usage=COUNTED)), BOTH),
    Row("less of it in the end", GITHUB + "BerriAI/litellm/pull/34095",
        events(CREATED, *TEXT, state("completed", output=[{"type": "message", "content": [{"type": "output_text",
        "text": ""}]}], usage=COUNTED)), BOTH),
    Row("a tool call", EVENTS,
        told(item("function_call", "added", call_id="c1", name="weather", arguments=""),
             {"type": "response.function_call_arguments.delta", "item_id": "i1", "delta": '{"city":"Paris"}'},
             {"type": "response.function_call_arguments.done", "item_id": "i1", "arguments": '{"city":"Paris"}'},
             item("function_call", call_id="c1", name="weather", arguments='{"city":"Paris"}')),
        Answer(SAID, usage=usage(3, 7), data=[tool_call("weather", {"city": "Paris"}, one_of("c1", "i1"))])),
    Row("a citation", EVENTS,
        told({"type": "response.output_text.annotation.added", "item_id": "msg_1", "annotation_index": 0,
              "annotation": {"type": "url_citation", "url": "https://a.example", "title": "A", "start_index": 0}}),
        Answer(SAID, usage=usage(3, 7),
               data=[citation(type="url_citation", url="https://a.example", title="A", start_index=0)])),
    Row("a citation that nobody can read", EVENTS,
        told({"type": "response.output_text.annotation.added", "annotation": 5},
             {"type": "response.output_text.annotation.added"}), BOTH),
    Row("reasoning that nobody can read", EVENTS, told({"type": "response.reasoning_text.delta", "delta": ["x"]}),
        BOTH),
]  # fmt: skip


def fails(name: str, source: str, event: Event | str, **fields: Any) -> Row:
    """A row for an error inside the stream, after some text."""
    last = sse(event) if isinstance(event, str) else sse(compact({"sequence_number": 3, **event}), name=event["type"])
    return Row(f"error: {name}", source, events(CREATED, *TEXT) + last, Failure(text=SAID, **fields))


def failed(code: str) -> Event:
    return state("failed", error={"code": code, "message": f"no: {SECRET}"})


ERRORS = [
    fails("response.failed", GITHUB + "ginlix-ai/LangAlpha/pull/396", failed("server_error")),
    fails("response.failed, rate limited", EVENTS, failed("rate_limit_exceeded"), code="provider_rate_limited"),
    fails("response.failed, refused", EVENTS, failed("invalid_prompt"), code="provider_refused", retryable=False),
    fails("response.failed, and no error", GITHUB + "ginlix-ai/LangAlpha/pull/396", state("failed")),
    fails("cancelled by somebody", EVENTS, state("cancelled"), retryable=False),
    fails("as documented", EVENTS, {"type": "error", "code": "server_error", "message": SECRET, "param": None}),
    fails("as documented, rate limited", EVENTS, {"type": "error", "code": "rate_limit_exceeded", "message": SECRET},
          code="provider_rate_limited"),
    fails("as sent", GITHUB + "openai/openai-go/issues/497",
          {"type": "error", "error": {"type": "too_many_requests", "code": "rate_limit_exceeded", "message": SECRET}},
          code="provider_rate_limited"),
    fails("as sent, our mistake", GITHUB + "openai/openai-go/issues/497",
          {"type": "error", "error": {"type": "invalid_request_error", "code": None, "message": SECRET}},
          retryable=False),
    fails("without a type, as a gateway", GITHUB + "vllm-project/guidellm/issues/743",
          compact({"error": {"message": SECRET, "type": "server_error", "code": 503}}), status=503),
    fails("a key as code", EVENTS, {"type": "error", "code": SECRET, "message": ""}, retryable=ANY),
]  # fmt: skip

MESSAGE = {"type": "message", "id": "msg_1", "role": "assistant",
           "content": [{"type": "output_text", "text": SAID, "annotations": []}]}  # fmt: skip

BODIES = [
    Row("200: an error", EVENTS, compact({"error": {"code": 429, "message": SECRET}}).encode(),
        Failure("provider_rate_limited", status=429), content_type="application/json"),
    Row("200: HTML", GITHUB + "Jazee6/cloudflare-ai-web/issues/49", b"<html><body>Hi</body></html>",
        Failure(retryable=False, misconfigured=True), content_type="text/html"),
    Row("200: a whole answer", GITHUB + "BerriAI/litellm/pull/34095",
        compact(response("completed", output=[{"type": "reasoning", "summary": []}, MESSAGE], usage=COUNTED)).encode(),
        BOTH, content_type="application/json"),
]  # fmt: skip

RESPONSES = [*FRAMING, *ANSWERS, *ERRORS, *BODIES]
