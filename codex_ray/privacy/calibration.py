"""The least noise that keeps a target epsilon, found with the accountant that the ledger uses."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

from codex_ray.errors import PrivacyError
from codex_ray.privacy.accountants import AccountantName, account, accountant_named
from codex_ray.privacy.events import Entries, Relation, flatten

if TYPE_CHECKING:
    from dp_accounting import DpEvent

EventOf: TypeAlias = "Callable[[float], DpEvent | Entries]"
"""What one round costs, or all that a ledger will hold, at a noise multiplier."""

SLACK = 1e-3
"""The epsilon that is reached lies within this share below the target."""
LEAST, MOST = 1e-2, 1e6
"""Noise multipliers between which is searched."""
FINEST = 1e-7
"""Where epsilon jumps past the target (a grid was refined), noise is settled to this share."""


def calibrate(
    event_of: EventOf,
    count: int,
    *,
    epsilon: float,
    delta: float,
    relation: Relation = "add_or_remove_one",
    accountant: AccountantName = "pld",
) -> float:
    """The noise multiplier at which `count` times the event costs at most `epsilon` at `delta`.

    More noise must never cost more. Epsilon falls about like a power of the noise, so the search is
    one of false position between logarithms: first with Renyi bounds, which are cheap, then with
    the accountant that will report.

    Args:
        event_of: what is paid each time at a given noise multiplier: one event, or entries.
        count: how often it is paid; a holder's rounds times steps.
        epsilon: the target; never exceeded, and reached within a tenth of a per cent.
        delta: at which epsilon is stated.
        relation: what counts as a neighbour.
        accountant: the ledger's.

    Raises:
        PrivacyError: the target is not positive, or no noise reaches it; an event cannot be
            accounted under the relation.
    """
    accountant_named(accountant)
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise PrivacyError(f"target epsilon is {epsilon:g}: it must be positive and finite")
    if count < 1:
        raise PrivacyError(f"calibration for {count} releases: there is nothing to protect")

    def cost(noise: float, by: AccountantName) -> float:
        entries = _entries(event_of(noise), count)
        return account(entries, delta, relation=relation, accountant=by).epsilon

    start = 1.0
    with suppress(PrivacyError):  # what is out of reach of the bounds may be within the exact one
        start = _least(lambda z: cost(z, "rdp"), epsilon, start=start, ratio=2.0, slack=0.02)
    ratio = 1.02 if accountant == "rdp" else 1.1  # the bounds ask for about a tenth too much noise
    return _least(lambda z: cost(z, accountant), epsilon, start=start, ratio=ratio, slack=SLACK)


def _entries(paid: DpEvent | Entries, count: int) -> Entries:
    if isinstance(paid, tuple):
        return tuple((event, count * times) for event, times in paid)
    event, times = flatten(paid)
    return ((event, count * times),)


def _least(
    cost: Callable[[float], float], target: float, *, start: float, ratio: float, slack: float
) -> float:
    """Noise whose cost is from (1 - slack) target to target, by false position in logarithms."""
    low, high = _bracket(cost, target, start=start, ratio=ratio)
    if low is None:
        return high[0]
    pulls = 0  # how often in a row the same end has moved
    while high[1] < target * (1 - slack) and high[0] > low[0] * (1 + FINEST):
        middle = _between(low, high, target * (1 - slack / 2), halve=abs(pulls) >= 2)
        found = (middle, cost(middle))
        if found[1] > target:
            low, pulls = found, max(1, pulls + 1)
        else:
            high, pulls = found, min(-1, pulls - 1)
    return high[0]


_Point: TypeAlias = tuple[float, float]


def _bracket(
    cost: Callable[[float], float], target: float, *, start: float, ratio: float
) -> tuple[_Point | None, _Point]:
    """((noise, cost) above the target, or None; (noise, cost) not above it), by growing steps."""
    point = (start, cost(start))
    low: _Point | None = None
    high: _Point | None = None
    while low is None or high is None:
        if point[1] > target:
            low = point
            if high is None and point[0] >= MOST:
                raise PrivacyError(
                    f"no noise reaches epsilon {target:g}: at a noise multiplier of {MOST:g} it is "
                    f"still {point[1]:.4g}; raise epsilon or delta, or release less often"
                )
        else:
            high = point
            if point[0] <= LEAST:
                return None, high
        if low is None or high is None:
            moved = point[0] * ratio if high is None else point[0] / ratio
            moved = min(MOST, max(LEAST, moved))
            point, ratio = (moved, cost(moved)), ratio**1.5
    return low, high


def _between(low: _Point, high: _Point, aim: float, *, halve: bool) -> float:
    """Where the line through both points, in logarithms, meets `aim`; the middle if there is none.

    `halve` after an end has stood still: false position alone would creep.
    """
    at_low, at_high = math.log(low[0]), math.log(high[0])
    if halve or math.isinf(low[1]) or high[1] <= 0:
        return math.exp((at_low + at_high) / 2)
    share = math.log(low[1] / aim) / math.log(low[1] / high[1])
    share = min(0.999, max(0.001, share))
    return math.exp(at_low + share * (at_high - at_low))
