"""The demo page in a real browser."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, Locator, Page, expect

from tests.fakes.provider import Script
from tests.scenarios.browser import chromium
from tests.scenarios.client import Client, check
from tests.scenarios.world import World

TOKENS = [f"w{number} " for number in range(40)]
HOSTILE = "<img src=x onerror=document.title='gone'><b>bold</b> 👩‍👩‍👧 & <script>alert(1)</script>"

pytestmark = pytest.mark.slow


class Tabs:
    """One browser; every complaint of a page, and every request to anybody but the gateway, is kept."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self.complaints: list[str] = []

    async def open(self, url: str, session: str = "s") -> Page:
        page = await self._browser.new_page()
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on(
            "request", lambda asked: None if asked.url.startswith((url, "data:")) else self.complaints.append(asked.url)
        )
        await page.goto(f"{url}/#s={session}")
        return page


@pytest.fixture
async def tabs() -> AsyncIterator[Tabs]:
    async with chromium() as browser:
        made = Tabs(browser)
        yield made
    assert not made.complaints


def _at(page: Page, name: str) -> Locator:
    return page.get_by_test_id(name)


async def _ask(page: Page, question: str) -> None:
    await _at(page, "prompt").fill(question)
    await _at(page, "prompt").press("Enter")


async def test_a_person_asks_reloads_in_the_middle_and_watches_from_a_second_tab(relay: World, tabs: Tabs) -> None:
    relay.fake.script = Script(tokens=TOKENS, hold_before=20)
    gateway = await relay.gateway()
    await relay.worker()
    page = await tabs.open(gateway.url)
    await _ask(page, "Count, please")
    await expect(_at(page, "answer-text")).to_have_text("".join(TOKENS[:20]).strip())
    await expect(_at(page, "answer")).to_have_attribute("data-state", "streaming")
    await page.reload()
    await expect(_at(page, "question")).to_have_text("Count, please")
    await expect(_at(page, "answer-text")).to_have_text("".join(TOKENS[:20]).strip())
    second = await tabs.open(gateway.url)
    await expect(_at(second, "answer-text")).to_have_text("".join(TOKENS[:20]).strip())
    relay.fake.release()
    for tab in (page, second):
        await expect(_at(tab, "answer")).to_have_attribute("data-state", "complete")
        assert await _at(tab, "answer-text").evaluate("node => node.textContent") == "".join(TOKENS)


async def test_stop_from_another_tab_stops_it_everywhere_and_the_text_stays(relay: World, tabs: Tabs) -> None:
    relay.fake.script = Script(tokens=TOKENS, hold_before=10)
    gateway = await relay.gateway()
    await relay.worker()
    asking, other = await tabs.open(gateway.url), await tabs.open(gateway.url)
    await _ask(asking, "Count")
    await expect(_at(other, "answer")).to_have_attribute("data-state", "streaming")
    await _at(other, "stop").click()
    for tab in (asking, other):
        await expect(_at(tab, "answer")).to_have_attribute("data-state", "stopped")
        await expect(_at(tab, "answer-text")).to_have_text("".join(TOKENS[:10]).strip())
    await relay.fake.wait_for(lambda fake: fake.calls[0].client_gone_at is not None)


async def test_a_browser_that_was_offline_goes_on_where_it_was(relay: World, tabs: Tabs) -> None:
    relay.fake.script = Script(tokens=TOKENS, hold_before=20)
    gateway = await relay.gateway(RELAY_HEARTBEAT_S="0.4")
    await relay.worker()
    page = await tabs.open(gateway.url)
    async with Client(gateway.url, "s") as beside:
        await beside.subscribe()
        await _ask(page, "Count")
        await expect(_at(page, "answer-text")).to_have_text("".join(TOKENS[:20]).strip())
        await page.context.set_offline(True)
        await gateway.http("GET", "/healthz")
        relay.fake.release()
        (generation,) = beside.view.generations
        await beside.ended(generation)
        await page.context.set_offline(False)
        await expect(_at(page, "answer")).to_have_attribute("data-state", "complete", timeout=15_000)
        assert await _at(page, "answer-text").evaluate("node => node.textContent") == "".join(TOKENS)
        check(beside, generation, "".join(TOKENS))


async def test_a_gateway_that_dies_is_shown_as_reconnecting_and_the_page_comes_back(relay: World, tabs: Tabs) -> None:
    relay.fake.script = Script(tokens=TOKENS, hold_before=20)
    gateway = await relay.gateway()
    await relay.worker()
    page = await tabs.open(gateway.url)
    await _ask(page, "Count")
    await expect(_at(page, "answer-text")).to_have_text("".join(TOKENS[:20]).strip())
    port = gateway.url.rpartition(":")[2]
    await gateway.kill()
    await expect(_at(page, "status")).to_have_attribute("data-state", "reconnecting")
    relay.fake.release()
    await relay.gateway("--port", port)
    await expect(_at(page, "answer")).to_have_attribute("data-state", "complete", timeout=30_000)
    assert await _at(page, "answer-text").evaluate("node => node.textContent") == "".join(TOKENS)


async def test_text_is_shown_as_text_and_a_failure_as_a_sentence_with_another_try(relay: World, tabs: Tabs) -> None:
    relay.fake.script = Script(tokens=[HOSTILE], close_after=1)
    gateway = await relay.gateway()
    await relay.worker()
    page = await tabs.open(gateway.url)
    await _ask(page, HOSTILE)
    await expect(_at(page, "answer")).to_have_attribute("data-state", "failed")
    for shown in ("question", "answer-text"):
        assert await _at(page, shown).evaluate("node => node.textContent") == HOSTILE
    assert await page.title() != "gone"
    await expect(_at(page, "answer")).to_contain_text("The assistant ran into a problem. Please try again.")
    relay.fake.script = Script(tokens=["Better."])
    await _at(page, "retry").click()
    await expect(_at(page, "answer").last).to_have_attribute("data-state", "complete")
    await expect(_at(page, "answer-text").last).to_have_text("Better.")
    await expect(_at(page, "question")).to_have_count(1)
