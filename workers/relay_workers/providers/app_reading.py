"""Reads a user's generator in a separate task, because one that ignores cancellation can only be left behind.

The reader waits for the next part, never for the generator. So a stop or a deadline ends the answer whatever the
generator does with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from relay import timeouts

T = TypeVar("T")


class GeneratorReader(Generic[T]):
    """`step` gives the next part, None after the last; it runs only when a part is asked for. `close` ends it for good.

    `tasks` holds the task for as long as it lives. Always call `stop` in the end.
    """

    def __init__(
        self,
        step: Callable[[], Awaitable[T | None]],
        close: Callable[[], Awaitable[None]],
        tasks: set[asyncio.Task[None]],
    ) -> None:
        self._step = step
        self._close = close
        self._asked = asyncio.Event()
        self._given: asyncio.Future[T | None] = asyncio.get_running_loop().create_future()
        self._stepping = self._over = False
        self._task = asyncio.create_task(self._run(), name="app generator")
        tasks.add(self._task)
        self._task.add_done_callback(tasks.discard)

    async def next(self) -> T | None:
        """The next part. Raises what `step` raises."""
        self._given = asyncio.get_running_loop().create_future()
        self._asked.set()
        return await self._given

    async def stop(self, patience_s: float) -> bool:
        """Cancel it where it waits, or close it after the part that it gave. False: it ignored that and goes on."""
        self._over = True
        self._asked.set()
        if self._stepping:
            self._task.cancel()
        try:
            async with timeouts.timeout(patience_s):
                await asyncio.wait([self._task])
        except TimeoutError:
            pass  # it ignores the cancellation
        return self._task.done()

    async def _run(self) -> None:
        failure: BaseException | None = None
        try:
            await self._steps()
        except (Exception, asyncio.CancelledError) as error:
            failure = error
        try:
            await self._close()
        finally:
            if failure is not None and not self._given.done():
                self._given.set_exception(failure)

    async def _steps(self) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            if self._over:
                return
            self._stepping = True
            part = await self._step()
            self._stepping = False
            if not self._given.done():  # otherwise nobody waits for it any more
                self._given.set_result(part)
