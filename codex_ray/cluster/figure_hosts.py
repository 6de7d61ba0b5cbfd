"""Ray actors that tell figures of their clients' records before a run, and nobody the records.

The driver of a run over Ray asks each client on a host, and sees masked summands, as the server
of a round does. Nothing has begun by then: where a host is lost, the run is started again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import ray
from ray.exceptions import GetTimeoutError, RayError

from codex_ray.cluster.causes import cause_of
from codex_ray.cluster.crew import seats
from codex_ray.cluster.hosts import CarrierServer, experiment_there
from codex_ray.cluster.inherited import module_paths
from codex_ray.cluster.roll_call import RollCall
from codex_ray.cluster.transport import RayTransport
from codex_ray.config import resolved
from codex_ray.errors import ClusterError, HostLost, ProtocolError
from codex_ray.federation.transport import Carrier, Transport
from codex_ray.figures import release_of
from codex_ray.randomness import Randomness

if TYPE_CHECKING:
    from codex_ray.experiment import Experiment
    from codex_ray.preparation.questions import Question
    from codex_ray.types import ClientId


class FigureHostServer(CarrierServer):
    """Opens the records of the clients that it is asked about, and answers for them."""

    def __init__(
        self, experiment: str, paths: list[str], population: int, place: tuple[int, int]
    ) -> None:
        """A host of the experiment's clients.

        Args:
            experiment: as JSON.
            paths: where it finds Python modules.
            population: how many clients there are.
            place: which host this is, and of how many.
        """
        of = experiment_there(experiment, paths)
        from codex_ray.figures import answers_of
        from codex_ray.preparation.questions import Count

        self._place = place
        self._answers = answers_of(of, population, Randomness.of(of.seed))
        self._asked: tuple[Question, int, int] = (Count(most=1), 1, 32)
        super().__init__(self._sum)

    def ask(self, question: str, dimension: int, bits: int) -> None:
        """Has clients answer this question, as JSON, from the next ticket on."""
        from pydantic import TypeAdapter

        from codex_ray.preparation.questions import Question

        self._asked = (TypeAdapter(Question).validate_json(question), dimension, bits)

    def own(self, client: ClientId) -> npt.NDArray[np.float64]:
        """A client's figures [d], which it has noised enough to show them.

        Raises:
            ProtocolError: it answers on another host: its noise is drawn once, and there.
        """
        number, count = self._place
        if client % count != number:
            raise ProtocolError(f"client {client} answers on host {client % count} of {count}")
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
    # Hosts draw from a tree that they make themselves: no secret travels to them.
    assert randomness.public == Randomness.of(experiment.seed).public
    count = min(experiment.cluster.at_least, population)
    spec, deadline = json.dumps(resolved(experiment)), experiment.cluster.deadline
    with ExitStack() as stack:
        actors = []
        for number, options in enumerate(stack.enter_context(seats(experiment, count))):
            actor = FigureHostActor.options(**options)
            actors.append(actor.remote(spec, module_paths(), population, (number, count)))
            stack.callback(_end, actors[-1])
        RollCall(actors).wait(at_least=count, deadline=deadline)
        try:
            yield FigureHosts(actors, population, deadline)
        except HostLost as lost:
            raise ClusterError(
                f"a host was lost while it told figures of its clients' records ({lost}): "
                + _advice(experiment, population)
            ) from lost


def _advice(experiment: Experiment, population: int) -> str:
    if experiment.seed is None and release_of(experiment, population).seen_unsummed:
        return (
            "some may have shown theirs, with noise that is not drawn again: begin a new run, and "
            "count what both cost"
        )
    return "nothing has begun, start the run again"


def _end(actor: Any) -> None:
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
        list(self._each([actor.ask.remote(text, dimension, bits) for actor in self.actors]))
        transport = RayTransport(
            self.actors, population=self.population, deadline=self.deadline, term=self.asked
        )
        transport.wait()
        return transport

    def own(self, clients: Sequence[ClientId]) -> Iterator[npt.NDArray[np.float64]]:
        """Each one's figures [d], with noise of its own that hides a record of it from anybody."""
        count = len(self.actors)
        yield from self._each([self.actors[one % count].own.remote(one) for one in clients])

    def _each(self, calls: Sequence[Any]) -> Iterator[Any]:
        """What each call comes to; each has the whole deadline after the one before it."""
        for call in calls:
            try:
                yield ray.get(call, timeout=self.deadline)
            except GetTimeoutError:
                raise HostLost(f"it gave no answer for {self.deadline:g} s") from None
            except RayError as error:
                raise cause_of(error) from error
