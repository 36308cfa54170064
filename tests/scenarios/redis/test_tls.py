"""Over TLS, where the server wants to see a certificate, too: by the URL alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fakes.provider import Script
from tests.scenarios.client import Client, check
from tests.scenarios.processes import until
from tests.scenarios.redis_tls import certificates, with_tls
from tests.scenarios.world import World, world

pytestmark = pytest.mark.slow

TOKENS = [f"w{number} " for number in range(100)]


@pytest.mark.parametrize("kind", ["one server", "a Cluster"])
async def test_an_answer_and_a_stop_over_tls(tmp_path: Path, kind: str) -> None:
    files, clustered = certificates(tmp_path), kind == "a Cluster"
    async with with_tls(tmp_path, files, clustered=clustered) as server, world(server.url, tmp_path) as relay:
        relay.fake.script = Script(tokens=TOKENS, tokens_per_second=200)
        gateway, _worker = await relay.gateway(), await relay.worker()
        async with Client(gateway.url, "s") as client:
            await client.subscribe()
            generation = await client.submit("q")
            await client.ended(generation)
            check(client, generation, "".join(TOKENS))
            relay.fake.script = Script(tokens=["a", "b"], hold_before=1)
            again = await client.submit("q2", "r2")
            await client.until(lambda: again in client.view.generations and client.shown(again).count == 1, "a token")
            assert (await client.stop(again))["already_ended"] is False
            await until(lambda: relay.fake.calls[-1].client_gone_at, "the worker hears of the stop")


async def test_a_server_whose_certificate_nobody_vouches_for_is_not_talked_to(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    files, others = certificates(tmp_path), certificates(other)
    async with with_tls(tmp_path, files) as server, world(server.url, tmp_path) as relay:
        url = server.url.replace(files["ca"], others["ca"])
        assert url != server.url
        gateway = relay.spawn("relay", "gateway", "--port", "0", RELAY_REDIS_URL=url)
        line = await until(lambda: gateway.logged("not_ready"), "it says that it cannot use this Redis")
        assert "CERTIFICATE_VERIFY_FAILED" in line["detail"] or "certificate verify failed" in line["detail"]
        await gateway.end()
        gateway.stderr.write_text("")  # errors were the point


async def test_a_certificate_file_that_is_not_there_ends_the_start_with_one_line(relay: World, tmp_path: Path) -> None:
    url = f"rediss://:geheim@localhost/0?ssl_ca_certs={tmp_path}/none.pem"
    gateway = relay.spawn("relay", "gateway", "--port", "0", RELAY_REDIS_URL=url)
    assert await gateway.exited() == 2
    said = gateway.stderr.read_text()
    assert "--redis / RELAY_REDIS_URL cannot be used: its ssl_ options" in said
    assert len(said.splitlines()) == 1
    assert "geheim" not in said
