"""The experiments whose speed is measured: what clients train, and how their updates are summed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias

from codex_ray.api import plan as planned
from codex_ray.assembly import Assembled, assemble
from codex_ray.bench.bars import fewer
from codex_ray.experiment import Experiment
from codex_ray.learning.contest import BATCH, RATE
from codex_ray.learning.plans import Precision
from codex_ray.learning.trainers import LocalTraining

Training: TypeAlias = Literal["nothing", "logistic", "mlp", "cnn"]
Summing: TypeAlias = Literal["plain", "clear", "dp", "secagg", "semi-honest"]

ROUNDS: Final = 1000
"""More than are ever measured: a last round would be evaluated."""
UPDATES: Final = 100_000
"""Client updates of the long run whose plan is measured."""
SILENT: Final = {"after_shares": 0.05}
"""Under secure aggregation one client in twenty falls silent where that costs most; as many are
taken to be corrupt."""


@dataclass(frozen=True)
class Workload:
    """One experiment to measure.

    Attributes:
        training: the model that clients train with 50 images each; or nothing, with that of a
            logistic regression.
        summing: added up on the hosts, by trust; each update sent to the server in the clear; with
            clipping and central noise; by SecAgg+, in its default mode or against a semi-honest
            server.
        clients, cohort: the population, and how many of it are in a round.
        hosts: Ray actors that carry them; 0 for this process.
        kernel: of the plan; auto for what a long run would be given.
        precision: in which matrices are multiplied.
    """

    training: Training
    summing: Summing = "plain"
    clients: int = 1000
    cohort: int = 100
    hosts: int = 2
    kernel: str = "auto"
    precision: Precision = "float32"

    def scaled(self, scale: float, *, least: int = 8) -> Workload:
        """The same with fewer clients in a round, to see that it works."""
        if scale >= 1:
            return self
        cohort = fewer(self.cohort, scale, least=least)
        kernel = "reference" if self.precision == "float32" else "vectorised"
        return replace(self, cohort=cohort, clients=max(cohort, self.clients), kernel=kernel)

    def experiment(self) -> Experiment:
        """It as an experiment, whose plan is still to be settled."""
        model = "logistic" if self.training == "nothing" else self.training
        args = {"clients": self.clients}
        if self.training == "nothing":
            args["records"] = 0
        config = {
            "name": "bench",
            "rounds": ROUNDS,
            "evaluate_every": ROUNDS,
            "data": {
                "kind": "python",
                "factory": "codex_ray.data.shared_records:shared_records",
                "args": args,
            },
            "model": f"codex_ray.learning.contest:{model}",
            "trainer": {
                "kind": "sgd",
                "learning_rate": RATE,
                "batches": {"kind": "shuffled", "batch_size": BATCH},
            },
            "plan": {"kernel": self.kernel, "precision": self.precision},
            "federation": self._federation(),
            "cluster": {"hosts": self.hosts, "standby": False},
        }
        return planned(config, {})

    def _federation(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "sampler": {"kind": "fixed", "size": self.cohort},
            "protocol": {"kind": "clear" if self.summing == "clear" else "ideal"},
        }
        if self.summing == "dp":
            found["sampler"] = {"kind": "poisson", "rate": self.cohort / self.clients}
            found["mechanism"] = {"kind": "gaussian", "clip_norm": 1.0, "noise_multiplier": 1.0}
        elif self.summing in ("secagg", "semi-honest"):
            found["protocol"] = {"kind": "secagg_plus", "assumed_dropout": 0.05}
            found["protocol"]["assumed_corrupt"] = 0.05
            found["dropouts"] = SILENT
        if self.summing == "semi-honest":
            found["protocol"]["adversary"] = "semi_honest"
        return found

    def assembled(self) -> Assembled:
        """Its components, with the plan that a long run of it would be given."""
        found = assemble(self.experiment())
        training = found.training()
        assert isinstance(training, LocalTraining)  # A plan that is not settled is the reference.
        plan = found.experiment.plan.settled(training, updates=UPDATES, gpus=0)
        settled = found.experiment.model_copy(update={"plan": plan})
        return replace(found, experiment=settled)
