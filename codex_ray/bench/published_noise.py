"""Published noise multipliers: what was charged for which epsilon, by PLD and by RDP.

User-level settings of federated learning without and with amplification, the EMNIST setting of 3400
clients, three settings of pfl-research (arXiv:2404.06430) with their noise cohorts, and DP-SGD at a
sampling rate of one in a hundred. The multipliers were found with dp_accounting 0.6 and Opacus 1.6.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from dp_accounting import DpEvent


@dataclass(frozen=True)
class Published:
    """One published setting.

    Attributes:
        table: which of them it is from.
        rate: of the Poisson sampling; 1 for none.
        releases: how often the noise is paid.
        epsilon, delta: the target.
        accountant: by which it was met.
        noise: the multiplier that it takes.
    """

    table: str
    rate: float
    releases: int
    epsilon: float
    delta: float
    accountant: Literal["pld", "rdp"]
    noise: float

    def event(self, noise: float) -> DpEvent:
        """One release at that noise multiplier."""
        import dp_accounting as dp  # slow to import

        gaussian = dp.GaussianDpEvent(noise)
        return gaussian if self.rate == 1 else dp.PoissonSampledDpEvent(self.rate, gaussian)

    @property
    def words(self) -> str:
        """The setting in a few words."""
        sampled = "unsampled" if self.rate == 1 else f"rate {self.rate:.3g}"
        return (
            f"{sampled}, {self.releases} releases, epsilon {self.epsilon:g} at {self.delta:.2g}, "
            f"{self.accountant}"
        )


COHORTS: Final = (
    # population, cohort, rounds, noise for epsilon 1, 2, 4 and 8; delta = population^-1.1
    (1_000, 50, 200, (2.15, 1.34, 0.93, 0.69)),
    (10_000, 100, 500, (1.08, 0.81, 0.65, 0.52)),
    (3_400, 100, 500, (2.22, 1.36, 0.93, 0.70)),
    (100_000, 1_000, 1_000, (1.49, 1.00, 0.76, 0.60)),
)
UNSAMPLED: Final = {2: (2.23, 3.86, 5.46, 7.05), 8: (0.65, 1.13, 1.60, 2.07)}
"""By epsilon, for 1, 3, 6 and 10 releases at delta 1e-6."""
EMNIST: Final = (
    # epsilon, noise by PLD and by RDP; 100 of 3400 clients, 1500 rounds
    (1, 3.42, 3.79),
    (3, 1.49, 1.61),
    (5, 1.10, 1.17),
    (10, 0.79, 0.83),
    (20, 0.61, 0.64),
)
PRESUMED: Final = (
    # noise cohort, rounds, noise by PLD and by RDP; population 10^6, epsilon 2 at 1e-6
    (1_000, 1_500, 0.617, 0.715),
    (1_000, 3_000, 0.633, 0.726),
    (5_000, 2_000, 0.865, 0.940),
    (5_000, 5_000, 1.057, 1.107),
)
CENTRAL: Final = ((1, 1.416, 1.513), (3, 0.814, 0.865), (8, 0.586, 0.616))
"""Epsilon, noise by PLD and by RDP; 1000 steps at rate 0.01, delta 1e-5."""


def published() -> Iterator[Published]:
    """Every setting of every table."""
    for population, cohort, rounds, noises in COHORTS:
        rate, delta = cohort / population, population**-1.1
        for epsilon, noise in zip((1, 2, 4, 8), noises, strict=True):
            yield Published("cohorts", rate, rounds, epsilon, delta, "pld", noise)
    for epsilon, noises in UNSAMPLED.items():
        for count, noise in zip((1, 3, 6, 10), noises, strict=True):
            yield Published("no amplification", 1, count, epsilon, 1e-6, "pld", noise)
    for epsilon, pld, rdp in EMNIST:
        yield Published("EMNIST", 100 / 3400, 1500, epsilon, 1 / 3400, "pld", pld)
        yield Published("EMNIST", 100 / 3400, 1500, epsilon, 1 / 3400, "rdp", rdp)
    for cohort, rounds, pld, rdp in PRESUMED:
        yield Published("noise cohorts", cohort / 1e6, rounds, 2, 1e-6, "pld", pld)
        yield Published("noise cohorts", cohort / 1e6, rounds, 2, 1e-6, "rdp", rdp)
    for epsilon, pld, rdp in CENTRAL:
        yield Published("DP-SGD", 0.01, 1000, epsilon, 1e-5, "pld", pld)
        yield Published("DP-SGD", 0.01, 1000, epsilon, 1e-5, "rdp", rdp)
