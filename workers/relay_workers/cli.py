"""The command line of `relay-worker`."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import typer

from relay import logging
from relay.commands.errors import report_errors
from relay.commands.interrupts import EXIT_INTERRUPTED
from relay.commands.options import APP, HELP, PACE, PROVIDER, REDIS, Command, load, option
from relay.commands.terminal import escape_controls
from relay.settings import Settings
from relay.stop_signals import on_stop_signal
from relay.store.requirements import require_usable_redis
from relay_workers import event_loop, garbage_collection, worker
from relay_workers.asking.provider_pool import provider_pool
from relay_workers.check import reports
from relay_workers.limits import generation_limits

app = typer.Typer(context_settings=HELP, pretty_exceptions_enable=False, add_completion=True)


def main() -> None:
    """Entry point of the `relay-worker` console script."""
    app()


@app.command(cls=Command)
@report_errors("relay-worker")
def serve(
    queue: str = option("queue", "Queue to serve"),
    redis: str = REDIS,
    provider: str = PROVIDER,
    own: str = APP,
    concurrency: int = option("concurrency", "Answers at a time"),
    model: str = option("model", "Model where a submit names none", default="the provider's own"),
    tokens_per_second: float = PACE,
    metrics_port: int = option("metrics_port", "Serve metrics on this port", default="none"),
    check: bool = typer.Option(
        False, "--check", help="Ask each provider one short question, say what came of it, and exit: 0 if all work."
    ),
) -> None:
    """Serve one queue: take its jobs, ask the model, append the answers."""
    loaded = load(
        queue=queue,
        redis_url=redis,
        provider=provider,
        app=own,
        concurrency=concurrency,
        model=model,
        tokens_per_second=tokens_per_second,
        metrics_port=metrics_port,
    )
    if check:
        exit_codes: list[int] = []
        event_loop.run(_check(loaded, exit_codes))
        raise typer.Exit(max(exit_codes))
    event_loop.run(_until_signalled(loaded))


async def _check(loaded: Settings, exit_codes: list[int]) -> None:
    """Print what each provider makes of a question; adds 1 for one that does not answer, 0 for others."""

    async def show() -> None:
        async with aclosing(reports(generation_limits(loaded), provider_pool(loaded))) as checked:
            async for report in checked:
                typer.echo(escape_controls(report.text))
                exit_codes.append(0 if report.works else 1)

    showing = asyncio.create_task(show(), name="check")
    on_stop_signal(showing.cancel)
    try:
        await showing
    except asyncio.CancelledError:
        exit_codes.append(EXIT_INTERRUPTED)


async def _until_signalled(loaded: Settings) -> None:
    stopping, at_once = asyncio.Event(), asyncio.Event()
    on_stop_signal(lambda: (at_once if stopping.is_set() else stopping).set())
    providers = provider_pool(loaded)  # first: wrong settings can be reported without Redis
    await require_usable_redis(loaded.redis_url, loaded.prefix)
    garbage_collection.tune()
    await worker.run(loaded, providers, stopping, at_once)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        logging.get_logger("worker").error("task_left", task=task.get_name())  # nobody awaits it: a bug of ours
