"""An answer travels from the provider to every viewer, and is exact."""

from __future__ import annotations

import asyncio
import itertools
from functools import partial

import pytest

from tests.fakes.provider import Script
from tests.scenarios.client import Client, check
from tests.scenarios.processes import until
from tests.scenarios.world import World

pytestmark = pytest.mark.also_with_auth

# Joined emoji, combining marks, CJK, right-to-left, a flag, and a pair that the provider splits.
HARD = [
    "👩‍👩‍👧‍👦",
    " e\u0301a\u0300\u0323",
    "漢字かな",
    " שלום",
    "🏳️‍🌈",
    "half:\ud83d",
    "\ude00!",
    '\u0000\t"\\/',
    "\u2028end",
]
HARD_TEXT = '👩‍👩‍👧‍👦 e\u0301a\u0300\u0323漢字かな שלום🏳️‍🌈half:😀!\u0000\t"\\/\u2028end'
LONG = [f"w{number} " for number in range(400)]

both_providers = pytest.mark.parametrize("provider", ["openai", "anthropic"])
either_provider = pytest.mark.parametrize("provider", ["openai", pytest.param("anthropic", marks=pytest.mark.slow)])


@both_providers
async def test_relay_send_prints_what_the_provider_sent_byte_for_byte(relay: World, provider: str) -> None:
    relay.fake.script = Script(tokens=HARD)
    gateway = await relay.gateway()
    await relay.worker(provider=provider)
    send = relay.send(gateway, "s", "Something hard")
    assert await send.exited() == 0
    assert send.stdout.read_bytes() == HARD_TEXT.encode()
    assert [call.api for call in relay.fake.calls] == [provider]


async def test_a_viewer_whose_socket_is_cut_at_every_frame_ends_with_the_exact_text(relay: World) -> None:
    relay.fake.script = Script(tokens=LONG, tokens_per_second=250)
    gateway = await relay.gateway()
    await relay.worker(RELAY_BATCH_SIZE="5")
    cut, steady = Client(gateway.url, "s"), Client(gateway.url, "s")
    async with steady:
        await steady.subscribe()
        generation = await steady.submit("Something long")
        cuts = 0
        while generation not in cut.view.generations or cut.shown(generation).end is None:
            seen = len(cut.frames)
            await cut.connect()
            reply = await cut.subscribe()
            assert reply["recovered"] is (cuts > 0)
            await cut.until(lambda seen=seen: len(cut.frames) > seen + 1, "another frame beside `subscribed`")
            await cut.cut()
            cuts += 1
        await steady.ended(generation)
    assert cuts > 20, "the answer was over before it was cut often enough"
    check(cut, generation, "".join(LONG))
    check(steady, generation, "".join(LONG))


async def test_who_joins_late_or_after_the_end_gets_everything_in_one_frame(relay: World) -> None:
    relay.fake.script = Script(tokens=LONG, hold_before=200)
    gateway = await relay.gateway()
    await relay.worker()
    async with Client(gateway.url, "s") as first, Client(gateway.url, "s") as late, Client(gateway.url, "s") as last:
        await first.subscribe()
        generation = await first.submit("Something long")
        await first.until(lambda: generation in first.view.generations and first.shown(generation).count == 200, "200")
        await late.subscribe()
        await late.until(lambda: len(late.frames) > 1, "a catchup")
        assert [frame["type"] for frame in late.frames] == ["subscribed", "catchup"]
        assert late.shown(generation).text == "".join(LONG[:200])
        relay.fake.release()
        await first.ended(generation)
        await late.ended(generation)
        await last.subscribe()
        await last.ended(generation)
        assert [frame["type"] for frame in last.frames] == ["subscribed", "catchup"]
        assert [event["type"] for event in last.frames[1]["events"]] == ["message", "tokens", "end"]
        for client in (first, late, last):
            check(client, generation, "".join(LONG))


