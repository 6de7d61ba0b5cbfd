"""The guarded application on Ray Serve: replicas that scale, behind Serve's proxy with TLS.

Each replica is the whole application, guard included, since Serve's proxy takes no middleware of
ours. What all must agree on is cut in two: rates are divided by the most replicas there may be, and
budgets are lent out by one small actor, which keeps the book on disk.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from codex_ray.cluster.doors import ray_at
from codex_ray.cluster.tls13 import only_tls13
from codex_ray.errors import ClusterError, InputError
from codex_ray.serving.application import Application, Settings
from codex_ray.serving.budgets import Book, Lend
from codex_ray.serving.from_registry import Source
from codex_ray.serving.local import MISSING, Listening

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


def lend_by(actor: Any) -> Lend:
    """Lending by an actor, of pieces, so that most requests need no message.

    While the actor cannot be reached nothing is lent, and callers with a budget are refused.
    """

    async def lend(account: str, least: int, budget: int) -> int:
        try:
            return int(await actor.lend.remote(account, least, budget))
        except RayError:
            return 0

    return lend


class Replica:
    """What Serve runs: it builds the application in its own process."""

    def __init__(self, settings: Settings, source: Any, lender: Any) -> None:
        labelled = replace(settings, labels={**settings.labels, "replica": str(os.getpid())})
        self._application = Application(labelled, source.open(), lend=lend_by(lender))

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

    Raises:
        ClusterError: Ray or the deployment does not start.
        InputError: Ray Serve is not installed.
    """
    try:
        from ray import serve
    except ImportError:
        raise InputError(MISSING) from None
    with only_tls13(), ray_at(address, insecure_local=insecure_local) as overlooked:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        lender = ray.remote(Lender).options(num_cpus=0, scheduling_strategy=here, max_restarts=-1)
        logging.getLogger("ray.serve").setLevel(logging.WARNING)  # it says http where it is https
        try:
            serve.start(
                proxy_location="HeadOnly",
                http_options=_http_options(listening),
                logging_config=_QUIET,
            )
            lending = lender.remote(str(book.absolute()))
            bound = _deployment(serve, settings, scale).bind(
                replace(settings, limits=settings.limits.shared_by(scale.most)), source, lending
            )
            serve.run(bound, name=NAME, route_prefix="/", logging_config=_QUIET)
            yield overlooked
        except (RayError, RuntimeError) as error:
            raise ClusterError(f"Ray Serve does not serve: {error} {_cause(serve)}") from error
        finally:
            serve.shutdown()


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


def _deployment(serve: Any, settings: Settings, scale: Scale) -> Any:
    """The deployment: Serve's own queue is the wider one, so that refusals are ours."""
    ongoing = settings.limits.ongoing
    size: dict[str, Any] = {"num_replicas": scale.least}
    if scale.most > scale.least:
        size = {
            "autoscaling_config": {
                "min_replicas": scale.least,
                "max_replicas": scale.most,
                "target_ongoing_requests": max(1, ongoing // 4),
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
