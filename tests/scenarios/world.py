"""One relay for one scenario: a Redis prefix of its own, gateways and workers as real processes, a fake provider."""

from __future__ import annotations

import asyncio
import json
import secrets
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import anyio.to_thread
import redis.asyncio
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import SSLConnection
from redis.asyncio.sentinel import Sentinel

from relay.redis.address import parse_address
from tests.fakes.provider import FakeProvider, Script
from tests.scenarios import credentials
from tests.scenarios.processes import START_S, TIMEOUT_S, Process, until

__all__ = ["Gateway", "Script", "World", "world"]

P = TypeVar("P", bound=Process)


class Gateway(Process):
    """A gateway process and its address."""

    url: str = ""

    async def http(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """(status, decoded JSON or text, headers); `body` bytes go as they are, anything else as JSON."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        headers = credentials.HEADERS if headers is None else {**credentials.HEADERS, **headers}
        asked = {"Content-Type": "application/json", **headers} if data is not None else headers
        request = urllib.request.Request(self.url + path, data, asked, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

        def call() -> tuple[int, Any, dict[str, str]]:
            try:
                with opener.open(request, timeout=20) as answer:
                    status, text, sent = answer.status, answer.read().decode(), answer.headers
            except urllib.error.HTTPError as error:
                status, text, sent = error.code, error.read().decode(), error.headers
            got = {name.lower(): value for name, value in sent.items()}  # a proxy in between writes them its own way
            is_json = got.get("content-type", "").startswith("application/json")
            return status, json.loads(text) if is_json else text, got

        return await anyio.to_thread.run_sync(call)


class World:
    def __init__(self, redis_url: str, directory: Path, fake: FakeProvider) -> None:
        self.fake = fake
        self.redis_url = redis_url
        self.prefix = f"t{secrets.token_hex(4)}"
        self.redis = client(redis_url)
        self.settings: dict[str, str] = {}
        self._directory = directory
        self._processes: list[Process] = []

    async def gateway(self, *flags: str, **settings: str) -> Gateway:
        """A gateway that has Redis."""
        gateway = await self.listening_gateway(*flags, **settings)

        async def ready() -> bool:
            try:
                return (await gateway.http("GET", "/readyz"))[0] == 200
            except OSError:
                assert gateway.code is None, gateway.stderr.read_text()
                return False

        await until(ready, "the gateway is ready", START_S)
        return gateway

    async def listening_gateway(self, *flags: str, **settings: str) -> Gateway:
        gateway = self._spawn(Gateway, ["relay", "gateway", "--port", "0", *flags], "gateway", settings)
        line = await until(
            lambda: gateway.logged("listening") or gateway.code is not None, "the gateway listens", START_S
        )
        assert isinstance(line, dict), gateway.stderr.read_text()
        gateway.url = f"http://127.0.0.1:{line['port']}"
        return gateway

    async def worker(self, *flags: str, provider: str = "openai", wait: bool = True, **settings: str) -> Process:
        """A worker with the fake provider; with `wait` until it serves (one that is to crash may never)."""
        if provider == "anthropic":
            fake = {"ANTHROPIC_BASE_URL": self.fake.anthropic_base_url, "ANTHROPIC_API_KEY": "sk-ant-scenario"}
            settings = fake | settings
        if provider == "agent":
            settings = {"AGENT_API_URL": self.fake.agent_url, "AGENT_API_KEY": "agent-scenario"} | settings
        worker = self._spawn(Process, ["relay-worker", "--provider", provider, *flags], "worker", settings)
        if wait:
            await until(lambda: worker.logged("serving") or worker.code is not None, "the worker serves", START_S)
            assert worker.code is None, worker.stderr.read_text()
        return worker

    def send(self, gateway: Gateway, session: str, question: str) -> Process:
        return self._spawn(Process, ["relay", "send", session, question, "--url", gateway.url], "send", {})

    def tail(self, gateway: Gateway, session: str, *flags: str) -> Process:
        return self._spawn(Process, ["relay", "tail", session, "--url", gateway.url, *flags], "tail", {})

    def spawn(self, *command: str, **settings: str) -> Process:
        """Any other command of ours, in this world."""
        return self._spawn(Process, list(command), command[0], settings)

    async def metrics(self, process: Process) -> dict[str, float]:
        """The samples on a process's metrics page: what stands before the value → the value."""
        if isinstance(process, Gateway):
            url = process.url
        else:
            serving = process.logged("serving")
            assert serving is not None
            url = f"http://127.0.0.1:{serving['metrics_port']}"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

        request = urllib.request.Request(url + "/metrics", headers=credentials.HEADERS)

        def get() -> str:
            with opener.open(request, timeout=20) as answer:
                text: str = answer.read().decode()
                return text

        lines = (await anyio.to_thread.run_sync(get)).splitlines()
        pairs = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
        return {sample: float(value) for sample, value in pairs}

    async def metrics_once(self, process: Process, wanted: dict[str, float]) -> dict[str, float]:
        """The same, once these samples have these values."""
        found: dict[str, float] = {}
        try:
            async with asyncio.timeout(TIMEOUT_S):
                while not all(found.get(sample) == value for sample, value in wanted.items()):
                    found = await self.metrics(process)
        except TimeoutError:
            raise AssertionError(f"{wanted} did not come true: {[found.get(sample) for sample in wanted]}") from None
        return found

    async def keys(self) -> list[str]:
        return sorted([key.decode() async for key in self.redis.scan_iter(f"{self.prefix}:*", count=1000)])

    async def ttls(self) -> dict[str, int]:
        return {key: await self.redis.pttl(key) for key in await self.keys()}

    def _spawn(self, kind: type[P], command: list[str], name: str, settings: dict[str, str]) -> P:
        environment = {
            "RELAY_REDIS_URL": self.redis_url,
            "RELAY_PREFIX": self.prefix,
            "OPENAI_BASE_URL": self.fake.openai_base_url,
            "OPENAI_API_KEY": "sk-scenario",
            **self.settings,
            **settings,
        }
        process = kind(command, self._directory, f"{len(self._processes)}-{name}", environment)
        self._processes.append(process)
        return process

    async def end_processes(self) -> None:
        """All that were ever begun here."""
        for process in self._processes:
            await process.end()

    async def aclose(self) -> None:
        await self.end_processes()
        for process in self._processes:
            process.check_log()
        for key in await self.keys():
            await self.redis.delete(key)
        await self.redis.aclose()


def client(redis_url: str) -> redis.asyncio.Redis:
    """redis-py's own client of whatever kind of Redis; none of ours has a part in it."""
    address = parse_address(redis_url)
    if address.kind == "cluster":
        nodes = [ClusterNode(*seed) for seed in address.seeds]
        tls = address.connection_class is SSLConnection
        return RedisCluster(startup_nodes=nodes, ssl=tls, **address.options)  # type: ignore[return-value]  # close enough for what tests ask
    if address.kind == "sentinel":
        options = address.sentinel_options
        made: redis.asyncio.Redis = Sentinel(address.seeds, sentinel_kwargs=options).master_for(  # type: ignore[no-untyped-call]
            address.service, **address.options
        )
        return made
    return redis.asyncio.Redis.from_url(redis_url)


@asynccontextmanager
async def world(redis_url: str, directory: Path) -> AsyncIterator[World]:
    async with FakeProvider(Script(tokens=["Hello", " there"])) as fake:
        made = World(redis_url, directory, fake)
        try:
            yield made
        finally:
            await made.aclose()
