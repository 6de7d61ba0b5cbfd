"""Whether an endpoint speaks TLS 1.2 is asked of it, and not believed."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from codex_ray.cluster.certificates import issue, make_authority
from codex_ray.cluster.tls13 import check_tls13, only_tls13
from codex_ray.errors import ClusterError


@contextmanager
def listening(folder: Path, context: ssl.SSLContext) -> Iterator[int]:
    """A server that shakes hands, and the port of loopback at which it does."""
    files = issue(make_authority(folder / "ca"), folder / "node", names=["localhost"])
    context.load_cert_chain(files.certificate, files.key)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        ended = threading.Event()

        def answer() -> None:
            while not ended.is_set():
                with suppress(OSError):
                    plain, _ = server.accept()
                    with plain, suppress(OSError), context.wrap_socket(plain, server_side=True):
                        pass

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            ended.set()
            thread.join(5)


def test_tls_12_is_found_out(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with (
        listening(tmp_path, context) as port,
        pytest.raises(ClusterError, match=r"speaks TLS 1\.2"),
    ):
        check_tls13("127.0.0.1", port)


def test_tls_13_alone_is_well(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with listening(tmp_path, context) as port:
        check_tls13("127.0.0.1", port)


def test_what_forbids_the_server_does_not_blind_who_asks(tmp_path: Path) -> None:
    """As where this process was itself started with that configuration."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.options &= ~ssl.OP_NO_TLSv1_2
    program = (
        "import sys\n"
        "from codex_ray.cluster.tls13 import check_tls13\n"
        "check_tls13('127.0.0.1', int(sys.argv[1]))\n"
    )
    with only_tls13() as variables, listening(tmp_path, context) as port:
        said = subprocess.run(
            [sys.executable, "-c", program, str(port)],
            env=os.environ | variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert "speaks TLS 1.2" in said.stderr


def test_who_cannot_ask_does_not_say_that_all_is_well() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ClusterError, match="cannot be asked"):
        check_tls13("127.0.0.1", port, patience=0.3)