async def test_resuming_at_every_cursor_gives_the_rest_and_nothing_when_there_is_nothing_new(relay: World) -> None:
    relay.fake.script = Script(tokens=LONG[:60], tokens_per_second=600)
    gateway = await relay.gateway()
    await relay.worker(RELAY_BATCH_SIZE="3")
    async with Client(gateway.url, "s") as whole:
        await whole.subscribe()
        generation = await whole.submit("q")
        await whole.ended(generation)
        prefixes = [frame for frame in whole.frames if "seq" in frame]
        for length in range(len(prefixes) + 1):
            client = Client(gateway.url, "s")
            client.take(whole.frames[0])
            for frame in prefixes[:length]:
                client.take(frame)
            async with client:
                reply = await client.subscribe()
                assert reply["recovered"] is True
                await client.ended(generation)
                check(client, generation, "".join(LONG[:60]))
                assert len(client.frames) <= 1 + length + 1 + 1
                again = await client.subscribe()
                assert (again["at"], again["recovered"]) == (again["head"], True)
                await client.command(type="ping")
                assert client.frames[-1]["type"] == "subscribed", "reconnecting with nothing new brings nothing"


async def test_a_live_joiner_starts_at_the_next_token(relay: World) -> None:
    relay.fake.script = Script(tokens=LONG[:40], hold_before=20)
    gateway = await relay.gateway()
    await relay.worker()
    async with Client(gateway.url, "s") as first, Client(gateway.url, "s") as live:
        await first.subscribe()
        generation = await first.submit("q")
        await first.until(lambda: generation in first.view.generations and first.shown(generation).count == 20, "20")
        reply = await live.subscribe(start="live")
        assert (reply["at"], reply["recovered"]) == (reply["head"], False)
        assert [known["state"] for known in reply["active"]] == ["streaming"]
        relay.fake.release()
        await live.ended(generation)
        assert live.shown(generation).text == "".join(LONG[20:40])
        assert not live.wrong


async def test_fifty_equal_submits_over_both_transports_make_one_generation_and_one_provider_call(
    relay: World,
) -> None:
    gateways = [await relay.gateway(), await relay.gateway()]
    await relay.worker()
    async with Client(gateways[0].url, "s") as one, Client(gateways[1].url, "s") as two:
        await one.subscribe()
        over_websocket = [
            client.command(type="submit", session="s", request_id="same", content="q", metadata={"b": 1, "a": None})
            for client, _ in itertools.product((one, two), range(13))
        ]
        over_http = [
            gateway.http(
                "POST", "/v1/sessions/s/generations", {"content": "q", "metadata": {"a": None, "b": 1.0}},
                {"Idempotency-Key": "same"},
            )
            for gateway, _ in itertools.product(gateways, range(12))
        ]  # fmt: skip
        replies = await asyncio.gather(*over_websocket)
        answers = await asyncio.gather(*over_http)
        assert {reply["type"] for reply in replies} == {"accepted"}
        assert {status for status, _, _ in answers} == {202}
        everything = [*replies, *(body for _, body, _ in answers)]
        assert len({reply["generation"] for reply in everything}) == 1
        assert [reply["duplicate"] for reply in everything].count(False) == 1
        generation = replies[0]["generation"]
        await one.ended(generation)
        check(one, generation, "Hello there")
        assert len(relay.fake.calls) == 1
        other = await one.command(type="submit", session="s", request_id="same", content="another")
        assert (other["type"], other["code"], other["retryable"]) == ("error", "conflict", False)
        status, body, _ = await gateways[0].http(
            "POST", "/v1/sessions/s/generations", {"content": "q2", "request_id": "same"}
        )
        assert (status, body["error"]["code"]) == (409, "conflict")


