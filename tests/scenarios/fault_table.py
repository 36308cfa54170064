"""A gateway and its workers before a provider that fails by script: asks, shows, counts."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from functools import partial

from relay.protocol.view import FrameDict
from tests.fakes.script import Api, Call
from tests.scenarios.client import Client, check
from tests.scenarios.processes import TIMEOUT_S, Process, free_port
from tests.scenarios.provider_faults import Questions
from tests.scenarios.world import Gateway, World

NOWHERE = "http://127.0.0.1:9"
URLS: dict[Api, str] = {"openai": "OPENAI_BASE_URL", "anthropic": "ANTHROPIC_BASE_URL", "agent": "AGENT_API_URL"}


class Table:
    """A gateway, and for each kind of fault a worker with these providers, the first of which will fail."""

    def __init__(self, relay: World, gateway: Gateway, workers: dict[str, Process], providers: list[Api]) -> None:
        self.relay = relay
        self.gateway = gateway
        self.workers = workers
        self.providers = providers
        self.questions = relay.fake.script = Questions()

    @classmethod
    async def of(cls, relay: World, *providers: Api, kinds: Sequence[str] = ("steady",), **settings: str) -> Table:
        fake = relay.fake
        relay.settings = {
            "ANTHROPIC_BASE_URL": fake.anthropic_base_url, "ANTHROPIC_API_KEY": "sk-ant-scenario",
            "AGENT_API_URL": fake.agent_url, "RELAY_PROVIDER_RETRY_MS": "1", "RELAY_BREAKER_FAILURES": "1000",
        } | settings  # fmt: skip
        own = {
            "steady": {},
            "impatient": {  # and yet not so that a busy machine's delay between two tokens counts as silence
                "RELAY_FIRST_TOKEN_TIMEOUT_S": "5", "RELAY_TOKEN_TIMEOUT_S": "5", "RELAY_AGENT_TIMEOUT_S": "5",
            },
            "lost": {URLS[providers[0]]: NOWHERE},
        }  # fmt: skip

        async def worker(kind: str) -> Process:
            flags = ("--queue", kind, "--metrics-port", str(free_port()))
            return await relay.worker(*flags, provider=",".join(providers), **{**relay.settings, **own[kind]})  # type: ignore[arg-type]

        starting = [asyncio.ensure_future(worker(kind)) for kind in kinds]
        gateway = await relay.gateway()
        workers = await asyncio.gather(*starting)
        return cls(relay, gateway, dict(zip(kinds, workers, strict=True)), list(providers))

    async def ask(
        self, question: str, text: str, code: str, *, queue: str = "steady", silent: bool = False
    ) -> FrameDict:
        """Its end, once a viewer and a snapshot have shown this text and no other. `silent`: what is held stays so."""
        session = re.sub("[^a-z0-9]+", "-", question)
        async with Client(self.gateway.url, session) as client:
            await client.subscribe()
            generation = await client.submit(question, queue=queue)
            releasing = None if silent else asyncio.create_task(self._release(client, generation, question))
            try:
                await client.ended(generation)
            finally:
                if releasing is not None:
                    releasing.cancel()
                    await asyncio.gather(releasing, return_exceptions=True)
            end = check(client, generation, text, "failed" if code else "complete")
        path = f"/v1/sessions/{session}/generations/{generation}"
        _, stored, _ = await self.gateway.http("GET", path)
        assert (stored["state"], stored["reason"], stored["text"]) == ("ended", end["reason"], text)
        return end

    async def _release(self, client: Client, generation: str, question: str) -> None:
        """Each call that is held goes on as soon as its viewer shows all that came before."""
        while True:
            call = await self.relay.fake.wait_for(lambda _: self._held(question), TIMEOUT_S)
            await client.until(partial(_shows, client, generation, call.text), f"what came before: {call.text}")
            call.released.set()

    def _held(self, question: str) -> Call | None:
        return next((call for call in self.calls(question) if call.held and not call.released.is_set()), None)

    def calls(self, question: str) -> list[Call]:
        return [call for call in self.relay.fake.calls if call.prompt == question]

    def asked(self, question: str) -> str:
        """Who was asked in turn, by place: 1 the first."""
        return "".join(str(self.providers.index(call.api) + 1) for call in self.calls(question))

    async def counted(self, kind: str) -> dict[str, int]:
        """Calls by outcome, of all providers of one worker, on its metrics page."""
        found: dict[str, int] = {}
        for sample, value in (await self.relay.metrics(self.workers[kind])).items():
            if outcome := re.match(r'relay_provider_calls_total\{outcome="(\w+)"', sample):
                found[outcome[1]] = found.get(outcome[1], 0) + int(value)
        return found


def _shows(client: Client, generation: str, text: str) -> bool:
    return generation in client.view.generations and client.shown(generation).text == text
