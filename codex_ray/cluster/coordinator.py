"""The coordinator actor: it runs the rounds on the driver's hosts, and never sees an update."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import ray

from codex_ray.cluster.crew import Berth, Crew
from codex_ray.cluster.hosts import only_ours
from codex_ray.cluster.kills import Killing
from codex_ray.cluster.packing import Costs
from codex_ray.cluster.transport import RayTransport
from codex_ray.records.run_directory import RunDirectory
from codex_ray.threads import give_back, import_torch_alone, importing, long_lived

if TYPE_CHECKING:
    from codex_ray.assembly import Assembled
    from codex_ray.experiment import Experiment
    from codex_ray.federation.state import RoundResult

ASIDE: Final = "status"
"""The group of calls that are answered while a round runs."""


class CoordinatorServer:
    """Runs the experiment of a run directory, and tells of each round as a line of JSON."""

    def __init__(self) -> None:
        self._transport: RayTransport | None = None
        self._assembled: Assembled | None = None
        self._round = 0
        self._since = time.monotonic()

    def build(self, placement: str, berth: Berth) -> None:
        """Has all ready that does not depend on how far the run is.

        Args:
            placement: the experiment as JSON; only its `cluster` may differ from the directory's.
            berth: how the hosts of the run are started.
        """
        self._assembled = self._build(placement, berth)

    def _build(self, placement: str, berth: Berth) -> Assembled:
        sys.path += [path for path in berth.paths if path not in sys.path]
        spec = json.loads(placement)
        with importing():
            if only_ours(spec):
                import_torch_alone()
            import dp_accounting  # noqa: F401  # round 0 needs it, and then nobody else has work

            import codex_ray.running  # noqa: F401  # in time for the first round
            from codex_ray.assembly import assemble
            from codex_ray.cluster.shared_data import shared
            from codex_ray.config import experiment_from
        long_lived()
        experiment = experiment_from(spec)
        arrays = ray.get(list(berth.data), timeout=experiment.cluster.deadline)
        with shared(experiment, tuple(arrays)):
            return assemble(experiment)

    def run(
        self, directory: str, placement: str, crew: Crew, *, term: int = 0, kills: str = ""
    ) -> Iterator[str]:
        """One JSON line for each round, after it is persisted; before the first, an empty line.

        Args:
            directory: the run directory, as this node sees it.
            placement: as for `build`, whose work it does if that is not done, or has failed.
            crew: the hosts, some of which may not have been placed yet.
            term: which coordinator of the run this is, from 0.
            kills: the processes that are to be killed on the way, and when (see `kills`).
        """
        assembled = self._assembled or self._build(placement, crew.berth)
        from codex_ray.data.in_memory import InMemory
        from codex_ray.data.prepared_clients import PreparedClients
        from codex_ray.running import rounds

        experiment, dataset = assembled.experiment, assembled.dataset
        # Others make their records.
        sizes = dataset.sizes if isinstance(dataset, InMemory | PreparedClients) else None
        transport = self._transport = RayTransport(
            crew.hosts[: dataset.population],
            population=dataset.population,
            deadline=experiment.cluster.deadline,
            costs=Costs(dataset.population, records=sizes),
            together=experiment.plan.plan.clients,
            part=experiment.plan.plan.part,
            term=term,
            another=crew.another,
            asked_again=asked_again(experiment),
        )
        # A coordinator that takes over goes on with whoever is there, as the one before it did.
        transport.wait(at_least=1 if term else experiment.cluster.at_least)
        yield ""
        seam = Killing.read(kills, transport) if kills else transport
        for result in rounds(assembled, RunDirectory.open(Path(directory)), seam):
            self._round, self._since = result.round + 1, time.monotonic()
            yield json.dumps(result.to_json())
            if "evaluate" in result.seconds:
                give_back()

    @ray.method(concurrency_group=ASIDE)
    def status(self) -> dict[str, Any]:
        """The round under way and for how many seconds it has been, and how far its trip is."""
        nothing = {"stage": "", "asked": 0, "heard": 0, "hosts": 0, "away": []}
        progress = nothing if self._transport is None else self._transport.progress
        return {"round": self._round, "seconds": time.monotonic() - self._since, **progress}


Coordinator = ray.remote(
    num_cpus=0, max_restarts=0, max_task_retries=0, concurrency_groups={ASIDE: 1}
)(CoordinatorServer)


def asked_again(experiment: Experiment) -> bool:
    """Whether clients who sent their summand along with their training still have something to say.

    That is so where a trip to them follows that is really made, and in a run with debug figures,
    which only the host that trained a client knows.
    """
    protocol = experiment.federation.protocol
    return experiment.debug or (protocol.folds and protocol.standing is None)


def read_round(line: str) -> RoundResult:
    """The round that a line of the coordinator tells of."""
    from codex_ray.federation.state import RoundResult

    return RoundResult(**json.loads(line))
