"""Two gateways' followers and viewers on a Redis at a distance, clients that come and go, and what they are to show.

Real scripts, hubs, followers and viewers; what Redis publishes is delivered, lost, doubled or late as a test likes. The
clients apply no rule of ours: what each was sent is judged by tests/scenarios/checker.py.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import msgspec
from redis.asyncio import Redis

from relay.auth.identity import UNRESTRICTED
from relay.errors import StorageError
from relay.follow.broadcast import Burst
from relay.follow.follower import Follower
from relay.follow.page_cache import PageCache
from relay.gateway.follower_pool import FollowerPool
from relay.gateway.viewer import Viewer
from relay.protocol.view import FrameDict
from relay.protocol.words import Cursor
from relay.redis.pubsub.subscriber import ChannelListener
from relay.store.keys import Keys
from relay.store.session.replies import Page
from relay.store.session.session_log import PAGE_BYTES, SessionLog
from tests.follow.distance import Distant
from tests.follow.following import LOST, no_orphans
from tests.scenarios.checker import judge
from tests.sink_order import Order
from tests.store.in_memory import SESSION_TTL_S, Writer, admitted_and_claimed, session_log_on

SETTLED_TURNS = 20_000
MAX_GENERATIONS = 3
SMALL_PAGE_BYTES = 800


class Told:
    """Sink of one connection: has room when the test says so, and hands what it is sent to its client."""

    def __init__(self, client: Client) -> None:
        self.frame_lock = asyncio.Lock()
        self.open = asyncio.Event()
        self.open.set()
        self.gone = False
        self._client = client
        self._order = Order()

    def send(self, payload: bytes) -> None:
        if complaint := self._order.complaint(payload):
            self._client.complaints.append(complaint)
        if not self.gone:
            self._client.take(msgspec.json.decode(payload))

    def burst(self, burst: Burst) -> None:
        for payload in burst.payloads:
            self.send(payload)

    def writable(self) -> bool:
        return self.open.is_set()

    async def room(self) -> None:
        while not self.open.is_set():  # it may be slow again before whoever waits has his turn
            await self.open.wait()

    def close(self, code: int, reason: str) -> None:
        self._client.complaints.append(f"closed {code} {reason}")


class Client:
    """A person's device: subscribes, is cut off, comes back with its cursor, to whichever gateway.

    `record`: what the contract has it apply. It asks for nothing again by itself, so that every fault stays.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.record: list[FrameDict] = []
        self.complaints: list[str] = []
        self.alarms = 0  # times that it was told `degraded`
        self.viewer: Viewer | None = None
        self.gate: Gate | None = None
        self.sink = Told(self)
        self.coming: asyncio.Task[None] | None = None
        self._epoch = ""
        self._last = 0
        self._asked = 0
        self._waiting = False

    @property
    def cursor(self) -> Cursor | None:
        return Cursor(self._epoch, self._last) if self._epoch else None

    @property
    def began_at(self) -> int:
        """Where what it was sent begins, since it was last told to forget what it had."""
        return next(
            int(frame["at"])
            for frame in reversed(self.record)
            if frame["type"] == "subscribed" and not frame["recovered"]
        )

    def come(self, gate: Gate, start: str) -> None:
        """Subscribe, on the connection that it has if it is of this gateway."""
        self.leave_off()
        if self.gate is not gate:
            self.cut()
        self.gate = gate
        self._asked += 1
        self._waiting = True
        self.coming = asyncio.create_task(self._come(gate, start, str(self._asked)), name=self.name)

    def leave_off(self) -> None:
        """A subscribe that is on its way is cancelled, as by a timeout or a hang-up."""
        if self.coming is not None:
            self.coming.cancel()

    def cut(self) -> None:
        self.leave_off()
        self.sink.gone = True
        self.sink.open.set()
        if self.viewer is not None and self.gate is not None:
            self.gate.give_back(self.viewer)
        self.viewer, self.gate, self.sink = None, None, Told(self)

    def take(self, frame: FrameDict) -> None:
        kind = frame["type"]
        if self._waiting and kind != "unsubscribed":
            if kind != "subscribed" or frame.get("id") != str(self._asked):
                return
            self._waiting = False
        if kind == "subscribed":
            self._epoch, self._last = frame["epoch"], frame["at"]
        elif "seq" in frame:
            self._last = frame["seq"]
        else:
            self.alarms += kind == "degraded"
            return
        self.record.append(frame)

    async def _come(self, gate: Gate, start: str, reply_id: str) -> None:
        cursor = self.cursor
        while True:
            try:
                follower = await gate.hub.acquire("s", cursor, access=UNRESTRICTED)
                break
            except StorageError:  # `unavailable`: it asks again
                await asyncio.sleep(0)
        earlier, self.viewer = self.viewer, Viewer(follower, self.sink, self._deleted)
        if earlier is not None:
            earlier.close()
        self.viewer.begin(cursor, start, reply_id, earlier=earlier)
        if earlier is not None:
            gate.give_back(earlier)

    def _deleted(self, viewer: Viewer) -> None:
        if self.viewer is viewer and self.gate is not None:
            self.viewer = None
            self.gate.give_back(viewer)


