"""The command on a running cluster, which it leaves as it was; more replicas under load."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from test_serving_registry import RUN

import codex_ray
from codex_ray.bench.serving_load import Address, one_answer
from codex_ray.cluster.certificates import NodeFiles, issue, make_authority
from codex_ray.cluster.chaos_cluster import loopback
from codex_ray.records.keys import FOLDER_VARIABLE, make_keys
from codex_ray.registry import Registry
from codex_ray.serving.key_file import KeyFile
from codex_ray.serving.ray_serve import free_ports

pytest.importorskip("uvicorn")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
PATIENCE = 180.0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with keys, a certificate, and a registry in which version 1 is promoted."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER_VARIABLE, str(folder / "keys"))
        key, _ = make_keys(folder / "keys")
        registry = Registry.create(folder / "models", key=key)
        codex_ray.run(RUN | {"model": {"kind": "linear"}}, out=folder / "run")
        registry.register(folder / "run", "tumour")
        registry.promote("tumour", 1)
    issue(make_authority(folder / "ca"), folder / "node", names=["localhost"])
    return folder


@contextmanager
def command(home: Path, port: int, *more: str) -> Iterator[list[str]]:
    """The command until it serves or ends; yields what it said, and sends it Ctrl-C then."""
    files = NodeFiles.under(home / "node")
    words = ["serve", "tumour", "--registry", str(home / "models"), "--port", str(port), *more]
    words += ["--cert", str(files.certificate), "--key", str(files.key)]
    words += ["--keys", str(home / "access" / "keys.json")]
    process = subprocess.Popen(
        [sys.executable, "-m", "codex_ray.cli", *words],
        env=os.environ | {FOLDER_VARIABLE: str(home / "keys")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines: list[str] = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if line.startswith("serving"):
                break
        yield lines
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        lines.append(process.communicate(timeout=PATIENCE)[0])
    finally:
        process.kill()
        process.wait()


async def replicas(address: Address) -> set[str]:
    """Those that answer when their figures are asked for, by their process ids."""
    reader, writer = await address.connect()
    found = set()
    for _ in range(12):
        writer.write(
            f"GET /metrics HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {address.key}\r\n"
            "\r\n".encode()
        )
        status, _, body = await one_answer(reader)
        assert status == 200, body
        found |= set(re.findall(r'replica="(\d+)"', body.decode()))
    writer.close()
    return found


async def under_load(address: Address, key: str) -> tuple[set[str], list[int]]:
    """The replicas once there are two, and how the requests ended that were held up meanwhile."""
    ended: list[int] = []
    done = asyncio.Event()
    half = len(address.body) // 2

    async def slow() -> None:
        while not done.is_set():
            reader, writer = await address.connect()
            whole = address.request(key=key)
            writer.write(whole[:-half])
            await asyncio.sleep(3.0)
            writer.write(whole[-half:])
            ended.append((await one_answer(reader))[0])
            writer.close()

    load = [asyncio.create_task(slow()) for _ in range(5)]
    until, found = time.monotonic() + PATIENCE, set[str]()
    while len(found) < 2 and time.monotonic() < until:
        await asyncio.sleep(1.0)
        found = await replicas(address)
    done.set()
    await asyncio.gather(*load)
    return found, ended


def test_on_a_cluster_with_replicas_that_follow_the_load(home: Path) -> None:
    keys = KeyFile(home / "access" / "keys.json")
    made = [
        keys.create(
            name, roles=("user", "monitor"), scopes=("*",), now=time.time(), seconds=6000.0
        )[1]
        for name in ("alice", "bob")
    ]
    port, another = free_ports(2)
    body = b'{"records": [[0.1, 0.2]]}'
    address = Address(port, NodeFiles.under(home / "node").authority, made[0], body)
    with loopback(1, cpus=2) as cluster:
        there = ("--cluster", cluster.address, "--replicas", "1-2", "--ongoing", "8")
        with command(home, port, *there) as said:
            assert said[-1].startswith("serving tumour at https://"), said
            assert len(asyncio.run(replicas(address))) == 1
            check_the_front(address)
            check_tls(address)
            with command(home, another, *there) as other:
                assert "runs there already" in other[-1], other
            found, ended = asyncio.run(under_load(address, made[1]))
            assert len(found) == 2, ended
            assert set(ended) == {200}
        assert "Traceback" not in "".join(said), said
        # Nothing of ours is left there, so that it can be served anew.
        with command(home, another, *there) as again:
            assert again[-1].startswith("serving tumour at https://"), again
    assert cluster.left == ()


def check_the_front(address: Address) -> None:
    """Serve's own headers do nothing on a cluster either, whose processes we did not begin."""

    async def asked() -> tuple[int, bytes]:
        reader, writer = await address.connect()
        head, _, rest = address.request().partition(b"\r\n\r\n")
        writer.write(head + b"\r\nserve_multiplexed_model_id: \xff\r\n\r\n" + rest)
        status, _, body = await one_answer(reader)
        writer.close()
        return status, body

    status, body = asyncio.run(asked())
    assert (status, json.loads(body)["version"]) == (200, "1")


def check_tls(address: Address) -> None:
    """TLS 1.3 and nothing older."""
    old = ssl.create_default_context(cafile=str(address.authority))
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        pytest.raises((ssl.SSLError, ConnectionError)),
        socket.create_connection(("localhost", address.port)) as plain,
        old.wrap_socket(plain, server_hostname="localhost"),
    ):
        pass
