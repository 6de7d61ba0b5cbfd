"""One process that serves: uvicorn with TLS 1.3 in front of the application, without Ray."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codex_ray.errors import InputError
from codex_ray.serving.application import Application

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


def make_server(application: Application, listening: Listening) -> Any:
    """A uvicorn server, ready to `run()` or `serve()`; Ctrl-C ends it when its answers are out.

    Raises:
        InputError: uvicorn is not installed, or the certificate cannot be used.
    """
    try:
        import uvicorn
    except ImportError:
        raise InputError(MISSING) from None
    config = uvicorn.Config(
        application,
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
        limit_concurrency=listening.connections,
        ws="none",
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"{listening.certificate}: cannot be used for TLS: {error}") from None
    if config.ssl is not None:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
    return uvicorn.Server(config)
