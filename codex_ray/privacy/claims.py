"""What an epsilon is a claim about: whose data, against whom, and between which two worlds.

One round can be looked at by different people, and costs something else against each: whoever
learns who was in a cohort gives no credit for its sampling. So an epsilon never stands without its
claim. The names are those under which the cases differ by factors of 10 to 27 (docs/privacy.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from codex_ray.privacy.events import Relation
from codex_ray.privacy.ledger import Unit

Neighbours = Literal["add_or_remove_one", "replace_one", "zero_out"]


@dataclass(frozen=True)
class Claim:
    """One line of the table.

    Attributes:
        name: U for a client as the unit, L for a record of one client.
        unit: what one entry of its ledger protects.
        neighbours: which two worlds are compared. Under `zero_out` the client takes part in both,
            in one of them adding nothing to the sums: noise that it brings is in both, and so is
            what dropouts show.
        against: who may look at what.
        sampling_counts: whether the cohort's sampling is credited; it has to stay hidden then.
        assumes: what else must be true.
        outside: whether the server is given less credit by another claim of the same round.
    """

    name: str
    unit: Unit
    neighbours: Neighbours
    against: str
    sampling_counts: bool
    assumes: tuple[str, ...] = ()
    outside: bool = False

    @property
    def relation(self) -> Relation:
        """Under which relation its ledger accounts.

        Distributed noise is analysed as `zero_out`, and its events are stated for it.
        """
        return "replace_one" if self.neighbours == "replace_one" else "add_or_remove_one"

    @property
    def label(self) -> str:
        """How the epsilon is called in figures: by its unit, and whether only outsiders look."""
        return f"{self.unit}_against_outsiders" if self.outside else self.unit


NO_SUM: Final = (
    "dropouts are drawn independently of the data; that a round had too few survivors for a sum is "
    "not accounted, and hints at how large the cohort was"
)
CENTRAL: Final = Claim(
    "U1",
    "client",
    "add_or_remove_one",
    "whoever sees every released model, and not who was in a cohort",
    sampling_counts=True,
    assumes=(
        "the coordinator is trusted to add the noise to the sum and to keep the sum to itself",
        NO_SUM,
    ),
)
FIXED_COHORT: Final = Claim(
    "U2",
    "client",
    "replace_one",
    "whoever sees every released model, and not who was in a cohort",
    sampling_counts=True,
    assumes=(
        "the coordinator is trusted to add the noise to the sum and to keep the sum to itself",
        "how many clients there are, and how many a cohort has, is public",
        NO_SUM,
    ),
)
KNOWN: Final = Claim(
    "U1",
    "client",
    "zero_out",
    "whoever sees every released model; everybody is in every round",
    sampling_counts=False,
    assumes=(
        "the coordinator is trusted to add the noise to the sum and to keep the sum to itself",
    ),
)
SPACED: Final = Claim(
    "U3",
    "client",
    "zero_out",
    "whoever sees every released model and knows who was in each cohort",
    sampling_counts=False,
    assumes=(
        "the coordinator is trusted to add the noise to the sum and to keep the sum to itself",
        "no client takes part more often, or sooner again, than the sampler's schedule allows",
    ),
)
DISTRIBUTED: Final = Claim(
    "U4",
    "client",
    "zero_out",
    "the server, which picks the cohorts and sees every noised sum, with the conspirators that the "
    "mechanism assumes",
    sampling_counts=False,
    assumes=("the secure sum shows its result only, and none with fewer survivors than needed",),
)
DISTRIBUTED_OUTSIDE: Final = Claim(
    "U1",
    "client",
    "replace_one",
    "whoever sees every released model and how many clients were in each sum, and not who",
    sampling_counts=True,
    assumes=(
        "the secure sum shows its result only, and none with fewer survivors than needed",
        "the noise of a release tells how many clients brought it, so cohorts are taken as drawn "
        "at once, with their sizes known; every client drops out as easily as any other",
    ),
    outside=True,
)
LOCAL_CLIENT: Final = Claim(
    "L3",
    "client",
    "replace_one",
    "whoever sees the client's noised update by itself",
    sampling_counts=False,
    assumes=("dropouts are drawn independently of the data",),
)
LOCAL_STEPS: Final = Claim(
    "L1",
    "record",
    "add_or_remove_one",
    "whoever sees every update of the record's client by itself",
    sampling_counts=False,
    assumes=(
        "no credit is taken for secure aggregation, for other clients' noise or for a hidden "
        "cohort",
        "a client pays for the rounds whose sum it is in; dropouts are drawn independently of the "
        "data",
    ),
)
SHARED_STEP: Final = Claim(
    "L2",
    "record",
    "add_or_remove_one",
    "the server, which sees every noised sum, with the conspirators that the mechanism assumes",
    sampling_counts=False,
    assumes=(
        "one local step a round, at the same sampling rate and clip norm everywhere",
        "the secure sum shows its result only, and none with fewer survivors than needed",
    ),
)
LOCAL: Final = Claim(
    "L3",
    "record",
    "replace_one",
    "whoever sees the noised records themselves",
    sampling_counts=False,
)
