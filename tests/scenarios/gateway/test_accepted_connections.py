"""What the kernel is told of each connection that a gateway accepts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.scenarios.processes import customized, until
from tests.scenarios.world import World

# Python imports a module of this name by itself, in the gateway and in each of its processes.
SITECUSTOMIZE = """
import json, socket, sys
from relay.gateway.http_protocol import RelayHttpProtocol as Protocol

made = Protocol.connection_made

def connection_made(self, transport):
    option = transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    print(json.dumps({"event": "accepted", "nodelay": option}), file=sys.stderr, flush=True)
    made(self, transport)

Protocol.connection_made = connection_made
"""


@pytest.mark.parametrize(
    "flags",
    [pytest.param((), id="one process"), pytest.param(("--processes", "2"), id="several", marks=pytest.mark.slow)],
)
async def test_a_frame_waits_for_no_acknowledgement_of_the_one_before(
    relay: World, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SITECUSTOMIZE)
    gateway = await relay.gateway(*flags, PYTHONPATH=customized(tmp_path))
    line = await until(lambda: gateway.logged("accepted"), "a connection was accepted")
    assert line["nodelay"] != 0
