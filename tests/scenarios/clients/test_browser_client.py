"""relay-client.js in a page of its own, against real gateways: the text is the provider's, byte for byte."""

from __future__ import annotations

import signal
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser

import relay as package
from tests.fakes.script import Script
from tests.fakes.scripted_gateway import ScriptedGateway
from tests.scenarios.browser import Tab, chromium, client_page
from tests.scenarios.client import Client
from tests.scenarios.processes import free_port
from tests.scenarios.world import Gateway, World

TOKENS = [f"w{number} é👩‍👩‍👧\n" for number in range(40)]
BEGUN = "".join(TOKENS[:20])


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as running:
        yield running


async def opened(browser: Browser, gateway: Gateway) -> Tab:
    tab = await client_page(browser, gateway.url + "/healthz")
    await tab.follow("s")
    return tab


def port(gateway: Gateway) -> str:
    return gateway.url.rpartition(":")[2]


async def check(tab: Tab, world: World, generation: str, reason: str = "complete") -> None:
    """What the page shows is what the provider sent, proven, told once, and never rebuilt from the start."""
    shown = await tab.ended("s", generation)
    sent = world.fake.calls[0].text
    assert shown["text"].encode() == sent.encode()
    assert (shown["state"], shown["unproven"], shown["attempt"]) == (reason, False, 1)
    assert shown["end"]["crc32"] == zlib.crc32(sent.encode())
    await tab.until("events.some(({ type }) => type === 'end')")
    assert [event["generation"] for event in await tab.events("s", "end")] == [generation]
    subscribes = await tab.run("commands.filter(({ type }) => type === 'subscribe')")
    assert [command for command in subscribes[1:] if "cursor" not in command] == []


async def test_the_client_is_served_as_a_module_that_pages_elsewhere_may_import(relay: World) -> None:
    gateway = await relay.gateway()
    status, text, headers = await gateway.http("GET", "/relay-client.js")
    assert status == 200
    assert text == (Path(package.__file__).parent / "static" / "relay-client.js").read_text()
    assert headers["content-type"].startswith("text/javascript")
    assert headers["access-control-allow-origin"] == "*"
    assert headers["cache-control"] == "no-cache"
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.slow
async def test_a_page_that_was_offline_goes_on_where_it_was(relay: World, browser: Browser) -> None:
    relay.fake.script = Script(tokens=TOKENS, hold_before=20)
    gateway = await relay.gateway(RELAY_HEARTBEAT_S="0.4")
    await relay.worker()
    tab = await opened(browser, gateway)
    async with Client(gateway.url, "s") as beside:
        await beside.subscribe()
        generation = await tab.ask("s", "Count")
        await tab.shows("s", generation, BEGUN)
        await tab.page.context.set_offline(True)
        relay.fake.release()
        await beside.ended(generation)
        await tab.page.context.set_offline(False)
        await check(tab, relay, generation)


@pytest.mark.slow
async def test_a_gateway_that_was_killed_and_started_again_costs_nothing(relay: World, browser: Browser) -> None:
    relay.fake.script = Script(tokens=TOKENS, hold_before=20)
    gateway = await relay.gateway()
    await relay.worker()
    tab = await opened(browser, gateway)
    generation = await tab.ask("s", "Count")
    await tab.shows("s", generation, BEGUN)
    await gateway.kill()
    await tab.until("relay.state === 'reconnecting'")
    relay.fake.release()
    await relay.gateway("--port", port(gateway))
    await check(tab, relay, generation)
    states = [event["state"] for event in await tab.events("relay", "state")]
    assert states == ["open", "reconnecting", "open"]


@pytest.mark.slow
async def test_a_gateway_that_falls_silent_is_left_and_found_again(relay: World, browser: Browser) -> None:
    relay.fake.script = Script(tokens=TOKENS, hold_before=20)
    gateway = await relay.gateway(RELAY_HEARTBEAT_S="0.2")
    await relay.worker()
    tab = await opened(browser, gateway)
    generation = await tab.ask("s", "Count")
    await tab.shows("s", generation, BEGUN)
    gateway.signal(signal.SIGSTOP)
    try:
        await tab.until("relay.state === 'reconnecting'")
        relay.fake.release()
    finally:
        gateway.signal(signal.SIGCONT)
    await check(tab, relay, generation)


