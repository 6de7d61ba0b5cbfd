"""An open Ray cluster runs anybody's code: it is neither joined nor started, unless that is said.

What can be seen from here is looked at first: the token, the TLS files, Ray itself. Then the
cluster is asked as a stranger would ask. Only then does Ray connect.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import urlsplit

from codex_ray.cluster.token import Token, find_token
from codex_ray.errors import ClusterError, InputError

if TYPE_CHECKING:
    # Certificates and gRPC take half a second to import, and a Ray of our own needs neither.
    from codex_ray.cluster.certificates import NodeFiles

T = TypeVar("T")

OLDEST: Final = (2, 59)
"""The first Ray whose own clusters are closed by default; those before 2.52 know no token."""
TLS_VARIABLES: Final = (
    *("RAY_USE_TLS", "RAY_TLS_SERVER_CERT"),
    *("RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT"),
)
REMEDY: Final = "(--insecure-local goes on all the same, and the result says so)"


@dataclass(frozen=True)
class Keys:
    """What this process brings along to get in.

    Attributes:
        token: None: none.
        files: None: no TLS.
        problems: what is open here already.
    """

    token: Token | None
    files: NodeFiles | None
    problems: tuple[str, ...]


def keys_from(
    environment: Mapping[str, str] = os.environ,
    *,
    own: bool = False,
    now: datetime | None = None,
    ray_version: str | None = None,
) -> Keys:
    """The keys in the environment, and what is wrong with them.

    Args:
        environment: of the process.
        own: a Ray of our own is started, which gets a token of its own.
        now: for the certificates; by default now.
        ray_version: of Ray; by default the one that is installed.
    """
    problems = []
    have = ray_version or version("ray")
    if _numbers(have) < OLDEST:
        problems.append(f"Ray {have} is old: its own clusters are open: install 2.60")
    mode = environment.get("RAY_AUTH_MODE", "token")
    if mode.lower() != "token":
        problems.append(f"RAY_AUTH_MODE is {mode}, which demands nothing: set it to token")
    token = None
    if not own:
        token, problem = _tried(lambda: find_token(environment))
        if token is None:
            problems.append(
                problem
                or "there is no token: make one with codex-ray token, and give it to every node"
            )
    files, problem = _files(environment, now=now)
    return Keys(token, files, tuple(problems if problem is None else [*problems, problem]))


def _files(
    environment: Mapping[str, str], *, now: datetime | None
) -> tuple[NodeFiles | None, str | None]:
    """The TLS files that the environment names, and what is wrong with them."""
    if not any(environment.get(name) for name in TLS_VARIABLES):
        return None, None
    from codex_ray.cluster.certificates import NodeFiles, check_node

    files, problem = _tried(lambda: NodeFiles.named_by(environment))
    if problem is None and files is not None:
        _, problem = _tried(lambda: check_node(files, now=now))
    return files, problem


def check_own(*, insecure_local: bool, environment: Mapping[str, str] = os.environ) -> list[str]:
    """What is open about a Ray that this process is about to start on loopback, if that is allowed.

    Raises:
        ClusterError: something is, and nobody said that it may be.
    """
    return allowed(keys_from(environment, own=True).problems, insecure_local=insecure_local)


def check_joining(
    address: str, *, insecure_local: bool, environment: Mapping[str, str] = os.environ
) -> list[str]:
    """What is open about the cluster at `address`, if that is allowed.

    Args:
        address: "host:port" of the GCS, or "ray://host:port".
        insecure_local: go on with an open one.
        environment: of the process.

    Raises:
        ClusterError: it is open to strangers, or closed to us: then the message says which key is
            the wrong one.
    """
    from codex_ray.cluster.strangers import CLIENT_METHOD, GCS_METHOD, Answer, knock

    keys = keys_from(environment)
    found = allowed(keys.problems, insecure_local=insecure_local)
    host, port = _host_and_port(address)
    method = CLIENT_METHOD if address.startswith("ray://") else GCS_METHOD
    ours = knock(host, port, token=keys.token, files=keys.files, method=method)
    if ours is not Answer.WELCOME:
        raise ClusterError(f"cluster.address {address}: {_WHY_NOT[ours.name]}")
    stranger = knock(host, port, files=keys.files, method=method)
    open_door = stranger is Answer.WELCOME
    problem = f"{address} demands no token: start every node with RAY_AUTH_MODE=token"
    return found + allowed([problem] if open_door else [], insecure_local=insecure_local)


def check_dashboard(
    url: str, *, insecure_local: bool, environment: Mapping[str, str] = os.environ
) -> list[str]:
    """What is open about the dashboard that a cluster says it has, if that is allowed.

    Inside Kubernetes it has to be reachable from other pods, and a network policy stands before it;
    it has to demand the token there as everywhere.

    Args:
        url: as Ray tells it, such as "127.0.0.1:8265"; empty: there is none.
        insecure_local: go on with an open one.
        environment: of the process.

    Raises:
        ClusterError: it listens to other machines, or answers strangers.
    """
    if not url:
        return []
    from codex_ray.cluster.strangers import Answer, knock_at_dashboard

    whole = url if "://" in url else f"http://{url}"
    problems = []
    if knock_at_dashboard(whole) is Answer.WELCOME:
        problems.append(
            f"the dashboard at {whole} runs anybody's jobs: start the head with RAY_AUTH_MODE=token"
        )
    parts = urlsplit(whole)
    in_kubernetes = environment.get("KUBERNETES_SERVICE_HOST")
    if parts.scheme != "https" and not _is_loopback(parts.hostname) and not in_kubernetes:
        problems.append(
            f"the dashboard at {whole} listens to other machines, without TLS: start the head with "
            "--dashboard-host=127.0.0.1, and reach it through an SSH tunnel"
        )
    return allowed(problems, insecure_local=insecure_local)


def allowed(problems: tuple[str, ...] | list[str], *, insecure_local: bool) -> list[str]:
    """The problems, if somebody said that they may be.

    Raises:
        ClusterError: nobody did.
    """
    if problems and not insecure_local:
        raise ClusterError(f"{'; '.join(problems)} {REMEDY}")
    return list(problems)


_WHY_NOT: Final = {
    "NOBODY": "nobody answers there: start a cluster with ray start --head, or use local",
    "TOKEN": "it does not take our token: use the file that the head was started with "
    "(RAY_AUTH_TOKEN_PATH); codex-ray token shows the fingerprint of each",
    "CERTIFICATE": "it speaks TLS, and does not take our certificate: set the variables that "
    "codex-ray certs issue prints, with files of the cluster's own authority",
    "PLAIN": "our environment asks for TLS, and it speaks none: start every node with the "
    "variables that codex-ray certs issue prints, or unset RAY_USE_TLS",
}


def _tried(read: Callable[[], T]) -> tuple[T | None, str | None]:
    """What was read, or in words why it could not be."""
    try:
        return read(), None
    except InputError as error:
        return None, str(error)


def _host_and_port(address: str) -> tuple[str, int]:
    try:
        parts = urlsplit(address if "://" in address else f"ray://{address}")
        if parts.hostname and parts.port:
            return parts.hostname, parts.port
    except ValueError:
        pass
    raise ClusterError(f"cluster.address {address}: is no host:port")


def _is_loopback(host: str | None) -> bool:
    if host is None:
        return False
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _numbers(text: str) -> tuple[int, int]:
    major, minor, *_ = [*text.split("."), "0"]
    return int(major), int(minor)
