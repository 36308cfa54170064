"""A real server that speaks TLS only, and a made-up authority that vouches for it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.scenarios.redis_cluster import Cluster
from tests.scenarios.redis_servers import Server, missing


def certificates(directory: Path) -> dict[str, str]:
    """Files of a made-up authority (`ca`) and of what it vouches for: `cert` and `key` of 127.0.0.1."""
    openssl = shutil.which("openssl")
    if openssl is None:
        missing("openssl is needed on PATH")
    files = {name: str(directory / f"{name}.pem") for name in ("ca", "ca-key", "cert", "key", "request")}
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    extensions = directory / "extensions"
    extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\nbasicConstraints=CA:FALSE\n")
    for arguments in (
        ("req", "-x509", *key, "-keyout", files["ca-key"], "-out", files["ca"], "-subj", "/CN=Test CA", "-days", "2",
         "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"),
        ("req", *key, "-keyout", files["key"], "-out", files["request"], "-subj", "/CN=redis"),
        ("x509", "-req", "-in", files["request"], "-CA", files["ca"], "-CAkey", files["ca-key"], "-CAcreateserial",
         "-days", "2", "-extfile", str(extensions), "-out", files["cert"]),
    ):  # fmt: skip
        subprocess.run([openssl, *arguments], check=True, capture_output=True)
    return files


@asynccontextmanager
async def with_tls(directory: Path, files: dict[str, str], *, clustered: bool = False) -> AsyncIterator[Server]:
    """A server that speaks TLS only, and wants to see a client's certificate; `clustered`: it is a whole Cluster."""
    options = (
        "--tls-cert-file", files["cert"], "--tls-key-file", files["key"], "--tls-ca-cert-file", files["ca"],
        *(("--cluster-enabled", "yes", "--tls-cluster", "yes") if clustered else ()),
    )  # fmt: skip
    client = {"ssl_ca_certs": files["ca"], "ssl_certfile": files["cert"], "ssl_keyfile": files["key"]}
    server = Server(directory, *options, tls=client)
    try:
        await _start(server)
        if clustered:
            await Cluster([server], 1).form()
        yield server
    finally:
        await server.aclose()


async def _start(server: Server) -> None:
    try:
        await server.start()
    except AssertionError as error:
        if "Bad directive" in str(error):
            missing("redis-server has to be built with TLS")
        raise
