"""The loop of a worker: what a generator of one's own does in tasks of its own ends no worker, and tells no prompt."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator

import pytest
from structlog.testing import capture_logs

from relay_workers import event_loop

SECRET = "a prompt that no log shall hold"


async def handle_ctrl_c() -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, lambda: None)


@pytest.mark.parametrize("raised", [SystemExit(SECRET), KeyboardInterrupt(SECRET)])
def test_an_exit_in_a_task_or_callback_ends_nothing_and_nothing_is_lost(raised: BaseException) -> None:
    went_on: list[str] = []

    def exits() -> None:
        raise raised

    async def exits_in_a_task() -> None:
        raise raised

    async def main() -> None:
        await handle_ctrl_c()
        running = asyncio.get_running_loop()
        tasks = [running.create_task(exits_in_a_task()) for _ in range(2)]
        running.call_soon(exits)
        running.call_soon(went_on.append, "what was due in the same turn")
        await asyncio.gather(*tasks, return_exceptions=True)
        went_on.append("main")

    with capture_logs() as logged:
        event_loop.run(main())
    assert went_on == ["what was due in the same turn", "main"]
    assert {line["event"] for line in logged if line["log_level"] == "error"} >= {"exit_ignored"}
    assert SECRET not in str(logged)


def test_a_loop_that_is_stopped_goes_on() -> None:
    went_on: list[str] = []

    async def main() -> None:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        went_on.append("main")

    event_loop.run(main())
    assert went_on == ["main"]


def test_what_is_left_behind_exits_without_a_word_of_its_text() -> None:
    async def exits_late() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise SystemExit(SECRET)

    async def exits_when_closed() -> AsyncGenerator[None]:
        try:
            yield
        finally:
            raise SystemExit(SECRET)

    tasks: list[object] = []

    async def main() -> None:
        tasks.append(asyncio.create_task(exits_late()))
        tasks.append(generator := exits_when_closed())
        await anext(generator)
        await asyncio.sleep(0)

    with capture_logs() as logged:
        event_loop.run(main())
    assert "exit_ignored" in [line["event"] for line in logged]
    assert SECRET not in str(logged)


def test_what_nobody_retrieves_is_told_without_its_text() -> None:
    async def fails() -> None:
        raise ValueError(SECRET)

    async def main() -> None:
        await asyncio.wait([asyncio.create_task(fails())])

    with capture_logs() as logged:
        event_loop.run(main())
    told = [line for line in logged if line["log_level"] != "debug"]
    assert [(line["event"], line["error"]) for line in told] == [("unretrieved", "ValueError")]
    assert told[0]["place"].startswith(f"{__file__}:")
    assert SECRET not in str(logged)


def test_what_main_itself_raises_comes_out() -> None:
    async def main() -> None:
        await handle_ctrl_c()
        raise SystemExit(3)

    with pytest.raises(SystemExit) as caught:
        event_loop.run(main())
    assert caught.value.code == 3


def test_ctrl_c_before_it_is_handled_ends_it() -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGINT)
        await asyncio.Event().wait()

    with pytest.raises(KeyboardInterrupt):
        event_loop.run(main())