class _Paged(SessionLog):
    """Its pages are small, so that a replay reads several."""

    async def range(
        self, session: str, first: int, last: int | None = None, page_bytes: int = PAGE_BYTES
    ) -> Page | None:
        return await super().range(session, first, last, min(page_bytes, SMALL_PAGE_BYTES))


class Gate:
    """What one gateway process has of this session. `in_flight`: published, and not delivered here yet."""

    def __init__(self, redis: Redis, chance: random.Random, window_bytes: int, turns: int) -> None:
        self.redis = Distant(redis, chance, turns)
        self.in_flight: list[bytes] = []
        self._listener: ChannelListener | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self._log = _Paged(
            self.redis,  # type: ignore[arg-type]  # as much of it as is asked for
            self.redis,  # type: ignore[arg-type]
            Keys("t"),
            session_ttl_s=SESSION_TTL_S,
            max_generations=MAX_GENERATIONS,
            max_requests=1000,
        )
        self._window_bytes = window_bytes
        self._shelf = PageCache(1_000_000)
        self.hub = FollowerPool(self._follower, self._log.own, linger_s=0)

    def _follower(self, session: str) -> Follower:
        return Follower(
            session, self._log, self, self._shelf, window_bytes=self._window_bytes, max_frame_bytes=1500,
            lost_after_s=600, lost_members=LOST, orphaned=no_orphans,
        )  # fmt: skip

    async def subscribe(self, channel: str, listener: ChannelListener) -> None:
        await self.redis.way()
        self._listener = listener
        listener.acknowledged()

    def unsubscribe(self, channel: str, listener: ChannelListener) -> None:
        if self._listener is listener:
            self._listener = None

    def say(self, payload: bytes) -> None:
        if self._listener is not None:
            self._listener.message(payload)

    def acknowledged(self) -> None:
        if self._listener is not None:
            self._listener.acknowledged()

    def give_back(self, viewer: Viewer) -> None:
        self.hub.release(viewer.follower)
        viewer.close()
        task = asyncio.create_task(viewer.aclose())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def aclose(self) -> None:
        await asyncio.gather(*self._leaving, return_exceptions=True)
        await self.hub.aclose()


