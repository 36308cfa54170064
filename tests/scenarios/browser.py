"""A real browser for the tests: Debian's Chromium through Playwright, and a page with nothing but the client in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Browser, Page, async_playwright

QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


def chromium_path() -> str:
    """Where Chromium is; skips the test where there is none, except in CI."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("there is no chromium on PATH; Debian's package is called chromium")
        pytest.skip("there is no chromium on PATH")
    return path


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    path = chromium_path()
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=QUIET)
        try:
            yield browser
        finally:
            await browser.close()


# Every socket, command and frame is kept, with the time by the page's clock; promises and events too.
_SET_UP = """async (options) => {
  const { connect } = await import("/relay-client.js");
  Object.assign(window, { sockets: [], commands: [], frames: [], events: [], sessions: {}, promises: {} });
  class Watched extends WebSocket {
    constructor(...given) {
      super(...given);
      sockets.push({ ms: Date.now(), url: this.url });
      this.addEventListener("message", ({ data }) => frames.push({ ms: Date.now(), ...JSON.parse(data) }));
    }
    send(text) { commands.push(JSON.parse(text)); super.send(text); }
  }
  const plain = (detail) => JSON.parse(JSON.stringify(detail, (_, value) =>
    value instanceof Set ? [...value] : value instanceof Error ? { ...value, message: value.message } : value));
  const watch = (target, of, types) => {
    for (const type of types)
      target.addEventListener(type, ({ detail }) => events.push({ of, type, ...plain(detail) }));
  };
  if (options.token) {
    let asked = 0;
    const { token } = options;
    options.token = async () => `${token}-${++asked}`;
  }
  window.relay = connect(undefined, { ...options, WebSocket: Watched });
  watch(relay, "relay", ["state", "error"]);
  window.follow = (name, options) => {
    sessions[name] = relay.session(name, options);
    watch(sessions[name], name, ["change", "end", "interrupted", "lost", "error", "deleted"]);
  };
  window.promise = (name, made) => {
    promises[name] = null;
    made.then((value) => (promises[name] = { value }), (error) => (promises[name] = { error: plain(error) }));
  };
}"""


class Tab:
    """A page that loads relay-client.js and nothing else, driven from here."""

    def __init__(self, page: Page) -> None:
        self.page = page

    async def run(self, script: str, argument: Any = None) -> Any:
        """What a JavaScript expression, or a function of `argument`, gives."""
        return await self.page.evaluate(script, argument)

    async def until(self, condition: str, argument: Any = None, timeout_s: float = 20) -> None:
        """Wait for a JavaScript condition to hold."""
        await self.page.wait_for_function(condition, arg=argument, timeout=1_000 * timeout_s, polling=10)

    async def follow(self, session: str, **options: str) -> None:
        await self.run("([name, options]) => follow(name, options)", [session, options])

    async def submit(self, session: str, name: str, **body: Any) -> None:
        """Begin a submit; what comes of it is asked for by `name`."""
        await self.run(
            "([session, name, body]) => promise(name, sessions[session].submit(body))", [session, name, body]
        )

    async def settled(self, name: str) -> Any:
        """{value} or {error} of what was begun under this name."""
        await self.until("name => promises[name] !== null", name)
        return await self.run("name => promises[name]", name)

    async def ask(self, session: str, content: str) -> str:
        """Submit; the generation."""
        await self.submit(session, content, content=content)
        return str((await self.settled(content))["value"]["generation"])

    async def shows(self, session: str, generation: str, text: str) -> None:
        """Until exactly this text is shown."""
        await self.until("([s, g, text]) => sessions[s].generations.get(g)?.text === text", [session, generation, text])

    async def ended(self, session: str, generation: str) -> dict[str, Any]:
        """The generation as the page shows it, once it has ended."""
        await self.until("([s, g]) => sessions[s].generations.get(g)?.end != null", [session, generation])
        shown: dict[str, Any] = await self.run(
            "([s, g]) => { const { state, text, end, unproven, attempt } = sessions[s].generations.get(g);"
            " return { state, text, end, unproven, attempt }; }",
            [session, generation],
        )
        return shown

    async def events(self, of: str, kind: str) -> list[dict[str, Any]]:
        """The events of one type so far, of a session or of "relay"."""
        found: list[dict[str, Any]] = await self.run(
            "([of, kind]) => events.filter((event) => event.of === of && event.type === kind)", [of, kind]
        )
        return found


async def client_page(browser: Browser, url: str, **options: Any) -> Tab:
    """A new page of that gateway's origin with `relay` connected to it; `url` may be any address there without CSP."""
    page = await browser.new_page()
    await page.goto(url)
    await page.evaluate(_SET_UP, options)
    return Tab(page)