@either_provider
@pytest.mark.parametrize("written", [0, 7], ids=["before the first token", "in the middle"])
async def test_a_provider_stream_that_closes_early_ends_failed_never_complete(
    relay: World, written: int, provider: str
) -> None:
    relay.fake.script = Script(tokens=LONG[:20], close_after=written)
    gateway = await relay.gateway()
    await relay.worker(provider=provider)
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        generation = await client.submit("q")
        await client.ended(generation)
        end = check(client, generation, "".join(LONG[:written]), "failed")
        assert end["error"]["code"] == "truncated"
        assert end["error"]["retryable"] is True
        assert "Traceback" not in end["error"]["message"]
        _, snapshot, _ = await gateway.http("GET", "/v1/sessions/s")
        assert snapshot["messages"] == [], "half an answer is never the model's context"


@either_provider
@pytest.mark.parametrize(
    ("setting", "script", "shown", "code"),
    [
        ("RELAY_FIRST_TOKEN_TIMEOUT_S", Script(tokens=LONG[:9], hold_before=0), 0, "provider_timeout"),
        ("RELAY_FIRST_TOKEN_TIMEOUT_S", Script(tokens=LONG[:9], hold_status=True), 0, "provider_timeout"),
        ("RELAY_TOKEN_TIMEOUT_S", Script(tokens=LONG[:9], hold_before=5), 5, "provider_timeout"),
        ("", Script(tokens=LONG[:9], cut_after=5), 5, "truncated"),
        ("", Script(tokens=LONG[:9], error_after=5), 5, "provider_error"),
        ("", Script(status=429), 0, "provider_rate_limited"),
        ("", Script(status=503), 0, "provider_error"),
    ],
)
async def test_a_provider_that_fails_ends_the_answer_with_its_code_and_what_was_shown(
    relay: World, setting: str, script: Script, shown: int, code: str, provider: str
) -> None:
    relay.fake.script = script
    gateway = await relay.gateway()
    relay.settings = {setting: "0.7"} if setting else {}
    await relay.worker(provider=provider)
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        generation = await client.submit("q")
        await client.ended(generation)
        end = check(client, generation, "".join(LONG[:shown]), "failed")
        assert (end["error"]["code"], end["error"]["retryable"]) == (code, True)
        if setting:
            await relay.fake.wait_for(lambda fake: fake.calls[0].client_gone_at is not None)


@either_provider
async def test_an_answer_that_goes_on_for_too_long_ends_with_what_came_in_time(relay: World, provider: str) -> None:
    """The time counts from the claim, so how much of the five that is depends on the machine."""
    relay.fake.script = Script(tokens=LONG[:9], hold_before=5)
    gateway = await relay.gateway()
    await relay.worker(provider=provider, RELAY_ANSWER_TIMEOUT_S="0.7")
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        generation = await client.submit("q")
        count = (await client.ended(generation)).count
        assert count <= 5
        end = check(client, generation, "".join(LONG[:count]), "failed")
        assert (end["error"]["code"], end["error"]["retryable"]) == ("provider_timeout", True)
        await relay.fake.wait_for(lambda fake: all(call.client_gone_at is not None for call in fake.calls))


async def test_an_answer_that_is_too_long_is_cut_at_the_bound_and_says_so(relay: World) -> None:
    relay.fake.script = Script(tokens=["x" * 600] * 4)
    gateway = await relay.gateway()
    await relay.worker(RELAY_MAX_ANSWER_BYTES="1500")
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        generation = await client.submit("q")
        await client.ended(generation)
        end = check(client, generation, "x" * 1200, "failed")
        assert (end["error"]["code"], end["error"]["retryable"]) == ("too_long", False)


async def test_the_first_token_does_not_wait_for_its_batch(relay: World) -> None:
    relay.fake.script = Script(tokens=LONG[:30], hold_before=1)
    gateway = await relay.gateway()
    await relay.worker(RELAY_BATCH_LINGER_MS="10000")
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        generation = await client.submit("q")
        await relay.fake.wait_for(lambda fake: fake.calls and fake.calls[0].held)
        await client.until(
            lambda: generation in client.view.generations and client.shown(generation).count == 1,
            "one token alone, long before the batch is due",
            timeout_s=6,
        )
        relay.fake.release()
        await client.ended(generation)
        check(client, generation, "".join(LONG[:30]))


