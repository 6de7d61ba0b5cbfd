"""How many neighbours and how many shares: degree and threshold from the size of the cohort.

With A = floor(corrupt * n) corrupt members and D = floor(dropout * n) dropouts, drawn without
replacement (Bell et al. 2020, section 3.4, with exact hypergeometric tails), a pair (degree k,
threshold t) must give

* connectivity: the honest survivors hang together, or a part of them would be summed apart;
* privacy, 2^-40 in all: nobody has t corrupt neighbours; from `semi_malicious` on t also exceeds
  (k + corrupt neighbours)/2, so that two different claims about who survived never both find t
  answers. Under `malicious` it is 2^-104: a server that tries 2^64 graphs still finds a bad one
  with 2^-40 only;
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
from typing import Literal, TypeAlias

from codex_ray.errors import ConfigError
from codex_ray.secagg.tails import fewest_in_sample, log_factorials, most_in_sample

PRIVACY_BITS = 40
GRINDING_BITS = 64
"""How many graphs a malicious server is taken to try, as a power of two."""
CORRECTNESS_BITS = 20
COMPLETE_UP_TO = 64
SMALLEST_COHORT = 3
"""With two members each would read the other's summand off the sum."""
LARGEST_COHORT = 2**20
"""Tails cost memory by the member: a client must not spend it on a number that the server names."""

Adversary: TypeAlias = Literal["semi_honest", "semi_malicious", "malicious"]
Keys: TypeAlias = Literal["session", "enrolled"]

_KEY = "federation.protocol"


@dataclass(frozen=True)
class Assumptions:
    """What is believed: which fractions conspire and drop, and what the server may do."""

    corrupt: float
    dropout: float
    adversary: Adversary = "semi_malicious"


@dataclass(frozen=True)
class Plan:
    """The sizes and rules of one session.

    Attributes:
        members: how many clients are invited.
        degree: neighbours of each; members - 1 is the complete graph.
        threshold: shares that rebuild a secret.
        minimum: members that must be in the sum, and answer the unmask trip.
        adversary: what the server may do; `semi_honest` needs no signatures.
        keys: whether pairs agree by a key of this session or by their enrolled ones.
    """

    members: int
    degree: int
    threshold: int
    minimum: int
    adversary: Adversary = "semi_malicious"
    keys: Keys = "session"

    @property
    def signed(self) -> bool:
        """Whether advertisements carry signatures."""
        return self.adversary != "semi_honest"

    @property
    def identified(self) -> bool:
        """Whether clients need an identity and an enrolment list."""
        return self.signed or self.keys == "enrolled"

    @property
    def checks_roster(self) -> bool:
        """Whether clients check the first trip, and compute the graph themselves."""
        return self.adversary == "malicious"

    @property
    def confirms(self) -> bool:
        """Whether clients sign for each other who survived, before they give shares.

        A threshold above (k + corrupt)/2 keeps two claims about one client apart. But a server
        that takes one client's neighbours for dropped, each before another quorum, reads that
        client without ever opening both secrets of anyone: against that clients must compare.
        """
        return self.adversary != "semi_honest"

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
    members: int,
    assumed: Assumptions,
    *,
    degree: int | None = None,
    threshold: int | None = None,
    keys: Keys = "session",
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
    minimum = max(minimum, threshold) if complete else minimum
    return Plan(members, degree, threshold, minimum, assumed.adversary, keys)


def choose_graph(
    cohort: int,
    *,
    corrupt_fraction: float,
    dropout_fraction: float,
    model: Adversary = "semi_malicious",
) -> Plan:
    """The sparsest graph, and its threshold, for `cohort` clients under these assumptions.

    Raises:
        ConfigError: no graph keeps the bounds.
    """
    return plan(cohort, Assumptions(corrupt_fraction, dropout_fraction, model))


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
        low = max(corrupt + 1, 2) if assumed.adversary == "semi_honest" else majority
        return low, members - dropped
    bits = PRIVACY_BITS + (GRINDING_BITS if assumed.adversary == "malicious" else 0)
    if not _connected(members, degree, corrupt + dropped, bits):
        return 1, 0
    per_client = 2.0 ** -(bits + 1) / members
    seen = most_in_sample(members, corrupt, degree, chance=per_client)
    if assumed.adversary != "semi_honest":
        seen = math.ceil((seen + degree - 1.25) / 2)
    answering = fewest_in_sample(
        members, members - dropped, degree, chance=2.0**-CORRECTNESS_BITS / members
    )
    return max(2, seen + 1), answering


def _floor(value: float) -> int:
    """The integer part of a fraction times a count; 0.29 * 100 counts as 29."""
    return math.floor(value + 1e-9)


def _at_least_one(fraction: float, members: int) -> int:
    return max(1, math.ceil(fraction * members - 1e-9))


def _dropouts(members: int, assumed: Assumptions) -> int:
    return _floor(assumed.dropout * members)


def _connected(members: int, degree: int, lost: int, bits: int) -> bool:
    """Whether `lost` random vertices leave the circulant graph connected, up to 2^-(bits + 1).

    To cut it, two runs of degree/2 neighbours on the circle must be lost: n(n-k-1)/2 such pairs,
    each with probability C(n-k, lost-k)/C(n, lost).
    """
    if degree > lost:
        return True
    logs = log_factorials(members)
    log_cut = (
        logs[members - degree] - logs[lost - degree] - logs[members] + logs[lost]
        + math.log(members * (members - degree - 1) / 2)
    )  # fmt: skip  # numerator, denominator, number of cuts
    return bool(log_cut <= -(bits + 1) * math.log(2))


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
