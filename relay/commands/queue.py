"""`relay queue`: lists what waits, runs and is dead, and retries or drops one job. It never prints a question.

stdout gets the table, the JSON or the id that was asked for; stderr gets what was done and what went wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar, assert_never

import msgspec
import typer

from relay.commands.errors import report_errors
from relay.commands.options import REDIS, Command, Group, load
from relay.errors import RelayError, StorageError

if TYPE_CHECKING:  # the commands import what talks to Redis themselves, so that `relay --help` need not wait for it
    from relay.store.queue.admin import JobState, JobSummary, QueueAdmin
    from relay.store.queue.backlog import QueueCounts

T = TypeVar("T")

MAX_LIMIT = 10_000

app = typer.Typer(
    cls=Group,
    help="Jobs: what waits, runs and is dead. Without a command: all queues.",
    pretty_exceptions_enable=False,
)

_JSON = typer.Option(False, "--json", help="Print JSON")
_GENERATION = typer.Argument(help="The job's generation")
_IN_QUEUE = typer.Option(None, "--queue", help="The queue to look in; default: all of them")


@app.callback(invoke_without_command=True)
@report_errors("relay")
def overview(context: typer.Context, as_json: bool = _JSON, redis: str = REDIS) -> None:
    """Jobs: what waits, runs and is dead. Without a command: all queues."""
    context.obj = redis  # so that `relay queue --redis URL list …` works like `relay queue list … --redis URL`
    if context.invoked_subcommand is None:
        queues = _ask(redis, lambda admin: admin.queues())
        _print([_of_queue(counts) for counts in queues], _QUEUE_COLUMNS, as_json)


@app.command("list", cls=Command)
@report_errors("relay")
def list_(
    context: typer.Context,
    queue: str = typer.Argument(metavar="NAME", help="The queue"),
    dead: bool = typer.Option(False, "--dead", help="Only dead jobs, the newest first"),
    waiting: bool = typer.Option(False, "--waiting", help="Only jobs that no worker holds"),
    running: bool = typer.Option(False, "--running", help="Only jobs that a worker holds"),
    limit: int = typer.Option(100, min=1, max=MAX_LIMIT, help="At most this many"),
    as_json: bool = _JSON,
    redis: str = REDIS,
) -> None:
    """The jobs of one queue, one line each."""
    from relay.store.queue.admin import JOB_STATES

    chosen: dict[JobState, bool] = {"dead": dead, "waiting": waiting, "running": running}
    states = [state for state in JOB_STATES if chosen[state]] or JOB_STATES
    jobs = _ask(redis or context.obj, lambda admin: admin.jobs(queue, states, limit))
    _print([_of_job(job) for job in jobs], _JOB_COLUMNS, as_json)


@app.command(cls=Command)
@report_errors("relay")
def retry(context: typer.Context, generation: str = _GENERATION, queue: str = _IN_QUEUE, redis: str = REDIS) -> None:
    """Ask a dead job's question again, as a new generation; prints its id."""
    typer.echo(_ask(redis or context.obj, lambda admin: admin.retry(generation, queue)))


@app.command(cls=Command)
@report_errors("relay")
def drop(context: typer.Context, generation: str = _GENERATION, queue: str = _IN_QUEUE, redis: str = REDIS) -> None:
    """Drop a dead job, or stop one that waits or runs."""
    was = _ask(redis or context.obj, lambda admin: admin.drop(generation, queue))
    match was:
        case "dead":
            done = "is dropped"
        case "ended":
            done = "had ended already"
        case "waiting" | "running":
            done = "is stopped"
        case _:
            assert_never(was)
    typer.echo(f"relay: {generation} {done}", err=True)


def _ask(redis_url: str | None, what: Callable[[QueueAdmin], Awaitable[T]]) -> T:
    """Raises RelayError; if Redis is away, with a sentence for the person who gave its address."""
    from relay.redis.connections import Connections
    from relay.store import factory

    # A person needs only the one line that we print, so logs are limited to errors.
    loaded = load(by_a_person=True, redis_url=redis_url, log_level="error")

    async def ask() -> T:
        redis = Connections(loaded.redis_url)
        try:
            return await what(factory.queue_admin(redis, loaded))
        except StorageError as error:
            if error.refused or error.denied:
                raise RelayError(f"Redis refuses this ({error})") from None
            raise RelayError(f"Redis cannot be used ({error}); is --redis / RELAY_REDIS_URL right?") from None
        finally:
            await redis.aclose()

    return asyncio.run(ask())


_QUEUE_COLUMNS = ("queue", "waiting", "running", "dead", "oldest_waiting_s")
_JOB_COLUMNS = ("generation", "session", "state", "age_s", "priority", "lost_workers", "owner", "reason")


def _of_queue(counts: QueueCounts) -> dict[str, Any]:
    return dict(zip(_QUEUE_COLUMNS, counts[: len(_QUEUE_COLUMNS)], strict=True))


def _of_job(job: JobSummary) -> dict[str, Any]:
    return {name: getattr(job, name) for name in job.__struct_fields__}


def _print(rows: list[dict[str, Any]], columns: tuple[str, ...], as_json: bool) -> None:
    typer.echo(msgspec.json.encode(rows).decode() if as_json else table(rows, columns))


def table(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> str:
    """Aligned text with a heading; numbers to the right, ages in the largest unit that fits."""
    cells = [[name.removesuffix("_s").replace("_", " ").upper() for name in columns]]
    cells += [[_cell(name, row[name]) for name in columns] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(columns))]
    right = [any(isinstance(row[name], int | float) for row in rows) for name in columns]
    lines = []
    for line in cells:
        padded = (
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        )
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    return age(value) if name.endswith("_s") else str(value)


def age(seconds: float) -> str:
    for unit, length_s in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length_s:
            return f"{seconds / length_s:.0f} {unit}"
    return f"{seconds:.0f} s"
