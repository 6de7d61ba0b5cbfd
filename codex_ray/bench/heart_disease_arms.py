"""The ways to train that are compared on Heart Disease, and where their settings come from.

Settings were chosen by `codex-ray bench heart --only settings`: from small grids, by mean
accuracy over splits of `CHOOSING`, and never on the twenty that figures are from. The
splits differ, the records are the same, and no epsilon here covers the choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from codex_ray.bench.heart_disease_data import SCALINGS, TELLING, Scaling
from codex_ray.bench.heart_disease_scores import Arm
from codex_ray.federation.fedadam import FedAdam

DELTA: Final = 1e-5
EPSILONS: Final = (1.0, 0.1, 0.05)
BATCH: Final = 500
"""A public divisor, about the number of training records."""
CORRUPT: Final = 0.25
"""One hospital of the four may tell the server its own noise, which then does not count."""
Where = Literal["distributed", "local"]


@dataclass(frozen=True)
class Plain:
    """Training without noise.

    Attributes:
        rate: of a hospital's own SGD, in batches of 64.
        rounds: each of one pass over the records.
        server: the step of FedAdam; None is FedAvg with a step of 1.
    """

    rate: float
    rounds: int = 20
    server: float | None = None

    @property
    def arm(self) -> Arm:
        """The experiment; a hospital counts for as much as it has records."""
        config: dict[str, Any] = {
            "name": "heart_plain",
            "rounds": self.rounds,
            "budget": {"delta": DELTA},
            "model": {"kind": "linear"},
            "plan": "reference",
            "trainer": {
                "kind": "sgd",
                "learning_rate": self.rate,
                "batches": {"kind": "shuffled", "batch_size": 64, "epochs": 1},
            },
            "federation": {
                "protocol": {"kind": "ideal"},
                "mechanism": {"kind": "none", "weights": {"by": "records", "largest": 300}},
            },
        }
        if self.server is None:
            return Arm(config)
        return Arm(config, FedAdam(learning_rate=self.server))


@dataclass(frozen=True)
class Private:
    """DP-SGD on every record of everybody in each round, with noise added in one of two places.

    Attributes:
        where: distributed, a part of the noise by each hospital inside the secure sum; or local,
            all of it by each hospital for itself.
        epsilon: for the whole run.
        rounds: each a step.
        clip: the norm that each record's gradient is cut to.
        rate: of a step along the mean of clipped gradients, in units of 1 / clip.
        figures: the noise multiplier of what features are scaled by; None for constants.
        columns: that are used.
    """

    where: Where
    epsilon: float
    rounds: int
    clip: float
    rate: float
    figures: float | None = None
    columns: tuple[int, ...] = TELLING

    @property
    def arm(self) -> Arm:
        """The experiment, with noise still to be found."""
        trainer, federation = self._shared() if self.where == "distributed" else self._own()
        config: dict[str, Any] = {
            "name": f"heart_{self.where}",
            "rounds": self.rounds,
            "budget": {"epsilon": self.epsilon, "delta": DELTA},
            "model": {"kind": "linear"},
            "plan": "reference",
            "trainer": {**trainer, "clip_norm": self.clip, "batch_size": BATCH},
            "federation": federation,
        }
        return Arm(config)

    def _shared(self) -> tuple[dict[str, Any], dict[str, Any]]:
        trainer = {
            "kind": "distributed_dp_sgd",
            "learning_rate": self.rate / self.clip,
            "sampling_rate": 1.0,
        }
        mechanism = {
            "kind": "skellam",
            "noise_multiplier": "auto",
            "assumed_dropout": 0.0,
            "assumed_corrupt": CORRUPT,
        }
        return trainer, {"protocol": {"kind": "ideal"}, "mechanism": mechanism}

    def _own(self) -> tuple[dict[str, Any], dict[str, Any]]:
        trainer = {
            "kind": "dp_sgd",
            "learning_rate": 4 * self.rate / self.clip,  # the mean is over four sums
            "noise_multiplier": "auto",
            "batches": {"kind": "poisson", "sampling_rate": 1.0, "steps": 1},
        }
        mechanism = {"kind": "none", "bound": 64 * self.rate}
        return trainer, {"protocol": {"kind": "ideal"}, "mechanism": mechanism}


FEDAVG: Final[dict[Scaling, Plain]] = {
    "fixed": Plain(rate=0.1),
    "pooled": Plain(rate=0.1),
    "per_client": Plain(rate=0.1),
}
FEDADAM: Final[dict[Scaling, Plain]] = {
    "fixed": Plain(rate=0.3, server=0.03),
    "pooled": Plain(rate=0.3, server=0.03),
    "per_client": Plain(rate=0.1, server=0.03),
}
FIGURES: Final[dict[float, float]] = {1.0: 10.0, 0.1: 60.0, 0.05: 100.0}
"""Noise multipliers of figures that are released, by epsilon: they take about a seventh of it."""


def _private(where: Where, rounds: Mapping[float, int]) -> dict[tuple[Scaling, float], Private]:
    """An arm for each scaling and epsilon. The rate of an only step decides nothing."""
    return {
        (scaling, epsilon): Private(
            where,
            epsilon,
            rounds=rounds[epsilon],
            clip=0.5,
            rate=1.0,
            figures=None if scaling == "fixed" else FIGURES[epsilon],
        )
        for scaling in SCALINGS
        for epsilon in EPSILONS
    }


DISTRIBUTED: Final = _private("distributed", {1.0: 2, 0.1: 1, 0.05: 2})
LOCAL: Final = _private("local", {1.0: 1, 0.1: 2, 0.05: 2})
