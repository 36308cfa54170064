"""Parses RELAY_REDIS_URL: which kind of Redis it names, which servers to ask first, and how to connect to them.

    redis://[user:password@]host:port/db            one server; rediss:// with TLS; unix:///path
    redis+cluster://host:port,host:port             a Cluster, by any of its servers; rediss+cluster:// with TLS
    redis+sentinel://host:port,host:port/service/db the master that Sentinels name; rediss+sentinel:// with TLS

`-` may stand for `+`. Options after `?` are redis-py's (`ssl_ca_certs` …) and `sentinel_username`, `sentinel_password`.
No message here quotes the URL, or a part of it that may be a password.
"""

from __future__ import annotations

import re
import ssl
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote

from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
    parse_url,
)
from redis.exceptions import RedisError

from relay.errors import SettingsError

Kind = Literal["plain", "cluster", "sentinel"]

MAX_SEEDS = 100
_KINDS: dict[str | None, Kind] = {None: "plain", "cluster": "cluster", "sentinel": "sentinel"}
_SCHEME = re.compile(r"(redis|rediss)(?:[+-](cluster|sentinel))?|unix")
_HOST = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[^\[\]:]*))(?::(?P<port>[0-9]{1,5}))?")
# Options that our clients set themselves (connections.py), or that would change the replies that they read.
_RESERVED_OPTIONS = (
    "host", "port", "path", "retry", "retry_on_timeout", "retry_on_error", "socket_timeout", "socket_connect_timeout",
    "max_connections", "timeout", "decode_responses", "encoding", "encoding_errors", "protocol", "legacy_responses",
)  # fmt: skip


class Endpoint(NamedTuple):
    """One server; for a Unix socket, `host` is its path and `port` is 0."""

    host: str
    port: int


class RedisAddress(NamedTuple):
    """`options` go to redis-py's `connection_class`; `sentinel_options` likewise, for connections to a Sentinel."""

    kind: Kind
    seeds: tuple[Endpoint, ...]
    connection_class: type[AbstractConnection]
    options: dict[str, Any]
    service: str = ""
    sentinel_options: dict[str, Any] = {}  # noqa: RUF012 - never changed


def parse_address(url: str) -> RedisAddress:
    """Raises SettingsError, which names the setting and says what is wrong."""
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower()
    match = _SCHEME.fullmatch(scheme)
    if not separator or match is None:
        raise _bad_address("it must begin with redis://, rediss://, unix://, redis+cluster:// or redis+sentinel://")
    where, _, query = rest.partition("?")
    options = _options(query)
    if scheme == "unix":
        return _unix(where, options)
    authority, _, path = where.partition("/")
    if "@" in path:
        raise _bad_address("a / in a user name or password must be written as %2F")
    kind: Kind = _KINDS[match[2]]
    userinfo, _, hosts = authority.rpartition("@")
    seeds = _endpoints(hosts, 26379 if kind == "sentinel" else 6379)
    if kind == "plain" and len(seeds) > 1:
        raise _bad_address("several servers need redis+cluster:// or redis+sentinel:// (with /SERVICE)")
    connection_class = SSLConnection if match[1] == "rediss" else Connection
    options |= _credentials(userinfo)
    sentinel = {name: options.pop(f"sentinel_{name}", None) for name in ("username", "password")}
    if kind != "sentinel" and any(sentinel.values()):
        raise _bad_address("sentinel_username and sentinel_password are for redis+sentinel://")
    service, _, database = path.rpartition("/") if kind != "sentinel" else _service(path)
    _set_database(options, database, kind)
    if (kind == "sentinel") != bool(service):
        raise _bad_address(
            "a Sentinel's address must end in /SERVICE" if not service else "the database is not a number"
        )
    tls = {name: value for name, value in options.items() if name.startswith("ssl_")}
    _validate_options(connection_class, options)
    return RedisAddress(kind, seeds, connection_class, options, service, tls | {k: v for k, v in sentinel.items() if v})


def _bad_address(why: str) -> SettingsError:
    return SettingsError(f"--redis / RELAY_REDIS_URL cannot be used: {why}.")


def _unix(where: str, options: dict[str, Any]) -> RedisAddress:
    before, slash, after = where.partition("/")
    if (before.strip("@") and "@" not in before) or not after:
        raise _bad_address("unix:// needs the whole path of a socket, as in unix:///run/redis.sock")
    options |= _credentials(before.rpartition("@")[0])
    path = slash + after
    _validate_options(UnixDomainSocketConnection, options)
    return RedisAddress("plain", (Endpoint(unquote(path), 0),), UnixDomainSocketConnection, options)


def _options(query: str) -> dict[str, Any]:
    try:
        options: dict[str, Any] = dict(parse_url(f"redis://?{query}"))
    except ValueError as error:
        raise _bad_address(str(error).rstrip(".")) from None  # it names the option, not its value
    return {name: value for name, value in options.items() if name not in _RESERVED_OPTIONS}


def _credentials(userinfo: str) -> dict[str, str]:
    username, _, password = userinfo.partition(":")
    named = {"username": unquote(username), "password": unquote(password)}
    return {name: value for name, value in named.items() if value}


def _endpoints(hosts: str, default_port: int) -> tuple[Endpoint, ...]:
    found = []
    for number, text in enumerate(hosts.split(","), 1):
        match = _HOST.fullmatch(text)
        port = int(match["port"] or default_port) if match else 0
        if match is None or not 0 < port < 65536 or not (text or hosts == ""):
            raise _bad_address(f"server {number} is not HOST:PORT with a port from 1 to 65535")
        found.append(Endpoint(match["six"] or unquote(match["name"]) or "localhost", port))
    if len(found) > MAX_SEEDS:
        raise _bad_address(f"it has more than {MAX_SEEDS} servers; three are enough, as they name the others")
    return tuple(found)


def _service(path: str) -> tuple[str, str, str]:
    service, separator, database = path.partition("/")
    return unquote(service), separator, database


def _set_database(options: dict[str, Any], database: str, kind: Kind) -> None:
    if database:
        if not database.isdecimal():
            raise _bad_address("the database is not a number")
        options.setdefault("db", int(database))
    if kind == "cluster" and options.get("db"):
        raise _bad_address("a Cluster has only database 0")


def _validate_options(connection_class: type[AbstractConnection], options: dict[str, Any]) -> None:
    """Make a connection object, so that a wrong option is reported at the start and not by the first command."""
    try:
        made = connection_class(**options)
        if isinstance(made, SSLConnection):
            made.ssl_context.get()
    except TypeError as error:
        name = str(error).rpartition("argument ")[2]
        raise _bad_address(f"it has the option {name}, which does not exist for this kind of address") from None
    except (OSError, ssl.SSLError, ValueError, RedisError) as error:
        raise _bad_address(f"its ssl_ options cannot be used: {type(error).__name__}: {error}") from None
