"""Ray actors that tell figures of their clients' records before a run, and nobody the records.

The driver of a run over Ray asks each client on a host, and sees masked summands, as the server
of a round does. Nothing has begun by then: where a host is lost, the run is started again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import ray
from ray.exceptions import RayError

from codex_ray.cluster.causes import cause_of
from codex_ray.cluster.crew import shares_of
from codex_ray.cluster.hosts import CarrierServer, experiment_there
from codex_ray.cluster.roll_call import RollCall
from codex_ray.cluster.transport import RayTransport
from codex_ray.config import resolved
from codex_ray.errors import ClusterError, HostLost
from codex_ray.federation.transport import Carrier, Transport

if TYPE_CHECKING:
    from codex_ray.experiment import Experiment
    from codex_ray.preparation.questions import Question
    from codex_ray.randomness import Randomness
    from codex_ray.types import ClientId


class FigureHostServer(CarrierServer):
    """Opens the records of the clients that it is asked about, and answers for them."""

    def __init__(self, experiment: str, paths: list[str], population: int) -> None:
        """A host of the experiment's clients; it is given as JSON."""
        of = experiment_there(experiment, paths)
        from codex_ray.figures import answers_of
        from codex_ray.preparation.questions import Count
        from codex_ray.randomness import Randomness

        self._answers = answers_of(of, population, Randomness.of(of.seed))
        self._asked: tuple[Question, int, int] = (Count(most=1), 1, 32)
        super().__init__(self._sum)

    def ask(self, question: str, dimension: int, bits: int) -> None:
        """Has clients answer this question, as JSON, from the next ticket on."""
        from pydantic import TypeAdapter

        from codex_ray.preparation.questions import Question

        self._asked = (TypeAdapter(Question).validate_json(question), dimension, bits)

    def own(self, client: ClientId) -> npt.NDArray[np.float64]:
        """A client's figures [d], which it has noised enough to show them."""
        return next(iter(self._answers.own([client])))

    def _sum(self) -> Carrier:
        return self._answers.carrier(*self._asked)


FigureHostActor = ray.remote(max_restarts=0, max_task_retries=0)(FigureHostServer)


@contextmanager
def figure_hosts(
    experiment: Experiment, population: int, randomness: Randomness
) -> Iterator[FigureHosts]:
    """The clients of the experiment, who can be asked in the block; for the inside of a session.

    Raises:
        ClusterError: a host is lost, or cannot be built; the message says why.
    """
    paths = [str(Path.cwd()), *[path for path in sys.path if path]]
    count = min(experiment.cluster.at_least, population)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    start = FigureHostActor.options(
        **shares_of(nodes, hosts=count, gpus=0.0), scheduling_strategy="SPREAD"
    )
    spec = json.dumps(resolved(experiment))
    actors = [start.remote(spec, paths, population) for _ in range(count)]
    try:
        RollCall(actors).wait(at_least=count, deadline=experiment.cluster.deadline)
        yield FigureHosts(actors, population, experiment.cluster.deadline)
    except HostLost as lost:
        raise ClusterError(
            f"a host was lost while it told figures of its clients' records ({lost}): nothing has "
            "begun, start the run again"
        ) from lost
    finally:
        for actor in actors:
            with suppress(RayError):
                ray.kill(actor, no_restart=True)


@dataclass
class FigureHosts:
    """All clients, on these actors.

    Attributes:
        actors: the hosts.
        population: how many clients there are.
        deadline: seconds after which a silent host counts as lost.
        asked: how many questions were asked.
    """

    actors: Sequence[Any] = field(repr=False)
    population: int
    deadline: float
    asked: int = 0

    def seam(self, question: Question, dimension: int, bits: int) -> Transport:
        """A seam to clients who answer that question with so many words of so many bits."""
        self.asked += 1
        text = question.model_dump_json()
        self._all([actor.ask.remote(text, dimension, bits) for actor in self.actors])
        transport = RayTransport(
            self.actors, population=self.population, deadline=self.deadline, term=self.asked
        )
        transport.wait()
        return transport

    def own(self, clients: Sequence[ClientId]) -> Iterator[npt.NDArray[np.float64]]:
        """Each one's figures [d], with noise of its own that hides a record of it from anybody."""
        count = len(self.actors)
        yield from self._all([self.actors[one % count].own.remote(one) for one in clients])

    def _all(self, calls: Sequence[Any]) -> list[Any]:
        try:
            found: list[Any] = ray.get(list(calls), timeout=self.deadline)
        except RayError as error:
            raise cause_of(error) from error
        return found
