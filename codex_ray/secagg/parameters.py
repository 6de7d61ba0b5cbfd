"""How many neighbours and how many shares: degree and threshold from the size of the cohort.

With A = floor(corrupt * n) corrupt members and D = floor(dropout * n) dropouts, drawn without
replacement (Bell et al. 2020, section 3.4, with exact hypergeometric tails), a pair (degree k,
threshold t) must give

* connectivity: the honest survivors hang together, or a part of them would be summed apart;
* privacy, 2^-40 in all: nobody has t corrupt neighbours; under `semi_malicious` t also exceeds (k +
  corrupt neighbours)/2, so that two different claims about who survived never both find t answers;
* correctness, 2^-20 in all: everybody keeps t neighbours that answer.

Cohorts up to 64, and those for which no smaller degree will do, take the complete graph, where the
counts are certain: A = max(1, ceil(corrupt * n)) and t = floor((n + A)/2) + 1, which is 6 for n =
10. If that many answers cannot be had either, because (1 - dropout) n is smaller, the parameters
are refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from codex_ray.errors import ConfigError

PRIVACY_BITS = 40
CORRECTNESS_BITS = 20
COMPLETE_UP_TO = 64
SMALLEST_COHORT = 3
"""With two members each would read the other's summand off the sum."""
LARGEST_COHORT = 2**20
"""Tails cost memory by the member: a client must not spend it on a number that the server names."""

Adversary: TypeAlias = Literal["semi_honest", "semi_malicious"]

_KEY = "federation.protocol"


@dataclass(frozen=True)
class Assumptions:
    """What is believed: which fractions conspire and drop, and what the server may do."""

    corrupt: float
    dropout: float
    adversary: Adversary = "semi_malicious"


@dataclass(frozen=True)
class Plan:
    """The sizes of one session.

    Attributes:
        members: how many clients are invited.
        degree: neighbours of each; members - 1 is the complete graph.
        threshold: shares that rebuild a secret.
        minimum: members that must be in the sum, and answer the unmask trip.
    """

    members: int
    degree: int
    threshold: int
    minimum: int

    @property
    def complete(self) -> bool:
        """Whether everyone is everyone's neighbour."""
        return self.degree >= self.members - 1


