"""How a process gets a Ray: one of its own on loopback, or a running one, behind closed doors."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import ray
from ray._private import parameter, ray_constants, services
from ray._private import utils as ray_utils
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

from codex_ray.cluster.inherited import INLINE_SWITCH, environment
from codex_ray.cluster.joined_before import noted
from codex_ray.cluster.preflight import check_dashboard, check_joining, check_own, keys_from
from codex_ray.errors import ClusterError
from codex_ray.records.private_files import private_folder

OBJECT_STORE: Final = 512 * 2**20
"""Bytes of shared memory that a Ray of our own gets."""
INLINE: Final = 2**20
"""Bytes up to which a value travels with its call, in a Ray of our own. A detour through the object
store takes its processes two milliseconds, which copying a megabyte does not."""
LONGEST_FOLDER: Final = 38
"""Characters of a folder under which Ray's sockets still have names short enough for Linux."""
LOOPBACK_SWITCH: Final = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""0: Ray listens on loopback only. It does so by itself on other systems, to spare their owners
questions of the firewall; the switch works on Linux too."""


def ray_at(address: str, *, insecure_local: bool = False) -> AbstractContextManager[list[str]]:
    """The Ray that an experiment's cluster.address means: "local" is one of our own."""
    if address == "local":
        return own_ray(insecure_local=insecure_local)
    return joined_ray(address, insecure_local=insecure_local)


@contextmanager
def own_ray(*, insecure_local: bool = False) -> Iterator[list[str]]:
    """A Ray that ends with the block: what is open about it, which is nothing unless it was said.

    All its processes listen on loopback; they demand a token that is made for this one and known
    to no other process; its sockets and logs are in a folder of this user's.

    Raises:
        ClusterError: it would be open, or does not start.
    """
    overlooked = check_own(insecure_local=insecure_local)
    demand(os.environ.get("RAY_AUTH_MODE", "token"))
    with own_token():
        try:
            with on_loopback(), unattended(), environment(_large_calls()):
                ray.init(
                    address="local",
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level="error",
                    object_store_memory=OBJECT_STORE,
                    _temp_dir=session_folder(),
                )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ClusterError(f"a Ray of our own does not start: {error}") from error
        try:
            where = str(ray.get_runtime_context().gcs_address)
            with noted(where, overlooked, own=True):
                yield overlooked
        finally:
            ray.shutdown()


@contextmanager
def joined_ray(address: str, *, insecure_local: bool = False) -> Iterator[list[str]]:
    """The running cluster at `address`, which outlives the block: what is open about it.

    Raises:
        ClusterError: it is open and nobody said that it may be, or it does not let us in.
    """
    whole = resolved_address(address)
    overlooked = check_joining(whole, insecure_local=insecure_local)
    # Without a token the cluster is an open one, and that was said.
    demand("disabled" if keys_from().token is None else "token")
    try:
        context = ray.init(address=whole, log_to_driver=False, logging_level="error")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(
            f"cluster.address {address}: no Ray cluster lets us in there ({error}): start one with "
            '`ray start --head`, give it and us the same token, or use "local"'
        ) from error
    try:
        url = str(context.dashboard_url or "")
        overlooked += check_dashboard(url, insecure_local=insecure_local)
        with noted(whole, overlooked, own=False):
            yield overlooked
    finally:
        ray.shutdown()


def resolved_address(address: str) -> str:
    """The address that "auto" stands for, as host:port; others as they are.

    Raises:
        ClusterError: no cluster runs on this machine, or several do.
    """
    if address != "auto":
        return address
    try:
        return str(services.canonicalize_bootstrap_address_or_die("auto"))
    except (ConnectionError, ValueError) as error:
        raise ClusterError(f"cluster.address auto: {error}") from None


def session_folder() -> str:
    """Where a Ray of our own keeps its sockets and logs.

    Ray opens its folders to every user of the machine, and the sockets in them lead to everything
    in the object store. So they lie in one that only this user can enter.

    Raises:
        InputError: somebody else was there first, or has opened it.
    """
    folder = Path(tempfile.gettempdir()) / f"codex-ray-{os.getuid()}"
    if len(str(folder)) > LONGEST_FOLDER:
        folder = Path("/tmp") / folder.name
    return str(private_folder(folder) / "ray")


@contextmanager
def own_token() -> Iterator[None]:
    """A new token for a Ray that is started in the block; the user's own is out of sight."""
    loader = AuthenticationTokenLoader.instance()
    try:
        with environment({"RAY_AUTH_TOKEN": secrets.token_hex(32)}):
            loader.reset_cache()
            yield
    finally:
        loader.reset_cache()


@contextmanager
def on_loopback() -> Iterator[None]:
    """A Ray that is started in the block listens on loopback only."""
    enabled = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False  # this process read it when it imported ray
    try:
        with environment({LOOPBACK_SWITCH: "0"}):  # its processes read it when they begin
            yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = enabled


@contextmanager
def unattended() -> Iterator[None]:
    """A Ray that is started in the block goes without the processes that nobody here asks.

    Those are the dashboard's server, which would only count usage, the autoscaler's monitor and the
    reader of logs; and its agent is the one of an installation without a dashboard. They take two
    seconds of a start, as long as the whole rest of it, and each is one door less.
    """
    kept = parameter.RayParams, services.start_api_server, ray_utils.get_dashboard_dependency_error
    parameter.RayParams = partial(kept[0], no_monitor=True, include_log_monitor=False)
    services.start_api_server = _no_api_server
    ray_utils.get_dashboard_dependency_error = lambda: ImportError("left out")
    try:
        yield
    finally:
        parameter.RayParams, services.start_api_server = kept[:2]
        ray_utils.get_dashboard_dependency_error = kept[2]


def _large_calls() -> dict[str, str]:
    """Has small models travel with the calls, unless the user has said what is to."""
    return {INLINE_SWITCH: os.environ.get(INLINE_SWITCH, str(INLINE))}


def _no_api_server(*_: Any, **__: Any) -> tuple[str, None]:
    """What Ray makes of a server that it could not start: no address, and no process."""
    return "", None


def demand(mode: str) -> None:
    """Sets Ray's mode, which it read when it was imported, perhaps before we could set it."""
    os.environ["RAY_AUTH_MODE"] = mode
    Config.initialize("")
