"""The command line of `relay`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import Any

import typer

from relay import __version__, logging
from relay.commands import queue
from relay.commands.errors import report_errors
from relay.commands.interrupts import leave
from relay.commands.options import (
    APP,
    HELP,
    OPEN_TO_EVERYBODY,
    PACE,
    PROVIDER,
    REDIS,
    Command,
    Group,
    load,
    option,
)
from relay.commands.token import token
from relay.errors import RelayError
from relay.protocol.words import Start

app = typer.Typer(
    cls=Group,
    context_settings=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    help="The relay.",
)

_HOST = option("host", "Address to listen on")
_PORT = option("port", "Port to listen on, 0 for a free one", also=" or PORT")
_PROCESSES = option("processes", "Processes behind the one port")
_DEV_REDIS = option("redis_url", "Redis or Valkey", "--redis", default="an embedded server")
_URL = option("url", "The gateway")


def _read_json(given: str | None) -> Any:
    """The gateway judges what it holds, and may know more of that than we do."""
    import msgspec

    try:
        return None if given is None else msgspec.json.decode(given)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise typer.BadParameter('it must be JSON, such as {"temperature": 0.2}') from None


def main() -> None:
    """Entry point of the `relay` console script."""
    app()


@app.command(cls=Command)
@report_errors("relay")
def dev(
    host: str = _HOST,
    port: int = _PORT,
    redis: str = _DEV_REDIS,
    provider: str = PROVIDER,
    own: str = APP,
    tokens_per_second: float = PACE,
    open_to_everybody: bool = OPEN_TO_EVERYBODY,
) -> None:
    """Gateway, worker, embedded server and demo page in one command; needs no key."""
    from relay.commands import dev as development

    loaded = load(
        listens=True,
        host=host,
        port=port,
        redis_url=redis,
        provider=provider,
        app=own,
        tokens_per_second=tokens_per_second,
        open_to_everybody=open_to_everybody,
    )
    development.run(loaded, own_redis="redis_url" not in loaded.model_fields_set)


@app.command(cls=Command)
@report_errors("relay")
def gateway(
    host: str = _HOST,
    port: int = _PORT,
    processes: int = _PROCESSES,
    redis: str = REDIS,
    open_to_everybody: bool = OPEN_TO_EVERYBODY,
) -> None:
    """The WebSocket gateway; needs a Redis and, somewhere, a relay-worker."""
    from relay.gateway import supervisor as several
    from relay.gateway.server import listen, server
    from relay.store.requirements import require_usable_redis

    loaded = load(
        listens=True,
        host=host,
        port=port,
        processes=processes,
        redis_url=redis,
        open_to_everybody=open_to_everybody,
    )
    asyncio.run(require_usable_redis(loaded.redis_url, loaded.prefix))
    if loaded.processes > 1:
        several.run(loaded)
        return
    serving = server(loaded)
    sock = listen(loaded.host, loaded.port)
    logging.get_logger("gateway").info("listening", host=loaded.host, port=sock.getsockname()[1])
    serving.run(sockets=[sock])


@app.command(cls=Command)
@report_errors("relay")
def send(
    session: str = typer.Argument(help="Session to ask in"),
    question: str = typer.Argument(help="The question; - reads it from standard input"),
    url: str = _URL,
    queue: str = typer.Option("default", help="Queue of the workers to ask"),
    model: str = typer.Option(None, help="Model to ask for; default: the workers' own"),
    options: str = typer.Option(
        None, help='Options of the model, as JSON: {"temperature": 0.2}; default: none', callback=_read_json
    ),
) -> None:
    """Ask, and stream the answer into the terminal. Ctrl-C stops the answer; a second one leaves."""
    signal.signal(signal.SIGINT, leave)
    from relay.commands.send import SendCommand

    loaded = load(by_a_person=True, url=url)
    content = _read_input() if question == "-" else question
    submit: dict[str, Any] = {
        "session": session, "content": content, "queue": queue, "model": model, "options": options,
    }  # fmt: skip

    async def ask() -> int:
        return await SendCommand(loaded.url, submit, token=loaded.token).ask()

    try:
        code = asyncio.run(ask())
    except BrokenPipeError:
        os._exit(1)  # the reader of our output has left; the answer goes on
    raise typer.Exit(code)


@app.command(cls=Command)
@report_errors("relay")
def tail(
    session: str = typer.Argument(help="Session to follow"),
    url: str = _URL,
    start: Start = typer.Option("start", "--from", help="From its first event, or from now on"),
    json: bool = typer.Option(False, "--json", help="Each event as a line of JSON, with its seq"),
) -> None:
    """Follow a session: questions and answers as they come. Ctrl-C leaves."""
    signal.signal(signal.SIGINT, leave)
    from relay.commands.tail import Tail

    loaded = load(by_a_person=True, url=url)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # even if a shell started us with SIGINT ignored
    try:
        following = Tail(loaded.url, session, start=start, as_json=json, token=loaded.token)
        code = asyncio.run(following.run())
    except KeyboardInterrupt:
        code = 0
    except BrokenPipeError:
        os._exit(0)  # the reader of our output has left
    raise typer.Exit(code)


@app.command(cls=Command)
@report_errors("relay")
def bench(
    url: str = typer.Option(None, help="The gateway to load; default: its own relay, with the demo provider"),
    sessions: int = typer.Option(100, min=1, help="Sessions that ask at the same time"),
    viewers: int = typer.Option(2, min=1, help="Viewers of each session, including the one that asks"),
    tokens_per_second: float = typer.Option(30, min=0.1, help="Pace of each answer, if it runs its own relay"),
    answers: int = typer.Option(1, min=1, help="Answers per session, one after the other"),
    seconds: float = typer.Option(None, min=0, help="Instead of --answers: keep asking for this long; default: off"),
    ramp_s: float = typer.Option(2.0, min=0, help="Spread the start of the sessions over this time; 0: all at once"),
    queue: str = typer.Option("default", help="Queue to ask in"),
    as_json: bool = typer.Option(False, "--json", help="Print the figures as JSON"),
) -> None:
    """Load a relay with real connections and check every byte. Exit code 1 if anything was lost, doubled or failed."""
    from relay.bench import run as benchmark
    from relay.bench.sessions import Load

    shape = Load(sessions, viewers, answers, seconds, ramp_s, queue)
    shown = load(by_a_person=True).token
    code = benchmark.run(shape, url=url, token=shown, tokens_per_second=tokens_per_second, as_json=as_json)
    raise typer.Exit(code)


@app.command(cls=Command)
@report_errors("relay")
def revoke(
    sub: str = typer.Argument(help="Whose tokens: their sub"),
    redis: str = REDIS,
) -> None:
    """Refuse all tokens and tickets issued to somebody so far, and close their connections, on every gateway."""
    from relay.commands.revoke import revoke as in_redis

    in_redis(sub, redis)


app.add_typer(queue.app, name="queue")
app.command(cls=Command)(token)


@app.command(cls=Command)
def version() -> None:
    """The version of this relay."""
    typer.echo(__version__)


def _read_input() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError:
        raise RelayError("standard input is not text in UTF-8") from None
