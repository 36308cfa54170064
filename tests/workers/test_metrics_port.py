"""A worker's metrics port: Prometheus text for whoever asks, one at a time, and nothing that hangs or leaks."""

from __future__ import annotations

import contextlib
import socket
import threading
import urllib.error
import urllib.request

import pytest

from relay import metrics
from relay.errors import SettingsError
from relay_workers.metrics_port import metrics_port
from tests.scenarios.processes import free_port


def _get(port: int, path: str = "/metrics") -> tuple[str, str]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def test_it_shows_what_the_process_counts_and_ends_with_its_block() -> None:
    before = threading.active_count()
    with metrics_port("127.0.0.1", free_port()) as port:
        metrics.running.set(3)
        kind, text = _get(port)
        metrics.running.set(0)
    assert kind.startswith("text/plain; version=")
    assert "relay_generations_running 3.0" in text.splitlines()
    assert threading.active_count() == before
    with pytest.raises(ConnectionRefusedError), socket.socket() as sock:
        sock.connect(("127.0.0.1", port))


def test_port_0_means_none() -> None:
    before = threading.active_count()
    with metrics_port("127.0.0.1", 0) as port:
        assert port == 0
        assert threading.active_count() == before


def test_any_other_address_is_not_found() -> None:
    with metrics_port("127.0.0.1", free_port()) as port, pytest.raises(urllib.error.HTTPError, match="404"):
        _get(port, "/")


def test_whoever_connects_and_says_nothing_holds_up_the_next_one_only_for_a_while() -> None:
    with metrics_port("127.0.0.1", free_port()) as port, socket.create_connection(("127.0.0.1", port)):
        assert "relay_generations_running" in _get(port)[1]


def test_whoever_asks_byte_by_byte_does_not_hold_up_the_next_one() -> None:
    done = threading.Event()

    def trickle(port: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as sock, contextlib.suppress(OSError):
            sock.sendall(b"GET /metrics HTTP/1.1\r\n")
            connected.set()
            while not done.wait(0.1):
                sock.sendall(b"x")

    connected = threading.Event()
    with metrics_port("127.0.0.1", free_port()) as port:
        slow = threading.Thread(target=trickle, args=[port])
        slow.start()
        try:
            assert connected.wait(10)
            assert "relay_generations_running" in _get(port)[1]
        finally:
            done.set()
            slow.join()


def test_a_port_in_use_is_one_clear_line() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        with pytest.raises(SettingsError, match=rf"--metrics-port / RELAY_METRICS_PORT {port} .*in use"):
            metrics_port("127.0.0.1", port).__enter__()