class Truth:
    """One answer, as its writer wrote it."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.text = ""
        self.reason: str | None = None


class Shaken:
    """One session, and everybody who has to do with it. One step at a time; what it begins goes on meanwhile."""

    def __init__(self, redis: Redis, chance: random.Random, window_bytes: int, turns: int) -> None:
        self.redis = redis
        self.log = session_log_on(redis, max_generations=MAX_GENERATIONS)
        self.gates = [Gate(redis, chance, window_bytes, turns) for _ in range(2)]
        self.clients: list[Client] = []
        self.answers: dict[str, Truth] = {}
        self.late: list[tuple[Gate, bytes]] = []
        self.lives = 1  # of the log: another one is told as a loss is
        self._named = 0
        self._pubsub: Any = redis.pubsub()
        self._looks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        await self._pubsub.subscribe("t:s:{s}:events")

    async def aclose(self) -> None:
        for client in self.clients:
            client.cut()
        for task in self._looks:
            task.cancel()
        await asyncio.gather(*self._looks, return_exceptions=True)
        for gate in self.gates:
            await gate.aclose()
        await self._pubsub.aclose()

    # What workers and other gateways do

    async def writes(self, number: int) -> None:
        """On one of the answers that run, if need be a new one."""
        running = [name for name, answer in self.answers.items() if answer.reason is None]
        if not running or (number % 7 == 0 and len(running) < MAX_GENERATIONS):
            await self._begins()
            return
        name = running[number % len(running)]
        answer = self.answers[name]
        match number % 11:
            case 0:
                await answer.writer.status("thinking")
            case 1:
                await answer.writer.reasoning("hm", "…")
            case 2:
                assert (await answer.writer.restart()).what == "written"
                answer.text = ""
            case 3:
                assert (await answer.writer.end()).what == "written"
                answer.reason = "complete"
            case 4:
                await self._says(answer, "long " * 40)
            case _:
                await self._says(answer, f"{number} ", "words")
        await self.overhear()

    async def stops(self, number: int) -> None:
        names = sorted(self.answers)
        if names and (stopped := await self.log.stop("s", names[number % len(names)])) and not stopped.already_ended:
            self.answers[stopped.generation].reason = "stopped"
        await self.overhear()

    async def trims(self, number: int) -> None:
        names = sorted(self.answers)
        if names:
            await self.log.trim("s", names[number % len(names)])
        await self.overhear()

    async def rotates(self) -> None:
        if (opened := await self.log.open("s", create=False)) is not None:
            await self.log.rotate("s", opened.epoch, missing=False)
        self.lives += 1
        await self.overhear()

    async def deletes(self) -> None:
        await self.log.delete("s", 60_000)
        self.answers.clear()
        await self.overhear()

    async def loses_everything(self) -> None:
        await self.redis.flushall()
        self.answers.clear()
        self.lives += 1

    async def _begins(self) -> None:
        self._named += 1
        name = f"g{self._named}"
        self.answers[name] = Truth(await admitted_and_claimed(self.log, name))
        await self.overhear()

    async def _says(self, answer: Truth, *texts: str) -> None:
        assert (await answer.writer.tokens(*texts)).what == "written"
        answer.text += "".join(texts)

    async def overhear(self) -> None:
        """What was published since last time is in flight to both gateways."""
        while (message := await self._pubsub.get_message()) is not None:
            if message["type"] == "message":
                for gate in self.gates:
                    gate.in_flight.append(message["data"])

    # What pub/sub, followers and clients do

    def delivers(self, number: int) -> None:
        """The next hints, one to four, or in the place of each now and then one of the next."""
        gate = self.gates[number % 2]
        for _ in range(min(1 + number % 4, len(gate.in_flight))):
            gate.say(gate.in_flight.pop(0 if number % 9 else number % len(gate.in_flight)))

    def drops(self, number: int) -> None:
        gate = self.gates[number % 2]
        if gate.in_flight:
            self.late.append((gate, gate.in_flight.pop(number % len(gate.in_flight))))

    def doubles(self, number: int) -> None:
        gate = self.gates[number % 2]
        if gate.in_flight:
            gate.say(gate.in_flight[number % len(gate.in_flight)])

    def looks(self, number: int) -> None:
        follower = self.gates[number % 2].hub.get("s", UNRESTRICTED)
        if follower is not None:
            self._looks.append(asyncio.create_task(self._look(follower)))

    def gives_up_looking(self, number: int) -> None:
        if self._looks:
            self._looks[number % len(self._looks)].cancel()

    def joins(self, number: int) -> None:
        """Somebody new, as long as there is room for one, or one who comes back or asks again."""
        if len(self.clients) < 5:
            self.clients.append(Client(f"client {len(self.clients)}"))
            self.clients[-1].come(self.gates[number % 2], "live" if number % 5 == 0 else "start")
        else:
            self.clients[number % 5].come(self.gates[number // 5 % 2], "start")

    def leaves(self, number: int) -> None:
        if self.clients:
            self.clients[number % len(self.clients)].cut()

    def is_slow(self, number: int) -> None:
        if self.clients:
            self.clients[number % len(self.clients)].sink.open.clear()

    def drains(self, number: int) -> None:
        if self.clients:
            self.clients[number % len(self.clients)].sink.open.set()

    @staticmethod
    async def _look(follower: Follower) -> None:
        try:
            await follower.sync()
        except StorageError:
            pass  # it looks again

    # What must be true

    async def settles(self) -> None:
        """Everything ends, everybody is there and takes everything, and all hints come once more, and late."""
        for gate in self.gates:
            gate.redis.failing = 0
        for name, answer in self.answers.items():
            if answer.reason is None and await self.log.stop("s", name) is not None:
                answer.reason = "stopped"
        await self.overhear()
        for number, client in enumerate(self.clients):
            client.sink.open.set()
            if client.viewer is None and (client.coming is None or client.coming.done()):
                client.come(self.gates[number % 2], "start")
        for gate in self.gates:
            for payload in gate.in_flight:
                gate.say(payload)
        for gate, payload in self.late:
            gate.say(payload)
        if self.clients:
            await self._everybody_is_at_the_head()

    async def _everybody_is_at_the_head(self) -> None:
        for turn in range(SETTLED_TURNS):
            if turn % 200 == 0:
                for number in range(2):
                    self.looks(number)  # the one that is due now and then
                opened = await self.log.open("s", create=False)
                for number, client in enumerate(self.clients):
                    if client.viewer is None and client.coming is not None and client.coming.done():
                        client.come(self.gates[number % 2], "start")  # its session was deleted
                here = Cursor(opened.epoch, opened.head) if opened is not None else None
                if all(client.cursor == here and client.viewer is not None for client in self.clients):
                    return
            await asyncio.sleep(0)
        standing = [(client.name, client.cursor, client.record[-3:]) for client in self.clients]
        raise AssertionError(f"the log is at {here}, and not everybody is: {standing}")

    async def judged(self) -> None:
        for client in self.clients:
            assert not client.complaints, (client.name, client.complaints)
            if self.lives == 1 and not any(gate.redis.failed for gate in self.gates):
                assert not client.alarms, f"{client.name} was told `degraded`, and Redis has always answered"
            for name, answer in self.answers.items():
                span = await self.log.span("s", name)
                if span is None:
                    continue  # removed, as the oldest beyond the bound
                assert span.last is not None
                assert answer.reason is not None
                if span.last > client.began_at:  # who wanted it live came when it was over
                    judge(client.record, name, answer.text, answer.reason).assert_clean()