def fewest_survivors(members: int, corrupt: float) -> int:
    """How many members a sum must have: over half of them honest and in no second sum.

    Raises:
        ConfigError: fewer than three members.
    """
    if members < SMALLEST_COHORT:
        raise ConfigError(
            f"a secure sum needs {SMALLEST_COHORT} clients, but the cohort is {members}: raise the "
            "cohort, or use federation.protocol.kind: clear"
        )
    return max(2, (members + _at_least_one(corrupt, members)) // 2 + 1)


@lru_cache(maxsize=256)  # A host asks again for each of its clients.
def plan(
    members: int, assumed: Assumptions, *, degree: int | None = None, threshold: int | None = None
) -> Plan:
    """Degree, threshold and minimum for `members` clients; None leaves the choice to the finder.

    Raises:
        ConfigError: no parameters, or not those given, keep the bounds at this cohort size.
    """
    minimum = fewest_survivors(members, assumed.corrupt)
    if members > LARGEST_COHORT:
        raise ConfigError(
            f"a secure sum takes {LARGEST_COHORT} clients at most, but the cohort is {members}: "
            "lower the cohort"
        )
    if degree is None:
        chosen = find_degree(members, assumed, threshold) if members > COMPLETE_UP_TO else None
        degree = chosen or members - 1
    degree = min(degree, members - 1)
    low, high = thresholds(members, degree, assumed)
    if low > high or minimum > members - _dropouts(members, assumed):
        raise ConfigError(_unreachable(members, degree, minimum, assumed))
    complete = degree == members - 1
    default = minimum if complete else low
    if threshold is not None and not low <= threshold <= high:
        raise ConfigError(
            f"{_KEY}.threshold is {threshold}, but the cohort is {members}: with {degree} "
            f"neighbours it can be {low} to {high}; leave it out to get {default}"
        )
    threshold = threshold or default
    return Plan(members, degree, threshold, max(minimum, threshold) if complete else minimum)


@lru_cache(maxsize=256)
def find_degree(members: int, assumed: Assumptions, threshold: int | None = None) -> int | None:
    """The smallest even degree that keeps all three bounds (with this threshold), or None."""
    degree, densest = 2, (members - 2) // 2 * 2
    while degree <= densest:
        low, high = thresholds(members, degree, assumed)
        wanted = low if threshold is None else threshold
        if low <= wanted <= high:
            return degree
        # Two more neighbours raise the low end by nothing or more, the high end by at most two.
        if wanted < low:
            return None
        degree += 2 * max(1, math.ceil((wanted - high) / 2))
    return None


def thresholds(members: int, degree: int, assumed: Assumptions) -> tuple[int, int]:
    """The smallest private threshold and the largest correct one; low > high means none.

    The low end is what the finder uses, as Google's production finder does: fewer shares, more
    room.
    """
    corrupt = _floor(assumed.corrupt * members)
    dropped = _dropouts(members, assumed)
    if degree >= members - 1:
        corrupt = _at_least_one(assumed.corrupt, members)
        majority = (members + corrupt) // 2 + 1
        low = majority if assumed.adversary == "semi_malicious" else max(corrupt + 1, 2)
        return low, members - dropped
    if not _connected(members, degree, corrupt + dropped):
        return 1, 0
    per_client = 2.0 ** -(PRIVACY_BITS + 1) / members
    seen = _most_in_sample(members, corrupt, degree, per_client)
    if assumed.adversary == "semi_malicious":
        seen = math.ceil((seen + degree - 1.25) / 2)
    answering = _fewest_in_sample(
        members, members - dropped, degree, 2.0**-CORRECTNESS_BITS / members
    )
    return max(2, seen + 1), answering


def _floor(value: float) -> int:
    """The integer part of a fraction times a count; 0.29 * 100 counts as 29."""
    return math.floor(value + 1e-9)


def _at_least_one(fraction: float, members: int) -> int:
    return max(1, math.ceil(fraction * members - 1e-9))


def _dropouts(members: int, assumed: Assumptions) -> int:
    return _floor(assumed.dropout * members)


def _connected(members: int, degree: int, lost: int) -> bool:
    """Whether `lost` random vertices leave the circulant graph connected, up to 2^-41.

    To cut it, two runs of degree/2 neighbours on the circle must be lost: n(n-k-1)/2 such pairs,
    each with probability C(n-k, lost-k)/C(n, lost).
    """
    if degree > lost:
        return True
    logs = _log_factorials(members)
    log_cut = (
        logs[members - degree] - logs[lost - degree] - logs[members] + logs[lost]
        + math.log(members * (members - degree - 1) / 2)
    )  # fmt: skip  # numerator, denominator, number of cuts
    return bool(log_cut <= -(PRIVACY_BITS + 1) * math.log(2))


@lru_cache(maxsize=8)
def _log_factorials(members: int) -> npt.NDArray[np.float64]:
    from scipy.special import gammaln  # slow to import, and only cohorts beyond 64 need it

    logs: npt.NDArray[np.float64] = gammaln(np.arange(members + 1) + 1.0)
    return logs


def _hypergeometric(members: int, marked: int, drawn: int) -> tuple[int, npt.NDArray[Any]]:
    """The first possible count of marked among `drawn`, and the probabilities from there on."""
    logs = _log_factorials(members)
    first, last = max(0, drawn - (members - marked)), min(drawn, marked)
    count = np.arange(first, last + 1)
    log_p = (
        logs[marked] - logs[count] - logs[marked - count]
        + logs[members - marked] - logs[drawn - count] - logs[members - marked - drawn + count]
        - logs[members] + logs[drawn] + logs[members - drawn]
    )  # fmt: skip  # one line for each of C(marked, i), C(n - marked, k - i), C(n, k)
    return first, np.exp(log_p)


def _most_in_sample(members: int, marked: int, drawn: int, chance: float) -> int:
    """The smallest t with Pr[more than t marked among drawn] <= chance."""
    first, p = _hypergeometric(members, marked, drawn)
    more = np.append(np.cumsum(p[::-1])[::-1][1:], 0.0)  # more[i] = Pr[count > first + i]
    return first + int(np.argmax(more <= chance))


def _fewest_in_sample(members: int, marked: int, drawn: int, chance: float) -> int:
    """The largest t with Pr[fewer than t marked among drawn] <= chance."""
    first, p = _hypergeometric(members, marked, drawn)
    up_to = np.cumsum(p)  # up_to[i] = Pr[count <= first + i]
    return first + int(np.count_nonzero(up_to <= chance))


def _unreachable(members: int, degree: int, minimum: int, assumed: Assumptions) -> str:
    left = members - _dropouts(members, assumed)
    if degree < members - 1 and minimum <= left:
        better = find_degree(members, assumed)
        remedy = f"raise it to {better}" if better else "leave it out for the complete graph"
        return f"{_KEY}.degree is {degree}, too few for a cohort of {members}: {remedy}"
    return (
        f"{_KEY}.assumed_dropout is {assumed.dropout:g}, which leaves {left} of {members} clients, "
        f"but assumed_corrupt {assumed.corrupt:g} needs {minimum}: lower one of the two"
    )
