"""Plans timed against each other, in turns, until one is clearly ahead or time is up."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import torch

from codex_ray.learning.findings import Finding
from codex_ray.learning.plans import Plan

BUDGET: Final = 2.0
"""Seconds that trying takes, but for compiling, which is tried where it may pay."""
TURNS: Final = 12
"""How often each contender that is still in the race is timed, at most."""
SURE: Final = 3
"""How often each contender is timed before any is out of the race."""
FAR: Final = 1.1
"""One that then takes so many times as long as the fastest is out."""

Clock: TypeAlias = Callable[[], float]
Run: TypeAlias = Callable[[], object]


def raced(runs: Mapping[Plan, Run], *, clock: Clock, most: float) -> list[Finding]:
    """What each plan takes at best; nothing of one that was not timed, or found no memory.

    Whatever else the machine does falls on all of them alike, and the least time of a few is what a
    plan takes when it is left alone.

    Args:
        runs: trains one chunk of each plan.
        clock: seconds that have gone by.
        most: client updates that the race may take.
    """
    racing, best = dict(runs), dict.fromkeys(runs, math.inf)
    began, spent = clock(), 0
    for turn in range(TURNS + 1):
        for plan in tuple(racing):
            seconds = timed(racing[plan], clock) / plan.clients
            if math.isinf(seconds):
                del racing[plan], best[plan]
                torch.cuda.empty_cache()
            elif turn:  # the first makes room, and fills caches
                best[plan] = min(best[plan], seconds)
            if clock() - began > BUDGET:
                return _findings(best)
        spent += clients(racing)
        if turn >= SURE:
            ahead = FAR * min(best.values(), default=0)
            racing = {plan: run for plan, run in racing.items() if best[plan] <= ahead}
        decided = len(racing) == 0 or (len(racing) == 1 and turn > 0)
        if decided or spent + clients(racing) > most:
            break
    return _findings(best)


def timed(run: Run, clock: Clock) -> float:
    """Seconds that the call takes; infinite, if it finds no memory on its device."""
    began = clock()
    try:
        run()
    except torch.OutOfMemoryError:
        return math.inf
    return max(clock() - began, 1e-9)


def clients(plans: Mapping[Plan, object] | list[Plan]) -> int:
    """Client updates that it takes to time every plan once."""
    return sum(plan.clients for plan in plans)


def _findings(best: Mapping[Plan, float]) -> list[Finding]:
    """What was found of those that were timed."""
    return [Finding(plan=plan, seconds=took) for plan, took in best.items() if math.isfinite(took)]
