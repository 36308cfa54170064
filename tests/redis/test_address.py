"""RELAY_REDIS_URL: what it may say, and that a mistake in it is named without giving a password away."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection

from relay.errors import SettingsError
from relay.redis.address import Endpoint, RedisAddress, parse_address


def plain(*seeds: tuple[str, int], **options: Any) -> RedisAddress:
    return RedisAddress("plain", tuple(Endpoint(*seed) for seed in seeds), Connection, options)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://", plain(("localhost", 6379))),
        ("redis://host", plain(("host", 6379))),
        ("REDIS://host:1/", plain(("host", 1))),
        ("redis://[::1]:2/3", plain(("::1", 2), db=3)),
        ("redis://host/?db=4", plain(("host", 6379), db=4)),
        ("redis://me:p%2Fw%40@host", plain(("host", 6379), username="me", password="p/w@")),
        ("redis://:p@:w@host", plain(("host", 6379), password="p@:w")),
        ("redis://host?health_check_interval=5", plain(("host", 6379), health_check_interval=5)),
    ],
)
def test_one_server(url: str, address: RedisAddress) -> None:
    assert parse_address(url) == address


@pytest.mark.parametrize(
    ("url", "path", "options"),
    [
        ("unix:///run/redis.sock", "/run/redis.sock", {}),
        ("unix://me:pw@/run/redis.sock?db=2", "/run/redis.sock", {"username": "me", "password": "pw", "db": 2}),
        ("unix:///run/redis.sock?password=pw", "/run/redis.sock", {"password": "pw"}),
    ],
)
def test_a_unix_socket(url: str, path: str, options: dict[str, Any]) -> None:
    assert parse_address(url) == RedisAddress("plain", (Endpoint(path, 0),), UnixDomainSocketConnection, options)


@pytest.mark.parametrize("scheme", ["redis+cluster", "redis-cluster", "Redis+Cluster"])
def test_a_cluster_by_any_number_of_its_servers(scheme: str) -> None:
    address = parse_address(f"{scheme}://:pw@a:1,[::1]:2,c/0?client_name=x")
    seeds = (Endpoint("a", 1), Endpoint("::1", 2), Endpoint("c", 6379))
    assert address == RedisAddress("cluster", seeds, Connection, {"password": "pw", "client_name": "x", "db": 0})


@pytest.mark.parametrize("scheme", ["redis+sentinel", "redis-sentinel"])
def test_sentinels_with_their_own_credentials(scheme: str) -> None:
    address = parse_address(f"{scheme}://me:pw@a,b:5/my%20master/2?sentinel_username=su&sentinel_password=s%2Fp")
    assert address.seeds == (Endpoint("a", 26379), Endpoint("b", 5))
    assert (address.kind, address.service) == ("sentinel", "my master")
    assert address.options == {"username": "me", "password": "pw", "db": 2}
    assert address.sentinel_options == {"username": "su", "password": "s/p"}


@pytest.mark.parametrize("scheme", ["rediss", "rediss+cluster", "rediss+sentinel"])
def test_tls_goes_to_servers_and_sentinels(scheme: str) -> None:
    address = parse_address(f"{scheme}://a:1/{'m' if 'sentinel' in scheme else ''}?ssl_check_hostname=no")
    assert address.connection_class is SSLConnection
    assert address.options == {"ssl_check_hostname": False}
    if address.kind == "sentinel":
        assert address.sentinel_options == {"ssl_check_hostname": False}


def test_what_our_clients_decide_for_themselves_cannot_be_changed_by_the_url() -> None:
    url = "redis://host?socket_timeout=60&max_connections=1&decode_responses=yes&retry_on_timeout=yes&protocol=2"
    assert parse_address(url) == plain(("host", 6379))


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "must begin with"),
        ("localhost", "must begin with"),
        ("http://geheim@localhost", "must begin with"),
        ("redis+proxy://host", "must begin with"),
        ("redis://localhost:port", "server 1 is not HOST:PORT"),
        ("redis://localhost:0", "server 1 is not HOST:PORT"),
        ("redis://localhost:65536", "server 1 is not HOST:PORT"),
        ("redis+cluster://a:1,b:geheim", "server 2 is not HOST:PORT"),
        ("redis+cluster://a:1,", "server 2 is not HOST:PORT"),
        ("redis+cluster://" + ",".join("a" * 101), "more than 100 servers"),
        ("redis://:ge/heim@host:1/0", "%2F"),
        ("redis://:ge?heim=1@host:1/0", "server 1 is not HOST:PORT"),
        ("redis://a,b", "several servers"),
        ("redis://host/geheim", "database is not a number"),
        ("redis://host/1/2", "database is not a number"),
        ("redis+cluster://host/1", "only database 0"),
        ("redis+cluster://host?db=1", "only database 0"),
        ("redis+sentinel://host", "must end in /SERVICE"),
        ("redis+sentinel://host/service/geheim", "database is not a number"),
        ("redis://host?sentinel_password=geheim", "are for redis\\+sentinel"),
        ("redis://host?socket_timeout=geheim", "Invalid value for 'socket_timeout'"),
        ("redis://host?sssl=geheim", "the option 'sssl'"),
        ("redis://host?ssl_ca_certs=geheim", "the option 'ssl_ca_certs'"),
        ("rediss://host?ssl_cert_reqs=ca", "ssl_ options cannot be used"),
        ("rediss://host?ssl_ca_certs=/none", "ssl_ options cannot be used: FileNotFoundError"),
        ("unix://run/redis.sock", "unix://"),
        ("unix://", "unix://"),
    ],
)
def test_a_mistake_is_named_and_no_password_is(url: str, why: str) -> None:
    with pytest.raises(SettingsError, match=f"^--redis / RELAY_REDIS_URL cannot be used: .*{why}") as error:
        parse_address(url.replace("://", "://:geheim@", 1) if "geheim" not in url and url.startswith("redis") else url)
    assert "geheim" not in str(error.value)
    assert error.value.__cause__ is None
