"""Where the settings of the arms are from: a grid each, on splits that no figure is measured on.

The best of a grid by mean accuracy is what `heart_disease_arms` holds, and a row says whether it
still is. Noised arms have one grid, with constants, and keep what was chosen there. Choosing looks
at the same records as everything else, so it is a release that no epsilon covers: whoever trains on
records of their own would choose on public ones, or pay for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Final

from codex_ray.bench.bars import Figure, Row, fewer
from codex_ray.bench.heart_disease_arms import (
    DISTRIBUTED,
    EPSILONS,
    FEDADAM,
    FEDAVG,
    LOCAL,
    Plain,
    Private,
)
from codex_ray.bench.heart_disease_data import ALL, CHOOSING, SCALINGS, TELLING

RATES: Final = (0.1, 0.3)
"""Of local SGD."""
SERVERS: Final = (0.03, 0.1)
"""Of FedAdam's step."""
FEW: Final = 5
"""Splits of an arm without noise, whose runs are longer and differ less."""
DRAWS: Final = 4
ROUNDS: Final = (1, 2)


def grid_of(settings: Plain | Private) -> list[Plain | Private]:
    """What the settings of an arm were chosen from."""
    if isinstance(settings, Plain):
        servers = (None,) if settings.server is None else SERVERS
        return [
            replace(settings, rate=rate, server=server) for rate, server in product(RATES, servers)
        ]
    return [
        replace(settings, rounds=rounds, columns=columns)
        for rounds, columns in product(ROUNDS, (ALL, TELLING))
    ]


def settings(files: str, scale: float) -> Iterator[Row]:
    """A row for each arm: the best of its grid, beside what is held."""
    from codex_ray.bench.heart_disease import Bench

    for scaling, words in SCALINGS.items():
        arms: list[tuple[str, Plain | Private]] = [
            ("FedAvg", FEDAVG[scaling]),
            ("FedAdam", FEDADAM[scaling]),
        ]
        for epsilon in EPSILONS if scaling == "fixed" else ():
            arms.append((f"distributed, epsilon {epsilon:g}", DISTRIBUTED[scaling, epsilon]))
            arms.append((f"local noise, epsilon {epsilon:g}", LOCAL[scaling, epsilon]))
        for name, used in arms:
            few = FEW if isinstance(used, Plain) else len(CHOOSING)
            splits = CHOOSING[: fewer(few, scale, least=1)]
            bench = Bench(files, splits, draws=fewer(DRAWS, scale, least=1))
            grid = grid_of(used)
            found = [float(bench.scores(one, scaling).accuracy.mean()) for one in grid]
            yield _row(f"settings of {name}, {words}", used, grid, found)


def _row(
    name: str, used: Plain | Private, grid: Sequence[Plain | Private], found: Sequence[float]
) -> Row:
    best = max(range(len(grid)), key=found.__getitem__)
    return Row(
        name=name,
        found=f"{_words(grid[best])}: {found[best]:.4f} over the splits to choose on"
        + ("" if grid[best] == used else f"; the arm has {_words(used)}"),
        bar="",
        figures=tuple(
            Figure(f"accuracy with {_words(one)}", value)
            for one, value in zip(grid, found, strict=True)
        ),
    )


def _words(settings: Plain | Private) -> str:
    if isinstance(settings, Plain):
        server = "" if settings.server is None else f", server {settings.server:g}"
        return f"rate {settings.rate:g}{server}, {settings.rounds} rounds"
    return f"{len(settings.columns)} columns, {settings.rounds} rounds"
