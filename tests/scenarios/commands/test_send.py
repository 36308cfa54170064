"""`relay send`, when what is between it and the answer breaks."""

from __future__ import annotations

import signal

from tests.fakes.provider import Script
from tests.scenarios.processes import until
from tests.scenarios.world import World

TOKENS = [f"w{number} " for number in range(30)]


async def test_it_resumes_by_cursor_when_the_gateway_is_killed_and_comes_back(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS, hold_before=10)
    gateway = await relay.gateway()
    await relay.worker()
    send = relay.send(gateway, "s", "q")
    await until(lambda: send.stdout.read_bytes() == "".join(TOKENS[:10]).encode(), "ten tokens on the terminal")
    await gateway.kill()
    relay.fake.release()
    await relay.gateway("--port", gateway.url.rpartition(":")[2])
    assert await send.exited() == 0
    assert send.stdout.read_bytes() == "".join(TOKENS).encode()
    assert len(relay.fake.calls) == 1


async def test_a_second_ctrl_c_leaves_and_the_answer_goes_on(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS, hold_before=10)
    gateway = await relay.gateway()
    await relay.worker()
    send = relay.send(gateway, "s", "q")
    await until(lambda: send.stdout.read_bytes() == "".join(TOKENS[:10]).encode(), "ten tokens on the terminal")
    gateway.signal(signal.SIGSTOP)  # nobody hears the stop
    try:
        send.signal(signal.SIGINT)
        await until(lambda: "stopping" in send.stderr.read_text(), "the first one is understood")
        send.signal(signal.SIGINT)
        assert await send.exited() == 130
        assert "goes on without you" in send.stderr.read_text()
    finally:
        gateway.signal(signal.SIGCONT)


async def test_an_answer_that_begins_again_is_announced_and_printed_again(relay: World) -> None:
    relay.settings = {"RELAY_LEASE_S": "1"}
    relay.fake.script = Script(tokens=TOKENS, hold_before=3)
    gateway = await relay.gateway()
    doomed = await relay.worker()
    send = relay.send(gateway, "s", "q")
    await until(lambda: send.stdout.read_bytes() == "".join(TOKENS[:3]).encode(), "three tokens on the terminal")
    await doomed.kill()
    relay.fake.script = Script(tokens=["Another."])
    await relay.worker()
    assert await send.exited() == 0
    assert send.stdout.read_bytes() == ("".join(TOKENS[:3]) + "Another.").encode()
    assert "relay: the answer begins again\n" in send.stderr.read_text()


async def test_a_failed_answer_is_a_calm_sentence_and_exit_code_one(relay: World) -> None:
    relay.fake.script = Script(status=500, status_body='{"error": {"message": "secret stack trace"}}')
    gateway = await relay.gateway()
    worker = await relay.worker(RELAY_PROVIDER_RETRIES="0")
    send = relay.send(gateway, "s", "my secret question")
    assert await send.exited() == 1
    assert send.stdout.read_bytes() == b""
    assert send.stderr.read_text() == "relay: The assistant ran into a problem. Please try again. (provider_error)\n"
    for process in (gateway, worker):
        assert "secret" not in process.stderr.read_text(), "neither prompts nor a provider's words reach a log"
        assert "sk-scenario" not in process.stderr.read_text()


async def test_an_answer_whose_session_is_deleted_says_so_and_fails(relay: World) -> None:
    relay.fake.script = Script(tokens=TOKENS, hold_before=10)
    gateway = await relay.gateway()
    await relay.worker()
    send = relay.send(gateway, "s", "q")
    await until(lambda: send.stdout.read_bytes() == "".join(TOKENS[:10]).encode(), "ten tokens on the terminal")
    assert (await gateway.http("DELETE", "/v1/sessions/s"))[0] == 204
    assert await send.exited() == 1
    assert send.stderr.read_text() == "relay: the session s was deleted\n"


async def test_without_redis_it_says_so_and_the_first_ctrl_c_leaves(relay: World) -> None:
    """And so does a tail, which goes on following once Redis is there."""
    nowhere = {"RELAY_REDIS_URL": "redis://127.0.0.1:1/0"}
    gateway = await relay.listening_gateway(**nowhere)
    gateway.expected = {"not_ready"}
    send, tail = relay.send(gateway, "s", "q"), relay.tail(gateway, "s")
    said = (
        "relay: the gateway cannot do it now; trying again "
        "(unavailable: This did not work just now; please try again.) …\n"
    )
    await until(lambda: send.stderr.read_text() == said and tail.stderr.read_text() == said, "both have said it")
    send.signal(signal.SIGINT)
    assert await send.exited() == 130
    assert send.stderr.read_text() == f"{said}relay: left before the question was accepted\n"
    await gateway.end()
    await relay.gateway("--port", gateway.url.rpartition(":")[2])
    await until(lambda: tail.stderr.read_text().endswith("relay: going on\n"), "the tail follows")
    assert tail.stderr.read_text().startswith(said)
    tail.signal(signal.SIGINT)
    assert await tail.exited() == 0


async def test_a_gateway_that_cannot_be_reached_is_one_line(relay: World) -> None:
    gateway = await relay.gateway()
    await gateway.kill()
    send = relay.send(gateway, "s", "q")
    assert await send.exited() == 1
    assert send.stderr.read_text() == f"relay: the gateway at {gateway.url} cannot be reached\n"