@pytest.mark.slow
@pytest.mark.parametrize("point", ["submit.looked_up", "submit.enqueued", "submit.admitted"])
async def test_a_submit_whose_answer_was_lost_makes_one_generation(relay: World, browser: Browser, point: str) -> None:
    relay.fake.script = Script(tokens=TOKENS)
    doomed = await relay.gateway(RELAY_CRASH_AT=point)
    tab = await opened(browser, doomed)
    await tab.until("!sessions.s.rebuilding")
    await tab.submit("s", "asked", content="Count")
    assert await doomed.exited() == -signal.SIGKILL
    gateway = await relay.gateway("--port", port(doomed))
    accepted = (await tab.settled("asked"))["value"]
    await relay.worker(RELAY_LEASE_S="1")
    await check(tab, relay, accepted["generation"])
    assert accepted["duplicate"] is (point == "submit.admitted")
    assert len(relay.fake.calls) == 1
    _, snapshot, _ = await gateway.http("GET", "/v1/sessions/s")
    assert [generation["generation"] for generation in snapshot["generations"]] == [accepted["generation"]]


@pytest.mark.slow
async def test_stop_ends_the_answer_and_a_stop_while_the_gateway_is_away_is_sent_when_it_is_back(
    relay: World, browser: Browser
) -> None:
    relay.fake.script = Script(tokens=TOKENS, hold_before=20)
    gateway = await relay.gateway()
    await relay.worker()
    tab = await opened(browser, gateway)
    generation = await tab.ask("s", "Count")
    await tab.shows("s", generation, BEGUN)
    await gateway.kill()
    await tab.run("name => promise('stop', sessions.s.stop(name))", generation)
    await relay.gateway("--port", port(gateway))
    assert (await tab.settled("stop"))["value"] == {"generation": generation, "already_ended": False}
    await check(tab, relay, generation, "stopped")
    await relay.fake.wait_for(lambda fake: fake.calls[0].client_gone_at is not None)
    await tab.run("name => promise('again', sessions.s.stop(name))", generation)
    assert (await tab.settled("again"))["value"] == {"generation": generation, "already_ended": True}
    await tab.run("promise('unknown', sessions.s.stop('g_unknown'))")
    assert (await tab.settled("unknown"))["error"]["code"] == "not_found"


@pytest.mark.slow
async def test_two_sessions_share_one_socket_and_keep_apart(relay: World, browser: Browser) -> None:
    gateway = await relay.gateway()
    await relay.worker()
    relay.fake.set_script(Script(tokens=["one ", "👍"]), prompt="first")
    relay.fake.set_script(Script(tokens=["two ", "🙂"]), prompt="second")
    tab = await opened(browser, gateway)
    await tab.follow("t")
    first, second = await tab.ask("s", "first"), await tab.ask("t", "second")
    assert (await tab.ended("s", first))["text"] == "one 👍"
    assert (await tab.ended("t", second))["text"] == "two 🙂"
    assert await tab.run("[...sessions.s.generations.keys()]") == [first]
    assert await tab.run("sessions.t.messages.map(({ content }) => content)") == ["second"]
    assert await tab.run("sockets.length") == 1
    await tab.run("sessions.t.unsubscribe()")
    await tab.until("frames.some(({ type, session }) => type === 'unsubscribed' && session === 't')")
    assert await tab.events("t", "deleted") == []
    assert await tab.run("[sessions.t.following, sessions.s.following]") == [False, True]


@pytest.mark.slow
async def test_a_drained_gateway_is_left_and_its_successor_found_when_it_said_so(
    relay: World, browser: Browser
) -> None:
    relay.fake.script = Script(tokens=TOKENS, hold_before=20)
    gateway = await relay.gateway()
    await relay.worker()
    tab = await opened(browser, gateway)
    generation = await tab.ask("s", "Count")
    await tab.shows("s", generation, BEGUN)
    await gateway.end()
    relay.fake.release()
    await relay.gateway("--port", port(gateway))
    await check(tab, relay, generation)
    draining = (await tab.run("frames.filter(({ type }) => type === 'draining')"))[0]
    came_back_after_ms = (await tab.run("sockets[1].ms")) - draining["ms"]
    assert came_back_after_ms >= draining["reconnect_in_ms"] - 5


@pytest.mark.slow
async def test_what_was_there_comes_flagged_as_catchup_and_what_is_written_now_does_not(
    relay: World, browser: Browser
) -> None:
    gateway = await relay.gateway()
    await relay.worker()
    tab = await opened(browser, gateway)
    old = await tab.ask("s", "old")
    await tab.ended("s", old)
    late = await client_page(browser, gateway.url + "/healthz")
    await late.follow("s")
    await late.ended("s", old)
    await late.until("events.some(({ type }) => type === 'end')")
    assert [event["catchup"] for event in await late.events("s", "end")] == [True]
    assert all(event["catchup"] for event in await late.events("s", "change"))
    new = await tab.ask("s", "new")
    await late.ended("s", new)
    await late.until("events.filter(({ type }) => type === 'end').length === 2")
    assert [event["catchup"] for event in await late.events("s", "end")] == [True, False]
    assert (await late.events("s", "change"))[-1]["generations"] == [new]


