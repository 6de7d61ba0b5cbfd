"""A Ray that this process is in already: whoever joined it may not have looked where that is."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

import ray
from ray._private import services
from ray._private import worker as ray_worker
from ray.util.client import ray as ray_client

from codex_ray.cluster.preflight import allowed, check_dashboard, check_joining
from codex_ray.errors import ClusterError


@dataclass(frozen=True)
class _Looked:
    """A session of ours, which was looked at when it began.

    Attributes:
        where: the address that it is at.
        own: whether this process started it.
        overlooked: what is open about it.
    """

    where: str
    own: bool
    overlooked: tuple[str, ...]


_OURS: list[_Looked] = []


@contextmanager
def noted(where: str, overlooked: list[str], *, own: bool) -> Iterator[None]:
    """Remembers for the block that the session of this process was looked at."""
    _OURS.append(_Looked(where, own, tuple(overlooked)))
    try:
        yield
    finally:
        _OURS.pop()


def look_around(address: str, *, insecure_local: bool) -> list[str]:
    """What is open about the Ray that this process is in, if that is allowed.

    A process that Ray itself began works for a driver that has looked, and does not look again.

    Args:
        address: the cluster that is wanted: "local", "auto", or one that has to be this one.
        insecure_local: go on with an open one.

    Raises:
        ClusterError: it is another cluster than the one that is wanted, or open to strangers and
            nobody said that it may be.
    """
    if ray_worker.global_worker.mode == ray.WORKER_MODE:
        return []
    if _OURS:
        ours = _OURS[-1]
        _check_wanted(address, ours.where, own=ours.own)
        return allowed(ours.overlooked, insecure_local=insecure_local)
    if ray_client.is_connected():
        if not address.startswith("ray://"):
            raise ClusterError(
                f"cluster.address is {address}, but this process has joined a cluster as a client: "
                "name its ray:// address, or call ray.shutdown() first"
            )
        return check_joining(address, insecure_local=insecure_local)
    where = str(ray.get_runtime_context().gcs_address)
    _check_wanted(address, where, own=ray_worker._global_node.is_head())
    found = check_joining(where, insecure_local=insecure_local)
    url = str(ray_worker.get_dashboard_url() or "")
    return found + check_dashboard(url, insecure_local=insecure_local)


def _check_wanted(address: str, where: str, *, own: bool) -> None:
    """Refuses another cluster than the one that was asked for, which nobody would notice.

    Raises:
        ClusterError: it is another one.
    """
    if address == "auto" or (own if address == "local" else _same(address, where)):
        return
    to_use_it = ", or use auto for the one that it is in" if address == "local" else ""
    raise ClusterError(
        f"cluster.address is {address}, but this process has joined {where} already: call "
        f"ray.shutdown() first{to_use_it}"
    )


def _same(address: str, where: str) -> bool:
    """Whether two addresses are one place: by their ports, and all that their hosts stand for."""
    if address == where:
        return True
    if "://" in address or "://" in where:
        return False
    one, other = (urlsplit(f"//{words}") for words in (address, where))
    with suppress(ValueError):  # a port that is none
        return one.port == other.port and bool(_ips(one.hostname) & _ips(other.hostname))
    return False


def _ips(host: str | None) -> set[str]:
    """The addresses of a host; this machine's own are that by which Ray calls it, too."""
    if not host:
        return set()
    names = {host, services.resolve_ip_for_localhost(host)}
    found = set[str]()
    for name in names:
        with suppress(OSError):
            found |= {str(info[4][0]) for info in socket.getaddrinfo(name, None)}
    return found