async def test_a_fast_provider_fills_batches_of_about_twenty(relay: World) -> None:
    tokens = [f"{number} " for number in range(3000)]
    relay.fake.script = Script(tokens=tokens, tokens_per_second=2000)
    gateway = await relay.gateway()
    await relay.worker()
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        generation = await client.submit("q")
        await client.ended(generation)
        check(client, generation, "".join(tokens))
        counts = sorted(
            event["count"]
            for frame in client.frames
            for event in frame.get("events", [frame])
            if event["type"] == "tokens"
        )
        middle = counts[len(counts) // 2]
        assert 18 <= middle <= 40, counts


@either_provider
async def test_an_answer_without_text_does_not_spoil_the_questions_after_it(relay: World, provider: str) -> None:
    relay.fake.script = Script(finish_reason="content_filter")
    gateway = await relay.gateway()
    await relay.worker(provider=provider)
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        refused = await client.submit("One?", "r1")
        await client.ended(refused)
        assert check(client, refused, "")["finish"] == "filter"
        relay.fake.script = Script(tokens=["Two."])
        answered = await client.submit("Two?", "r2", system="Be brief.")
        await client.ended(answered)
        check(client, answered, "Two.")


@both_providers
async def test_reasoning_is_streamed_beside_the_text_and_counted_by_itself(relay: World, provider: str) -> None:
    relay.fake.script = Script(reasoning=["First ", "think", "."], tokens=["Then ", "speak."])
    gateway = await relay.gateway()
    await relay.worker(provider=provider)
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        generation = await client.submit("q")
        shown = await client.ended(generation)
        end = check(client, generation, "Then speak.")
        assert shown.reasoning == "First think."
        assert (end["count"], end["finish"], end["provider"]) == (2, "stop", provider)
        assert end["usage"].keys() == {"input_tokens", "output_tokens"}
        assert end["timings_ms"].keys() == {"queued", "first_token", "total"}


async def test_the_next_question_brings_the_completed_turns_and_no_others(relay: World) -> None:
    gateway = await relay.gateway()
    await relay.worker()
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        first = await client.submit("One?", "r1", system="Be brief.")
        await client.ended(first)
        relay.fake.script = Script(tokens=["cut"], close_after=1)
        await client.ended(await client.submit("Two?", "r2"))
        relay.fake.script = Script(tokens=["Three."])
        await client.ended(await client.submit("Three?", "r3"))
        asked = relay.fake.calls[-1].body["messages"]
        assert [(turn["role"], turn["content"]) for turn in asked] == [
            ("user", "One?"), ("assistant", "Hello there"), ("user", "Three?"),
        ]  # fmt: skip
        again = await client.command(type="submit", session="s", request_id="r4", retry_of=first)
        await client.ended(again["generation"])
        asked = relay.fake.calls[-1].body["messages"]
        assert [(turn["role"], turn["content"]) for turn in asked] == [("user", "One?")]
        assert [message["content"] for message in client.view.messages] == ["One?", "Two?", "Three?"]
        _, snapshot, _ = await gateway.http("GET", "/v1/sessions/s")
        assert [turn["content"] for turn in snapshot["messages"]] == ["One?", "Three.", "Three?", "Three."]
        once_more = await client.command(type="submit", session="s", request_id="r5", retry_of=first)
        await client.ended(once_more["generation"])
        assert [turn["content"] for turn in relay.fake.calls[-1].body["messages"]] == ["One?"]
        _, snapshot, _ = await gateway.http("GET", "/v1/sessions/s")
        assert [turn["content"] for turn in snapshot["messages"]] == ["One?", "Three.", "Three?", "Three."]
        assert [known["state"] for known in snapshot["generations"]] == ["ended"] * 5
        assert [known["reason"] for known in snapshot["generations"]] == [
            "complete", "failed", "complete", "complete", "complete",
        ]  # fmt: skip


async def test_every_key_has_a_time_to_live_and_no_job_is_left(relay: World) -> None:
    gateway = await relay.gateway()
    await relay.worker()
    async with Client(gateway.url, "s") as client, Client(gateway.url, "empty") as idle:
        await idle.subscribe()
        await client.subscribe()
        generation = await client.submit("q")
        await client.ended(generation)
        queue = f"{relay.prefix}:q:{{default}}"
        while await relay.redis.zcard(f"{queue}:open"):  # noqa: ASYNC110 - Redis has no event for this
            await asyncio.sleep(0.01)
        assert await relay.redis.xlen(f"{queue}:normal") == 0
        assert await relay.redis.hlen(f"{queue}:jobs") == 0
        ttls = await relay.ttls()
        assert min(ttls.values()) > 0, ttls
        assert ttls[f"{relay.prefix}:s:{{empty}}:meta"] <= 60_000


async def test_an_old_answer_is_merged_in_its_log_and_reads_the_same(relay: World) -> None:
    tokens = ["plain ", "/slash\\/", '"quoted"', "\x00\x1f\x7f\n", "🙂", "e\u0301", "\u2028"] * 200
    relay.fake.script = Script(tokens=tokens, reasoning=["be", "cause"])
    relay.settings["RELAY_TRIM_AFTER_S"] = "1"
    gateway = await relay.gateway()
    await relay.worker()
    log = f"{relay.prefix}:s:{{s}}:log"
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        generation = await client.submit("Go")
        await client.ended(generation)
        check(client, generation, "".join(tokens))
        long_ago = await relay.redis.xlen(log)

        async def merged() -> bool:
            return int(await relay.redis.xlen(log)) < long_ago / 4

        await until(merged, "the batches are merged")
        # Who has everything gets nothing; who stopped in between gets everything; who is new gets everything.
        assert client.view.cursor is not None
        epoch, last = client.view.cursor.epoch, client.view.cursor.seq
        frames = len(client.frames)
        assert (await client.subscribe())["recovered"] is True
        assert len(client.frames) == frames + 1
    other = await relay.gateway()  # the first one has the batches at hand still, and may give the rest of them
    for cursor in (None, {"epoch": epoch, "seq": last - 3}):
        async with Client(other.url, "s") as late:
            reply = await late.command(**{**late.view.subscribe(), "cursor": cursor})
            assert (reply["recovered"], reply["at"]) == (False, 0)
            await late.ended(generation)
            check(late, generation, "".join(tokens))
            assert late.shown(generation).reasoning == "because"


async def test_a_worker_makes_no_more_answers_at_a_time_than_it_may_and_the_urgent_ones_first(relay: World) -> None:
    relay.fake.script = Script(tokens=["a", "b"], hold_before=1)
    gateway = await relay.gateway()
    async with Client(gateway.url, "s") as client:
        await client.subscribe()
        for number, priority in enumerate(["low", "normal", "low", "high", "normal", "high"]):
            await client.submit(f"{priority} {number}", request_id=str(number), priority=priority)
        await relay.worker("--concurrency", "2")
        for answered in (0, 2, 4):
            await until(partial(_two_are_held, relay, answered), "two answers, and no third")
            relay.fake.release()
        await client.until(lambda: sum(client.ends.values()) == 6, "all six ends")
    asked = [call.prompt for call in relay.fake.calls]
    assert [sorted(asked[:2]), sorted(asked[2:4]), sorted(asked[4:])] == [
        ["high 3", "high 5"], ["normal 1", "normal 4"], ["low 0", "low 2"],
    ]  # fmt: skip


def _two_are_held(relay: World, answered: int) -> bool:
    return [call.held for call in relay.fake.calls[answered:]] == [True, True]
