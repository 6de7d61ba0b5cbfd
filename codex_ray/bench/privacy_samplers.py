"""How long a million draws of whole-number noise take, keystream included."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from codex_ray.bench.bars import Figure, Row, at_most, fewer
from codex_ray.bench.rates import seconds_each
from codex_ray.privacy import discrete_gaussian, skellam
from codex_ray.privacy.inverse_cdf import Draws
from codex_ray.randomness import Randomness, Stream

COUNT: Final = 1_000_000
DEVIATIONS: Final = (3.0, 30.0, 300.0)
MOST_MILLISECONDS: Final = 20.0

Sampler = Callable[[Stream, int], Draws]


def samplers(scale: float) -> Iterator[Row]:
    """A row for each distribution: the best of several, in CPU milliseconds of one core.

    The table of a width is made once for all draws, and is told beside it.
    """
    count = fewer(COUNT, scale, least=1000)
    yield _row("discrete Gaussian", count, _discrete_gaussian)
    yield _row("Skellam", count, _skellam)


def _discrete_gaussian(deviation: float) -> Sampler:
    discrete_gaussian.table.cache_clear()
    discrete_gaussian.table(deviation)
    return partial(discrete_gaussian.discrete_gaussian, sigma=deviation)


def _skellam(deviation: float) -> Sampler:
    skellam.table.cache_clear()
    skellam.table(deviation**2)
    return partial(skellam.skellam, variance=deviation**2)


def _row(name: str, count: int, prepared: Callable[[float], Sampler]) -> Row:
    figures: list[Figure] = []
    shown = []
    for deviation in DEVIATIONS:
        began = time.process_time()
        sampler = prepared(deviation)
        table = 1e3 * (time.process_time() - began)
        stream = Randomness.of(0).secret.stream("bench", name, f"{deviation:g}")
        took = 1e3 * seconds_each(partial(sampler, stream, count))
        figures += [
            at_most(f"milliseconds at sigma {deviation:g}", took, MOST_MILLISECONDS),
            Figure(f"milliseconds to make the table at sigma {deviation:g}", table),
        ]
        shown.append(f"{took:.1f}")
    sigmas = ", ".join(f"{one:g}" for one in DEVIATIONS)
    return Row(
        f"{count:.0e} draws, {name}".replace("e+0", "e"),
        f"{', '.join(shown)} ms",
        f"at most {MOST_MILLISECONDS:g} CPU-ms at sigma {sigmas}",
        tuple(figures),
    )
