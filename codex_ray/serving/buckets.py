"""Token buckets: so many requests a second on average, and so many at once, for each of many.

Memory is bounded: of `most` buckets the one that was used longest ago goes, and whoever it was
starts with a full one again. An attacker with many addresses can push others out, which gives
those others more and never less.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(frozen=True)
class Rate:
    """Requests a second, and how many may come at once."""

    per_second: float
    burst: float

    def divided(self, parts: int) -> Rate:
        """The share of one of `parts` that do not speak to each other; a burst is 1 or more."""
        return Rate(self.per_second / parts, max(1.0, self.burst / parts))


class Buckets:
    """A bucket for each name."""

    def __init__(self, rate: Rate, *, most: int = 10_000) -> None:
        self._rate = rate
        self._most = most
        self._levels: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._levels)

    def take(self, name: Hashable, now: float, *, rate: Rate | None = None) -> float:
        """Takes one token; 0, or the seconds until there is one, and then none is taken.

        Args:
            name: of the bucket.
            now: seconds of a clock that never goes back.
            rate: of this bucket, where it is not that of all.
        """
        its = rate or self._rate
        level, then = self._levels.pop(name, (its.burst, now))
        level = min(its.burst, level + max(0.0, now - then) * its.per_second)
        wait = 0.0 if level >= 1.0 else (1.0 - level) / its.per_second
        self._levels[name] = (level - 1.0 if wait == 0.0 else level, now)
        if len(self._levels) > self._most:
            self._levels.popitem(last=False)
        return wait


class Lockout:
    """Addresses that failed to say who they are `failures` times within `seconds`: they wait.

    Attributes:
        failures: that lock an address out.
        seconds: for which it is.
        most: addresses to remember.
    """

    def __init__(self, *, failures: int, seconds: float, most: int = 10_000) -> None:
        self.failures = failures
        self.seconds = seconds
        self.most = most
        self._counted: OrderedDict[Hashable, tuple[int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._counted)

    def wait(self, address: Hashable, now: float) -> float:
        """Seconds for which the address is locked out; 0 if it is not."""
        count, last = self._counted.get(address, (0, now))
        return max(0.0, last + self.seconds - now) if count >= self.failures else 0.0

    def failed(self, address: Hashable, now: float) -> None:
        """Counts a failure; those longer ago than `seconds` are forgotten."""
        count, last = self._counted.pop(address, (0, now))
        self._counted[address] = (1 if now - last >= self.seconds else count + 1, now)
        if len(self._counted) > self.most:
            self._counted.popitem(last=False)

    def succeeded(self, address: Hashable) -> None:
        """Forgets what failed before, unless it has locked the address out."""
        if self._counted.get(address, (0, 0.0))[0] < self.failures:
            self._counted.pop(address, None)
