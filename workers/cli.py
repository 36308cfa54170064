"""The command line of `relay-worker`."""

from __future__ import annotations

import asyncio
import signal

import typer

from relay import logging, settings
from relay.errors import RelayError
from relay.log.fitness import refuse_unfit
from workers import loop, worker
from workers.lineup import lineup

app = typer.Typer(pretty_exceptions_enable=False, add_completion=True)


def main() -> None:
    """Entry point of the `relay-worker` console script."""
    app()


@app.command()
def serve(
    queue: str = typer.Option(None, help="Queue to serve  [RELAY_QUEUE, default default]"),
    redis: str = typer.Option(None, help="Redis or Valkey  [RELAY_REDIS_URL]"),
    provider: str = typer.Option(
        None, help="Whom to ask: anthropic, openai, agent, app, demo; several with commas  [RELAY_PROVIDER]"
    ),
    own: str = typer.Option(None, "--app", help="Your own model, as module:function  [RELAY_APP]"),
    concurrency: int = typer.Option(None, help="Answers at a time  [RELAY_CONCURRENCY, default 32]"),
    model: str = typer.Option(None, help="Model where a submit names none  [RELAY_MODEL]"),
    tokens_per_second: float = typer.Option(None, help="Pace of the demo provider  [RELAY_TOKENS_PER_SECOND]"),
    metrics_port: int = typer.Option(None, help="Serve metrics on this port  [RELAY_METRICS_PORT, default none]"),
) -> None:
    """Serve one queue: take its jobs, ask the model, append the answers."""
    try:
        loaded = settings.load(
            queue=queue,
            redis_url=redis,
            provider=provider,
            app=own,
            concurrency=concurrency,
            model=model,
            tokens_per_second=tokens_per_second,
            metrics_port=metrics_port,
        )
        logging.configure(loaded.log_level)
        loop.run(_until_signalled(loaded))
    except RelayError as error:
        typer.echo(f"relay-worker: {error}", err=True)
        raise typer.Exit(2) from None


async def _until_signalled(loaded: settings.Settings) -> None:
    stopping, at_once = asyncio.Event(), asyncio.Event()
    running = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        running.add_signal_handler(number, lambda: (at_once if stopping.is_set() else stopping).set())
    asked = lineup(loaded)  # first: what is wrong with its settings needs no Redis to be said
    await refuse_unfit(loaded.redis_url)
    await worker.run(loaded, asked, stopping, at_once)
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        logging.get("worker").error("task_left", task=task.get_name())  # nobody awaits it: a bug of ours
