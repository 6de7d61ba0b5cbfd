"""`codex-ray bench scale`: how the cost of a round grows with its cohort, and with the population.

Whole rounds over Ray, everything included. Growth is the slope of log cost on log cohort, by least
squares over several measurements of each size; 1 means that twice the clients cost twice as much.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean, median, stdev
from typing import Final

from codex_ray.bench.bars import Figure, Row, at_most, fewer, near
from codex_ray.bench.parts import Part
from codex_ray.bench.whole_rounds import Cost, one_cluster, running
from codex_ray.bench.workloads import Training, Workload

COHORTS: Final = (100, 316, 1000, 3162, 10_000)
GROWING: Final[tuple[tuple[Training, int], ...]] = (
    ("cnn", 2),
    ("cnn", 1),
    ("logistic", 2),
    ("logistic", 1),
)
"""What clients train, and on how many hosts: the CNN of the other bars, and what trains fastest, so
that whatever else a round costs shows most."""
POPULATIONS: Final = (1000, 10_000, 100_000, 1_000_000)
MILLION: Final = 1_000_000
COHORT: Final = 1000
"""In populations of every size."""
SLOPE: Final = 0.05
"""How far growth may be from 1."""
SLOWER: Final = 1.05
"""What a round may cost in the largest population, in terms of the smallest."""
MEMORY: Final = 200e6
"""Bytes that the coordinator may need in addition there."""
REPEATS: Final = 3


def cohorts(scale: float) -> Iterator[Row]:
    """A row for each way to grow: cost, memory and slope over cohorts up to 10 000."""
    with one_cluster():
        for model, hosts in GROWING if scale >= 1 else GROWING[2:]:
            points = {}
            for cohort in COHORTS if scale >= 1 else COHORTS[:2]:
                asked = Workload(model, clients=MILLION, cohort=cohort, hosts=hosts)
                workload = asked.scaled(scale)
                points[workload.cohort] = _point(workload, scale)
            yield _growth(model, hosts, points)


def _point(workload: Workload, scale: float) -> tuple[list[Cost], int]:
    """Costs of a round, measured several times, and the peak of everybody's memory in another."""
    count = max(1, fewer(1000, scale, least=1) // workload.cohort)
    with running(workload) as run:
        run.skip(1 + count)
        costs = [run.cost(count) for _ in range(fewer(REPEATS, scale, least=2))]
        return costs, run.peak()


def _growth(model: str, hosts: int, points: Mapping[int, tuple[list[Cost], int]]) -> Row:
    by_cpu = [(n, cost.cpu_total) for n, (costs, _) in points.items() for cost in costs]
    by_wall = [(n, cost.wall) for n, (costs, _) in points.items() for cost in costs]
    (cpu, cpu_error), (wall, wall_error) = slope(by_cpu), slope(by_wall)
    figures = []
    for clients, (costs, peak) in points.items():
        for what, found in (
            ("CPU s a round", [cost.cpu_total for cost in costs]),
            ("wall s a round", [cost.wall for cost in costs]),
        ):
            figures.append(Figure(f"{clients} clients, {what}", mean(found)))
            figures.append(Figure(f"{clients} clients, {what}, standard error", _error(found)))
        figures.append(Figure(f"{clients} clients, peak memory, bytes", peak))
    least, most = min(points), max(points)
    return Row(
        f"{model}, cohorts of {least} to {most} of {MILLION}, hosts: {hosts}",
        f"slope {cpu:.3f} ± {cpu_error:.3f} in CPU seconds, {wall:.3f} ± {wall_error:.3f} in wall "
        f"seconds; {most}: {median(c.wall for c in points[most][0]):.1f} s, "
        f"{points[most][1] / 1e9:.2f} GB",
        f"slope within {SLOPE:g} of 1 in CPU seconds",
        (
            near("slope, CPU seconds", cpu, 1.0, within=SLOPE),
            Figure("slope, CPU seconds, standard error", cpu_error),
            Figure("slope, wall seconds", wall),
            Figure("slope, wall seconds, standard error", wall_error),
            Figure("hosts", hosts),
            *figures,
        ),
    )


def slope(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(slope, standard error) of log y on log x by least squares; NaN for what cannot be had."""
    x = [math.log(at) for at, _ in points]
    y = [math.log(value) for _, value in points]
    middle, height = mean(x), mean(y)
    spread = sum((one - middle) ** 2 for one in x)
    if not spread:
        return math.nan, math.nan
    found = sum((a - middle) * (b - height) for a, b in zip(x, y, strict=True)) / spread
    left = sum((b - height - found * (a - middle)) ** 2 for a, b in zip(x, y, strict=True))
    error = math.sqrt(left / (len(x) - 2) / spread) if len(x) > 2 else math.nan
    return found, error


def populations(scale: float) -> Iterator[Row]:
    """What a population up to a million costs a round of 1000, in turns, and the coordinator."""
    sizes = POPULATIONS if scale >= 1 else (POPULATIONS[0], POPULATIONS[-1])
    costs: dict[int, list[Cost]] = {size: [] for size in sizes}
    held: dict[int, list[int]] = {size: [] for size in sizes}
    written: dict[int, int] = {}
    with one_cluster():
        for _ in range(fewer(REPEATS, scale, least=1)):
            for size in sizes:
                workload = Workload("logistic", clients=size, cohort=COHORT).scaled(scale)
                with running(workload) as run:
                    run.skip(1)
                    costs[size].append(run.cost(fewer(4, scale, least=1)))
                    held[size].append(run.most_memory("coordinator"))
                    written[size] = run.checkpoint_bytes()
    yield _of_populations(costs, held, written)


def _of_populations(
    costs: Mapping[int, list[Cost]], held: Mapping[int, list[int]], written: Mapping[int, int]
) -> Row:
    few, many = min(costs), max(costs)
    turns = list(zip(costs[few], costs[many], strict=True))
    slower = median(after.cpu_total / before.cpu_total for before, after in turns)
    longer = median(after.wall / before.wall for before, after in turns)
    more = median(held[many]) - median(held[few])
    figures = []
    for size, found in costs.items():
        for what, values in (
            ("CPU s a round", [cost.cpu_total for cost in found]),
            ("wall s a round", [cost.wall for cost in found]),
        ):
            figures.append(Figure(f"{size} population, {what}", mean(values)))
            figures.append(Figure(f"{size} population, {what}, standard error", _error(values)))
        figures.append(Figure(f"{size} population, coordinator, bytes", median(held[size])))
        figures.append(Figure(f"{size} population, checkpoint, bytes", written[size]))
    return Row(
        f"populations of {few} to {many}, cohorts of {COHORT}",
        f"{slower:.3f}x the CPU seconds, {longer:.3f}x the wall seconds; the coordinator needs "
        f"{more / 1e6:.0f} MB more; "
        f"checkpoints of {written[few]} and {written[many]} bytes",
        f"at most {SLOWER:g}x, and {MEMORY / 1e6:g} MB more",
        (
            at_most("largest / smallest, CPU seconds", slower, SLOWER),
            Figure("largest / smallest, wall seconds", longer),
            at_most("coordinator, bytes more", more, MEMORY),
            *figures,
        ),
    )


def _error(values: Sequence[float]) -> float:
    """The standard error of their mean; not a number for one alone."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


PARTS: Final[Mapping[str, Part]] = {"cohorts": cohorts, "populations": populations}
"""What to ask for by name."""
