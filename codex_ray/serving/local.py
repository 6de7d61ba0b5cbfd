"""One process that serves: uvicorn with TLS 1.3 in front of the application, without Ray."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codex_ray.errors import InputError
from codex_ray.serving.application import Application
from codex_ray.serving.http import Receive, Scope, Send, later, send_reply

LOG = logging.getLogger(__name__)
RENEW = 30
"""Seconds between two looks at the certificate."""
MISSING = "codex-ray serve needs packages that are not installed: pip install 'codex-ray[serve]'"


@dataclass(frozen=True)
class Listening:
    """Where a server listens, and with which certificate.

    Attributes:
        host: address.
        port: 0 takes a free one.
        certificate: in PEM, with its chain; None listens in the clear.
        key: of it, in PEM.
        connections: at a time; one more is told 503.
    """

    host: str = "127.0.0.1"
    port: int = 8443
    certificate: Path | None = None
    key: Path | None = None
    connections: int = 512

    @property
    def at(self) -> str:
        """HOST:PORT."""
        return f"{self.host}:{self.port}"


def make_server(application: Application, listening: Listening) -> Any:
    """A uvicorn server, ready to `run()` or `serve()`; Ctrl-C ends it when its answers are out.

    Raises:
        InputError: uvicorn is not installed, or the certificate cannot be used.
    """
    try:
        import uvicorn
    except ImportError:
        raise InputError(MISSING) from None
    crowd = _Crowd(application, most=listening.connections)
    config = uvicorn.Config(
        crowd,
        host=listening.host,
        port=listening.port,
        ssl_certfile=None if listening.certificate is None else str(listening.certificate),
        ssl_keyfile=None if listening.key is None else str(listening.key),
        lifespan="on",
        access_log=False,  # ours has no addresses
        log_level="warning",
        server_header=False,
        date_header=False,
        proxy_headers=False,  # `addresses.Doors` decides what to believe
        timeout_keep_alive=15,
        timeout_graceful_shutdown=10,
        ws="none",
        timeout_notify=RENEW,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"{listening.certificate}: cannot be used for TLS: {error}") from None
    if config.ssl is not None:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
        config.callback_notify = _Renewed(config.ssl, listening).look
    server = uvicorn.Server(config)
    crowd.connections = server.server_state.connections
    return server


class _Crowd:
    """In front of the application: one connection too many is told so, and when to come again."""

    def __init__(self, application: Application, *, most: int) -> None:
        self._application = application
        self._most = most
        self.connections: Sized = ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request; those of uvicorn's connections that it counts are open ones."""
        if scope["type"] != "http" or len(self.connections) <= self._most:
            await self._application(scope, receive, send)
            return
        refused = later(503, "overloaded", 1)
        self._application.tally.answered("none", 503, 0.0, refusal=refused.code)
        https, head = scope["scheme"] == "https", scope["method"] == "HEAD"
        await send_reply(send, refused.reply(), https=https, close=True, head=head)


class _Renewed:
    """Shows a certificate that was renewed to whoever connects from then on."""

    def __init__(self, context: ssl.SSLContext, listening: Listening) -> None:
        assert listening.certificate is not None and listening.key is not None
        self._context = context
        self._files = listening.certificate, listening.key
        self._seen = self._state()

    def _state(self) -> tuple[tuple[int, int, int], ...]:
        found = [file.stat() for file in self._files]
        return tuple((it.st_ino, it.st_mtime_ns, it.st_size) for it in found)

    async def look(self) -> None:
        """Takes the files where they are others than before, and are a pair."""
        try:
            state = self._state()
            if state == self._seen:
                return
            self._seen = state  # a half-written pair is looked at again when it is whole
            # First in another context, for a pair that is none would spoil this one.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*self._files)
            self._context.load_cert_chain(*self._files)
        except (OSError, ssl.SSLError) as error:
            LOG.error("%s: the certificate stays as it was: %s", self._files[0], error)
