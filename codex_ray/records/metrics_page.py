"""A page of text on loopback, for a Prometheus on the same machine, or an SSH tunnel to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any, Final

from codex_ray.errors import ConfigError
from codex_ray.records.prometheus_text import CONTENT_TYPE

LOOPBACK: Final = "127.0.0.1"
PATH: Final = "/metrics"
PATIENCE: Final = 5.0
"""Seconds for a reader to say what it wants; none holds a thread for longer."""


@contextmanager
def serving(page: Callable[[], bytes], *, port: int) -> Iterator[int]:
    """Serves `page()` under /metrics on loopback for the block; yields the port.

    Raises:
        ConfigError: the port is taken, or not for us to take.
    """
    from http.server import ThreadingHTTPServer  # slow to import, and seldom asked for

    class Server(ThreadingHTTPServer):
        allow_reuse_port = False  # two runs would take turns at answering
        daemon_threads = True

    try:
        server = Server((LOOPBACK, port), _handler(page))
    except (OSError, OverflowError) as error:
        said = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"the metrics' port {port} cannot be used ({said}): choose another"
        ) from error
    thread = Thread(target=server.serve_forever, args=(0.1,), daemon=True, name="metrics page")
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(page: Callable[[], bytes]) -> Any:
    """A class whose objects answer one request each."""
    from http.server import BaseHTTPRequestHandler

    class Page(BaseHTTPRequestHandler):
        timeout = PATIENCE

        def do_GET(self) -> None:
            if not _is_loopback(self.headers.get("Host", "")):
                self.send_error(403)
            elif self.path.partition("?")[0] != PATH:
                self.send_error(404)
            else:
                content = page()
                self.send_response(200)
                self.send_header("Content-Type", CONTENT_TYPE)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        def version_string(self) -> str:
            return "codex_ray"

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: scrapes are no news, and stderr is the run's."""

    return Page


def _is_loopback(host: str) -> bool:
    """Whether a request was meant for this machine; a page in a browser may rebind its own name."""
    return host.rpartition(":")[0] in (LOOPBACK, "localhost") or host in (LOOPBACK, "localhost")
