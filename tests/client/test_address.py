"""Whatever form a gateway's address is given in, the WebSocket's is the same; under a proxy's path, too."""

from __future__ import annotations

import asyncio

import pytest

from relay.bench.figures import Tally
from relay.bench.viewer import Viewer
from relay.client import Disconnected, connect
from relay.client.address import shown
from tests.client.scripted import Scripted


@pytest.mark.parametrize("given", ["", "/", "/v1/ws", "/v1/ws/", "/relay", "/relay/", "/relay/v1/ws", "/http/v1"])
@pytest.mark.parametrize("query", ["", "?ticket=t", "?ticket=a/b&c=d"])
@pytest.mark.parametrize("scheme", ["http", "ws", "HTTP"])
async def test_the_client_dials_the_websocket_wherever_the_address_leads(
    gateway: Scripted, scheme: str, given: str, query: str
) -> None:
    async with asyncio.TaskGroup() as group:
        greeting = group.create_task(gateway.greeted())
        async with connect(f"{scheme}://127.0.0.1:{gateway.port}{given}{query}"):
            assert (await greeting).path == given.removesuffix("/").removesuffix("/v1/ws") + "/v1/ws" + query


@pytest.mark.parametrize("given", ["/relay/", "/relay/v1/ws", "/relay?ticket=t", "/http"])
async def test_so_does_the_bench(gateway: Scripted, given: str) -> None:
    viewing = asyncio.create_task(Viewer(gateway.url + given, "s", Tally()).run())
    path, _, ticket = given.partition("?")
    dialled = path.removesuffix("/").removesuffix("/v1/ws") + "/v1/ws" + (f"?{ticket}" if ticket else "")
    assert (await gateway.peer()).path == dialled
    viewing.cancel()
    await asyncio.gather(viewing, return_exceptions=True)


async def test_what_is_told_of_an_address_has_no_ticket() -> None:
    with pytest.raises(Disconnected, match="not an address") as raised:
        async with connect("nonsense?ticket=secret"):
            pass
    assert "secret" not in str(raised.value)
    assert shown("https://ann:secret@relay.test/a?ticket=secret") == "https://relay.test/a"