@pytest.mark.slow
async def test_a_live_joiner_shows_what_comes_from_now_on(relay: World, browser: Browser) -> None:
    relay.fake.script = Script(tokens=TOKENS, hold_before=20)
    gateway = await relay.gateway()
    await relay.worker()
    tab = await opened(browser, gateway)
    generation = await tab.ask("s", "Count")
    await tab.shows("s", generation, BEGUN)
    late = await client_page(browser, gateway.url + "/healthz")
    await late.follow("s", **{"from": "live"})
    await late.until("!sessions.s.rebuilding")
    relay.fake.release()
    shown = await late.ended("s", generation)
    assert shown["text"] == "".join(TOKENS[20:])
    assert (shown["state"], shown["unproven"]) == ("complete", False)


@pytest.mark.slow
async def test_a_page_that_has_the_session_gets_what_follows_and_nothing_twice(relay: World, browser: Browser) -> None:
    relay.fake.script = Script(tokens=TOKENS, hold_before=20)
    gateway = await relay.gateway()
    await relay.worker()
    tab = await opened(browser, gateway)
    generation = await tab.ask("s", "Count")
    await tab.shows("s", generation, BEGUN)
    late = await client_page(browser, gateway.url + "/healthz")
    await late.run(
        "async () => { window.got = await (await fetch('/v1/sessions/s')).json();"
        " follow('s', { cursor: { epoch: got.epoch, seq: got.head } }); }"
    )
    await late.until("frames.some(({ type }) => type === 'subscribed')")
    relay.fake.release()
    shown = await late.ended("s", generation)
    (begun,) = await late.run("got.generations")
    assert begun["text"] + shown["text"] == "".join(TOKENS)
    assert begun["attempt"] == shown["attempt"]
    assert (shown["state"], shown["unproven"], begun["state"]) == ("complete", False, "streaming")
    assert await late.run("sessions.s.resumed")
    assert await late.run("sessions.s.cursor") == await tab.run("sessions.s.cursor")
    assert await late.run("commands.filter(({ type }) => type === 'subscribe').length") == 1


@pytest.mark.slow
async def test_a_page_learns_why_it_gets_no_connection(relay: World, browser: Browser) -> None:
    def not_for(address: str) -> str:
        return (
            f"{address} answers, but not to pages of {elsewhere.url}."
            " RELAY_ALLOWED_ORIGINS of the relay may not name that origin."
        )

    gateway = await relay.gateway()
    async with ScriptedGateway(lambda command: []) as elsewhere:
        tab, nowhere = Tab(await browser.new_page()), f"http://127.0.0.1:{free_port()}"
        await tab.page.goto(elsewhere.url)
        async with ScriptedGateway(lambda command: [], refuses=403) as refusing:
            await tab.run(
                """async (addresses) => {
                  const { connect } = await import("/relay-client.js");
                  window.relays = addresses.map((address) => connect(address));
                }""",
                [gateway.url, nowhere, refusing.url],
            )
            await tab.until("relays.every(({ trouble }) => trouble)")
            assert await tab.run("relays.map(({ trouble }) => trouble)") == [
                not_for(gateway.url),
                f"Nothing answers at {nowhere}. The address may be wrong, the relay down, or the page's"
                " Content-Security-Policy in the way.",
                not_for(refusing.url),
            ]
        await tab.run("relays.forEach((one) => one.close())")


@pytest.mark.slow
async def test_a_session_beyond_the_limit_is_followed_once_another_is_left_or_deleted(
    relay: World, browser: Browser
) -> None:
    gateway = await relay.gateway(RELAY_MAX_SUBSCRIPTIONS="1")
    await relay.worker()
    tab = await opened(browser, gateway)
    for name in ("t", "u"):
        await tab.follow(name)
        await tab.until("name => sessions[name].refused?.code === 'too_many_subscriptions'", name)
    asked = await tab.ask("t", "?")
    assert await tab.run("['s', 't', 'u'].map((name) => sessions[name].following)") == [True, False, False]
    await tab.run("sessions.s.unsubscribe()")
    shown = await tab.ended("t", asked)
    assert (shown["state"], shown["unproven"]) == ("complete", False)
    assert await tab.run("['t', 'u'].map((name) => sessions[name].following)") == [True, False]
    assert (await gateway.http("DELETE", "/v1/sessions/t"))[0] == 204
    await tab.until("sessions.u.following")
    assert [event["error"]["code"] for event in await tab.events("u", "error")] == ["too_many_subscriptions"]
