"""The committee of a one-shot sum: how large, how many must answer, and who sits on it.

Each client shares its key among m members of the cohort, drawn by a public shuffle, `packing` field
elements in one polynomial of degree R - 1. Any R members can rebuild, and R - packing know nothing.
With T the most corrupt members that the draw gives but for 2^-40, and a the fewest that answer but
for 2^-20, the smallest m is taken for which R <= a, where

* under `semi_honest`, R = T + packing: the corrupt members alone know nothing;
* from `semi_malicious` on, R = floor((m + T)/2) + packing as well. A lying server may show one set
  of survivors to some members and another to the others; the corrupt answer to both, the honest
  once. Together the sets get m + T answers, so one of them gets (m + T)/2 at most, which is R -
  packing: it stays hidden, and no two sums can be subtracted.

That speaks of two whole sets. Answers for different sets may also be weighted so that all but two
sums cancels, which works where some members heard of one group of clients alone, some of the other,
and the rest of both. Hence `minimum`: each set has more than half of the honest clients, so no two
of them are disjoint. Three groups told apart would be more equations than unknowns; for committees
of up to ten a search finds none (tests/secagg/attacks/test_25_claims.py), which is no proof for
larger ones.

That R > (m + T)/2 alone is not enough with packing: R - 1 shares then leave one unknown for
`packing` numbers that are known to be small, and so tell them all.

Under `malicious` the server may also try cohorts until the draw suits it: T holds but for 2^-104,
which leaves 2^-40 after 2^64 tries. Cohorts up to 64 are their own committee, where T and a are
certain.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache

from codex_ray.errors import ConfigError
from codex_ray.randomness import Stream
from codex_ray.secagg.parameters import (
    CORRECTNESS_BITS,
    GRINDING_BITS,
    PRIVACY_BITS,
    Adversary,
    Assumptions,
    fewest_survivors,
)
from codex_ray.secagg.tails import fewest_in_sample, most_in_sample
from codex_ray.types import ClientId

EVERYONE_UP_TO = 64
LARGEST_COMMITTEE = 1024


@dataclass(frozen=True)
class CommitteePlan:
    """The sizes and rules of one one-shot session.

    Attributes:
        members: how many clients are invited.
        size: m, how many of them form the committee.
        corrupt: T, the most corrupt members it is taken to have.
        packing: field elements in one polynomial.
        threshold: R, answers that rebuild the sum of the keys.
        minimum: clients that must be in the sum.
        adversary: what the server may do.
    """

    members: int
    size: int
    corrupt: int
    packing: int
    threshold: int
    minimum: int
    adversary: Adversary = "semi_malicious"


@lru_cache(maxsize=256)  # A host asks again for each of its clients.
def plan_committee(members: int, assumed: Assumptions, *, packing: int = 1) -> CommitteePlan:
    """The smallest committee that keeps the bounds for a cohort of `members`.

    `assumed.dropout` is that of committee members between the two trips; clients that drop before
    they speak cost nothing.

    Raises:
        ConfigError: none does, or the cohort is smaller than three.
    """
    minimum = fewest_survivors(members, assumed.corrupt)
    smallest = members if members <= EVERYONE_UP_TO else packing
    for size in range(smallest, min(members, LARGEST_COMMITTEE) + 1):
        corrupt, answering = _composition(members, size, assumed)
        threshold = corrupt + packing
        if assumed.adversary != "semi_honest":
            threshold = max(threshold, (size + corrupt) // 2 + packing)
        if threshold <= answering:
            return CommitteePlan(
                members, size, corrupt, packing, threshold, minimum, assumed.adversary
            )
    raise ConfigError(
        f"no committee of {members} clients keeps its secret with {assumed.corrupt:g} of them "
        f"corrupt and answers with {assumed.dropout:g} of them silent: lower "
        "federation.protocol.assumed_corrupt or assumed_committee_dropout, or raise the cohort"
    )


def draw_committee(
    members: tuple[ClientId, ...], seed: bytes, *, size: int
) -> tuple[ClientId, ...]:
    """Who sits on the committee, in increasing order: the first `size` of a public shuffle."""
    listed = b"".join(one.to_bytes(8, "little") for one in members)
    key = hashlib.sha256(b"committee" + seed + listed).digest()
    return tuple(sorted(members[at] for at in Stream(key).permutation(len(members))[:size]))


def _composition(members: int, size: int, assumed: Assumptions) -> tuple[int, int]:
    """The most corrupt members of a committee of `size`, and the fewest that answer."""
    corrupt = max(1, math.ceil(assumed.corrupt * members - 1e-9))
    staying = members - math.floor(assumed.dropout * members + 1e-9)
    if size == members:
        return corrupt, staying
    bits = PRIVACY_BITS + (GRINDING_BITS if assumed.adversary == "malicious" else 0)
    return (
        most_in_sample(members, corrupt, size, chance=2.0**-bits),
        fewest_in_sample(members, staying, size, chance=2.0**-CORRECTNESS_BITS),
    )
