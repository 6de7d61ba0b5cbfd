"""What Ray Serve is told by its environment: shorter ways for a request, and closed doors.

Serve reads these when its processes begin. They are for a Ray that serves nothing but this.
"""

from __future__ import annotations

import shlex
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from codex_ray.serving.front import IMPORTED_AS

TOLD: Final[Mapping[str, str]] = {
    # One event loop in the proxy, and one in a replica: no request waits for another thread to wake
    # up. What takes its time, such as a large model, is computed in a thread of its own anyhow.
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    # One stream between them for a request, and not a message of Ray's for each part of an answer.
    # The replica listens for it in any case, and demands this Ray's token.
    "RAY_SERVE_PROXY_USE_GRPC": "1",
    # Serve's own counts are collected once a second, and not ten times.
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "1000",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": IMPORTED_AS,
    # Serve's HTTP server would believe X-Forwarded-For of whoever asks from this machine, and the
    # guard is to decide that.
    "FORWARDED_ALLOW_IPS": "nobody",
}


# Serve's HAProxy shows its figures to the whole network, and lets every user of the machine
# administer it. It has no words for either, so what it starts is this, which narrows both first.
_NARROWED: Final = """\
#!/bin/sh
umask 077
for word; do
  case "$word" in
  *.cfg) sed -i -E 's/bind \\*?:/bind 127.0.0.1:/; s/mode 666 level admin/mode 600 level admin/' \
    "$word" || exit 1 ;;
  esac
done
exec {haproxy} "$@"
"""


def haproxy_mode(folder: Path, *, program: str) -> dict[str, str]:
    """The variables with which Serve puts HAProxy in the place of its proxy, all on loopback.

    Args:
        folder: of this user's alone, where it keeps its files; its path is short.
        program: HAProxy.
    """
    narrowed = folder / "haproxy"
    narrowed.write_text(_NARROWED.format(haproxy=shlex.quote(program)))
    narrowed.chmod(0o700)
    statistics, metrics, fallback = free_ports(3)
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(narrowed),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",  # the guard counts
        "RAY_SERVE_HAPROXY_STATS_PORT": str(statistics),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback),
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "60",
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": "35",
        # Nothing else balances load over these replicas that would have to be told.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
    }


def free_ports(count: int) -> list[int]:
    """Ports of loopback at which nobody listens now."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
