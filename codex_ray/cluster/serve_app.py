"""The guarded application on Ray Serve: replicas that scale, behind Serve's proxy with TLS.

Each replica is the whole application, guard included: HAProxy, which may stand in the place of
Serve's proxy, could run none. What all must agree on is cut in two: rates are divided by the most
replicas there may be, and budgets are lent out by one small actor, which keeps the book on disk.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from codex_ray.cluster.doors import ray_at
from codex_ray.cluster.inherited import environment
from codex_ray.cluster.tls13 import check_tls13, only_tls13
from codex_ray.errors import ClusterError, InputError
from codex_ray.serving.application import Application, Settings
from codex_ray.serving.budgets import Book, unreachable
from codex_ray.serving.from_registry import Source
from codex_ray.serving.front import BODY_BYTES
from codex_ray.serving.local import MISSING, Listening
from codex_ray.serving.ray_serve import TOLD, free_ports, haproxy_mode
from codex_ray.serving.terminator import haproxy as haproxy_program
from codex_ray.serving.terminator import terminator

NAME: Final = "codex_ray"


@dataclass(frozen=True)
class Scale:
    """How many replicas, and what each takes.

    Attributes:
        least: that run always.
        most: that run under load; rates are divided by it.
        cpus: that each reserves.
        graceful_seconds: that one which is stopped has for its last answers.
    """

    least: int = 1
    most: int = 1
    cpus: float = 0.5
    graceful_seconds: float = 10.0


class Lender:
    """Keeps the book of all budgets, for every replica, as an actor on the driver's node."""

    def __init__(self, book: str) -> None:
        self._book = Book(Path(book))

    def lend(self, account: str, least: int, budget: int) -> int:
        """As `Book.lend`."""
        return self._book.lend(account, least, budget)

    def give_back(self, account: str, records: int) -> None:
        """As `Book.give_back`."""
        self._book.give_back(account, records)


@dataclass(frozen=True)
class LentBy:
    """Lending by an actor, of pieces, so that most requests need no message.

    While the actor cannot be reached nothing is lent, and callers with a budget are told to come
    again.
    """

    actor: Any

    async def __call__(self, account: str, least: int, budget: int) -> int:
        """As `Lend`."""
        try:
            return int(await self.actor.lend.remote(account, least, budget))
        except RayError:
            raise unreachable() from None

    async def give_back(self, account: str, records: int) -> None:
        """As `Lend`."""
        try:
            await self.actor.give_back.remote(account, records)
        except RayError:
            raise unreachable() from None


class Replica:
    """What Serve runs: it builds the application in its own process."""

    def __init__(self, settings: Settings, source: Any, lender: Any) -> None:
        labelled = replace(settings, labels={**settings.labels, "replica": str(os.getpid())})
        self._application = Application(labelled, source.open(), lend=LentBy(lender))

    def __serve_build_asgi_app__(self) -> Application:  # Serve's name for it
        """The application, of which Serve calls the lifespan and each request."""
        return self._application


@contextmanager
def serving(
    settings: Settings,
    source: Source,
    *,
    book: Path,
    listening: Listening,
    scale: Scale,
    address: str = "local",
    insecure_local: bool = False,
    haproxy: bool = False,
) -> Iterator[list[str]]:
    """A deployment that answers while the block runs, on a Ray of our own or a running cluster.

    Yields what is open about that Ray, in words.

    Args:
        settings: of the whole; each replica gets its share.
        source: of the models; anything picklable with `open() -> Models`.
        book: file of the budgets, on this node.
        listening: where the proxy listens.
        scale: how many replicas.
        address: "local", or a cluster's.
        insecure_local: whether a Ray that strangers could get into will do.
        haproxy: whether HAProxy takes the place of Serve's proxy, on a Ray of our own; with a
            certificate another one ends TLS in front of it.

    Raises:
        ClusterError: Ray or the deployment does not start, or the cluster serves already.
        InputError: Ray Serve or HAProxy is not installed, or HAProxy cannot be used here.
    """
    try:
        from ray import serve
    except ImportError:
        raise InputError(MISSING) from None
    own, inner = address == "local", listening
    with ExitStack() as stack:
        program = haproxy_program() if haproxy else None
        if haproxy:
            settings, inner = _behind_haproxy(settings, listening, own=own)
        variables = stack.enter_context(_told(settings.limits.body_bytes, haproxy=program))
        overlooked = stack.enter_context(ray_at(address, insecure_local=insecure_local))
        if not own:
            _check_alone(address)
        logging.getLogger("ray.serve").setLevel(logging.WARNING)  # it says http where it is https
        try:
            stack.callback(serve.shutdown)
            serve.start(
                proxy_location="HeadOnly",
                http_options=_http_options(inner),
                logging_config=_QUIET,
                controller_options=None if own else {"runtime_env": {"env_vars": variables}},
            )
            _deploy(serve, settings, source, book=book, scale=scale)
            if inner is not listening:
                stack.enter_context(terminator(listening, inner.at, program=program))
            elif listening.certificate is not None:
                check_tls13(_reached_at(listening, own=own), listening.port)
            yield overlooked
        except (RayError, RuntimeError) as error:
            raise ClusterError(f"Ray Serve does not serve: {error} {_cause(serve)}") from error


def _reached_at(listening: Listening, *, own: bool) -> str:
    """The address at which this process finds Serve's proxy, which runs on the head node."""
    if listening.host not in ("", "0.0.0.0", "::"):
        return listening.host
    if own:
        return "::1" if listening.host == "::" else "127.0.0.1"
    return str(ray.get_runtime_context().gcs_address).rpartition(":")[0].strip("[]")


@contextmanager
def _told(body_bytes: int, *, haproxy: str | None) -> Iterator[dict[str, str]]:
    """What Serve's processes find in their environment; those begun in the block inherit it."""
    with ExitStack() as stack:
        variables = {**TOLD, BODY_BYTES: str(body_bytes)}
        if haproxy is not None:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="cr-", dir="/tmp")))
            variables |= haproxy_mode(folder, program=haproxy)
        stack.enter_context(environment(variables))
        yield variables | stack.enter_context(only_tls13())


def _deploy(serve: Any, settings: Settings, source: Any, *, book: Path, scale: Scale) -> None:
    """Starts the replicas, and the actor that lends them budgets; returns when they answer."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    lender = ray.remote(Lender).options(num_cpus=0, scheduling_strategy=here, max_restarts=-1)
    lending = lender.remote(str(book.absolute()))
    shared = replace(settings, limits=settings.limits.shared_by(scale.most))
    bound = deployment(serve, settings, scale).bind(shared, source, lending)
    serve.run(bound, name=NAME, route_prefix="/", logging_config=_QUIET)


def _behind_haproxy(
    settings: Settings, listening: Listening, *, own: bool
) -> tuple[Settings, Listening]:
    """What changes where HAProxy stands in front: whom the guard believes, and where Serve listens.

    Raises:
        InputError: it cannot stand there.
    """
    if not own:
        raise InputError(
            "--haproxy: is for a Ray of our own; for a cluster's, see docs/serving.md (Behind a "
            "proxy)"
        )
    if listening.certificate is None:
        return settings, listening
    if settings.doors.proxies:
        raise InputError("--haproxy with --cert ends TLS itself: leave out --proxies")
    (port,) = free_ports(1)
    return replace(settings, doors=replace(settings.doors, proxies=1)), Listening("127.0.0.1", port)


def _check_alone(address: str) -> None:
    """Refuses a cluster that serves already: our options would be ignored, TLS among them.

    Raises:
        ClusterError: it does.
    """
    actors = ray.util.list_named_actors(all_namespaces=True)
    if any(actor["name"] == "SERVE_CONTROLLER_ACTOR" for actor in actors):
        raise ClusterError(
            f"{address}: Ray Serve runs there already, and would serve without our certificate and "
            "limits: end it with serve shutdown, or serve elsewhere"
        )


def _cause(serve: Any) -> str:
    """What a replica died of, as far as Serve knows: the last line of what it says."""
    try:
        told = serve.status().applications[NAME].deployments[NAME].message
    except (RayError, RuntimeError, KeyError):
        return ""
    return next((line.strip() for line in reversed(told.splitlines()) if line.strip()), "")


_QUIET: Final = {"enable_access_log": False, "log_level": "WARNING"}


def _http_options(listening: Listening) -> dict[str, Any]:
    options: dict[str, Any] = {
        "host": listening.host,
        "port": listening.port,
        "request_timeout_s": 30,
        "keep_alive_timeout_s": 15,
    }
    if listening.certificate is not None:
        options |= {
            "ssl_certfile": str(listening.certificate.absolute()),
            "ssl_keyfile": str(Path(listening.key or "").absolute()),
        }
    return options


def deployment(serve: Any, settings: Settings, scale: Scale) -> Any:
    """The deployment: Serve's own queue is the wider one, so that refusals are ours."""
    ongoing = settings.limits.ongoing
    size: dict[str, Any] = {"num_replicas": scale.least}
    if scale.most > scale.least:
        size = {
            "autoscaling_config": {
                "min_replicas": scale.least,
                "max_replicas": scale.most,
                "target_ongoing_requests": max(1, ongoing // 4),
                # Another replica within seconds of the load, and away again after minutes.
                "metrics_interval_s": 2.0,
                "look_back_period_s": 6.0,
                "upscale_delay_s": 4.0,
                "downscale_delay_s": 120.0,
            }
        }
    return serve.deployment(
        serve.ingress()(Replica),
        name=NAME,
        max_ongoing_requests=2 * ongoing,
        max_queued_requests=ongoing,
        backpressure_config={"status_code": 503, "retry_after_s": 1},
        graceful_shutdown_timeout_s=scale.graceful_seconds,
        health_check_period_s=5,
        ray_actor_options={"num_cpus": scale.cpus},
        **size,
    )


def serve_until_interrupted() -> None:
    """Returns on Ctrl-C, by raising KeyboardInterrupt."""
    while True:
        time.sleep(1.0)
