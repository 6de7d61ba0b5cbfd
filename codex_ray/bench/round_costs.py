"""`codex-ray bench round`: where a round's time goes, and the bars on whole rounds over Ray.

Bars are on CPU seconds wherever that can be: of everybody, the driver, the coordinator, the hosts
and Ray's own processes. Wall seconds stand beside them, and mean little on a busy machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from statistics import median
from typing import Final, get_args

from codex_ray.bench.bare_loops import bare_loops
from codex_ray.bench.bars import Figure, Row, at_least, at_most, fewer
from codex_ray.bench.first_result import first_result
from codex_ray.bench.parts import Part
from codex_ray.bench.stages import STAGES, stage_seconds
from codex_ray.bench.whole_rounds import Cost, one_cluster, running
from codex_ray.bench.workloads import Summing, Training, Workload
from codex_ray.learning.contest import amx_here

TURNS: Final = 5
BARE: Final = 1.25
BARE_BF16: Final = 2.0
SEMI_HONEST: Final = 1.6
DEFAULT: Final = 2.2
EMPTY: Final = 0.010
NO_OP_CPU: Final = 0.5e-3
NO_OP_RATE: Final = 2000.0
TWO_HOSTS: Final = 1.8
OTHERS: Final = "share of the machine that others took"
"""Wall seconds mean what they say where this is next to nothing."""
SHOWN: Final[tuple[tuple[Training, Summing], ...]] = (
    ("nothing", "plain"),
    ("nothing", "clear"),
    ("nothing", "dp"),
    ("nothing", "semi-honest"),
    ("nothing", "secagg"),
    ("cnn", "plain"),
    ("cnn", "dp"),
    ("cnn", "secagg"),
)
"""The rounds that are taken apart."""


def stages(scale: float) -> Iterator[Row]:
    """Where the CPU seconds of a round in one process go, for a cohort of 200.

    Those that train are shown by their plan, and by the reference: what a round was before it.
    """
    shown = [Workload(training, summing, cohort=200, hosts=0) for training, summing in SHOWN]
    before = [replace(one, kernel="reference") for one in shown if one.training == "cnn"]
    for asked in (*shown, *before):
        workload = asked.scaled(scale, least=40)
        by = ", by the reference" if asked.kernel == "reference" else ""
        spent = stage_seconds(workload, warm=1, count=fewer(3, scale, least=1))
        total = sum(spent.values())
        most = sorted(spent, key=lambda stage: -spent[stage])[:5]
        yield Row(
            f"{asked.training}, {asked.summing}, in one process{by}",
            f"{1e3 * total / workload.cohort:.2f} CPU ms a client: "
            + ", ".join(f"{stage} {spent[stage] / total:.0%}" for stage in most),
            "no bar: where the time goes",
            (
                *(Figure(f"{stage}, CPU s a round", spent[stage]) for stage in STAGES),
                Figure("clients", workload.cohort),
                Figure("CPU ms a client", 1e3 * total / workload.cohort),
            ),
        )


def hosts(scale: float) -> Iterator[Row]:
    """Who spends the CPU seconds of a round over Ray with two hosts, and the stages' wall time."""
    with one_cluster():
        for training, summing in SHOWN:
            workload = Workload(training, summing, cohort=200).scaled(scale, least=40)
            with running(workload) as run:
                run.skip(2)
                cost = run.cost(fewer(5, scale, least=1))
            roles = ", ".join(f"{role} {1e3 * s:.0f}" for role, s in cost.cpu.items())
            yield Row(
                f"{training}, {summing}, two hosts",
                f"{1e3 * cost.cpu_total / workload.cohort:.2f} CPU ms a client; CPU ms a round: "
                f"{roles}; wall {1e3 * cost.wall:.0f} ms",
                "no bar: where the time goes",
                (*_figures(cost), Figure("clients", workload.cohort)),
            )


def bare(scale: float) -> Iterator[Row]:
    """Whole rounds of plain training over two hosts against two bare loops, in turns."""
    for name, bar in (("cnn", BARE), ("mlp", None), ("logistic", None)):
        yield _in_turns(Workload(_training(name), cohort=400, clients=1000), scale, bar)


def bf16(scale: float) -> Iterator[Row]:
    """The same of the CNN with products in bfloat16, which wants a processor with AMX."""
    has = amx_here()
    workload = Workload("cnn", cohort=400, clients=1000, precision="bfloat16")
    row = _in_turns(workload, scale, BARE_BF16 if has else None)
    yield row if has else replace(row, bar=f"this processor has no AMX (with it {BARE_BF16:g}x)")


def _in_turns(workload: Workload, scale: float, bar: float | None) -> Row:
    name, scaled = workload.training, workload.scaled(scale)
    ours, theirs, walls, others = [], [], [], []
    with one_cluster(), bare_loops(name, count=2) as loops:
        for _ in range(fewer(TURNS, scale, least=1)):
            with running(scaled, without=loops.pids) as run:
                run.skip(1)
                cost = run.cost(fewer(2, scale, least=1))
            spent, wall = loops.train(scaled.cohort)
            ours.append(1e3 * cost.cpu_total / scaled.cohort)
            theirs.append(1e3 * spent / scaled.cohort)
            walls.append((scaled.cohort / cost.wall, scaled.cohort / wall))
            others.append(cost.others)
    words = name if workload.precision == "float32" else f"{name} in {workload.precision}"
    row = _against_bare(words, bar, ours, theirs, walls)
    return replace(row, figures=(*row.figures, Figure(OTHERS, median(others))))


def _against_bare(
    name: str,
    bar: float | None,
    ours: list[float],
    theirs: list[float],
    walls: list[tuple[float, float]],
) -> Row:
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    what = "two bare loops / whole rounds, CPU seconds"
    ratio = Figure(what, median(ratios)) if bar is None else at_least(what, median(ratios), bar)
    return Row(
        f"{name}, plain, two hosts, against two bare loops",
        f"{median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f}); "
        f"{median(ours):.2f} CPU ms a client, bare {median(theirs):.2f}; "
        f"{median(wall for wall, _ in walls):.0f} clients a second, "
        f"bare {median(wall for _, wall in walls):.0f}",
        "for comparison" if bar is None else f"at least {bar:g}x, median of {TURNS} turns",
        (
            ratio,
            Figure("least of the turns", min(ratios)),
            Figure("most of the turns", max(ratios)),
            Figure("whole rounds, CPU ms a client", median(ours)),
            Figure("bare loops, CPU ms a client", median(theirs)),
            Figure("whole rounds, clients a second", median(wall for wall, _ in walls)),
            Figure("bare loops, clients a second", median(wall for _, wall in walls)),
        ),
    )


def secure(scale: float) -> Iterator[Row]:
    """Whole rounds with SecAgg+, 5 % corrupt and 5 % dropping out, against those without it."""
    turns = fewer(3, scale, least=1)
    found: dict[Summing, list[Cost]] = {}
    kinds: tuple[Summing, ...] = ("plain", "clear", "semi-honest", "secagg")
    with one_cluster():
        for _ in range(turns):
            for summing in kinds:
                workload = Workload("cnn", summing, clients=1000, cohort=1000)
                with running(workload.scaled(scale, least=40)) as run:
                    run.skip(1)
                    found.setdefault(summing, []).append(run.cost(1))
    for summing, bar in (("semi-honest", SEMI_HONEST), ("secagg", DEFAULT)):
        yield _against_clear(summing, bar, found)


def _against_clear(summing: str, bar: float, found: Mapping[Summing, list[Cost]]) -> Row:
    def ratio(other: str) -> float:
        pairs = zip(_of(found, summing), _of(found, other), strict=True)
        return median(one.cpu_total / two.cpu_total for one, two in pairs)

    ours = median(cost.cpu_total for cost in _of(found, summing))
    plain = median(cost.cpu_total for cost in _of(found, "plain"))
    return Row(
        f"cnn, 1000 clients, SecAgg+ ({'default' if summing == 'secagg' else summing})",
        f"{ratio('plain'):.2f}x a round added up on the hosts, {ratio('clear'):.2f}x one with each "
        f"update sent; {ours:.1f} CPU s, plain {plain:.1f}",
        f"at most {bar:g}x the round in the clear",
        (
            at_most("CPU seconds / plain", ratio("plain"), bar),
            Figure("CPU seconds / each update sent", ratio("clear")),
            Figure("CPU seconds", ours),
            Figure("plain, CPU seconds", plain),
            Figure("wall seconds", median(cost.wall for cost in _of(found, summing))),
            Figure("survivors", _of(found, summing)[0].survivors),
            Figure(OTHERS, median(cost.others for cost in _of(found, summing))),
        ),
    )


def _of(found: Mapping[Summing, list[Cost]], summing: str) -> list[Cost]:
    return next(costs for name, costs in found.items() if name == summing)


def empty(scale: float) -> Iterator[Row]:
    """What a round over Ray costs with two clients on each host, and nothing for them to do.

    Such a round takes one trip. What Ray alone takes for it, to actors that only send back a frame
    of the same size, stands beside it.
    """
    from codex_ray.cluster.bare_trips import seconds_a_trip  # slow to import

    every, blocks = fewer(50, scale, least=5), fewer(TURNS, scale, least=1)
    workload = Workload("nothing", cohort=4)
    with one_cluster():
        size = 4 * workload.assembled().initial.numel()
        bare_before = seconds_a_trip(actors=2, size=size, trips=every)
        with running(workload) as run:
            run.skip(every)
            costs = [run.cost(every) for _ in range(blocks)]
        bare_after = seconds_a_trip(actors=2, size=size, trips=every)
    wall, floor = median(cost.wall for cost in costs), (bare_before + bare_after) / 2
    middle = sorted(costs, key=lambda cost: cost.wall)[len(costs) // 2]
    yield Row(
        "an empty round over two hosts",
        f"{1e3 * wall:.1f} ms, of which a bare trip of Ray {1e3 * floor:.1f} ms; CPU ms: "
        + ", ".join(f"{role} {1e3 * spent:.1f}" for role, spent in middle.cpu.items()),
        f"at most {1e3 * EMPTY:g} ms",
        (
            at_most("wall seconds", wall, EMPTY),
            Figure("a bare trip of Ray, wall seconds", floor),
            *_figures(middle),
        ),
    )


def no_op(scale: float) -> Iterator[Row]:
    """What the framework itself costs a client: a cohort of 1000 that has nothing to train."""
    workload = Workload("nothing", cohort=1000, clients=10_000).scaled(scale, least=40)
    every, blocks = fewer(20, scale, least=2), fewer(TURNS, scale, least=1)
    with one_cluster(), running(workload) as run:
        run.skip(3)
        costs = [run.cost(every) for _ in range(blocks)]
    cpu = median(cost.cpu_total for cost in costs) / workload.cohort
    rate = workload.cohort / median(cost.wall for cost in costs)
    middle = sorted(costs, key=lambda cost: cost.cpu_total)[len(costs) // 2]
    yield Row(
        f"{workload.cohort} clients with nothing to train, two hosts",
        f"{1e3 * cpu:.2f} CPU ms a client, {rate:.0f} clients a second; CPU ms a round: "
        + ", ".join(f"{role} {1e3 * spent:.0f}" for role, spent in middle.cpu.items()),
        f"at most {1e3 * NO_OP_CPU:g} CPU ms, at least {NO_OP_RATE:g} a second",
        (
            at_most("CPU seconds a client", cpu, NO_OP_CPU),
            at_least("clients a second", rate, NO_OP_RATE),
            *_figures(middle),
        ),
    )


def two_hosts(scale: float) -> Iterator[Row]:
    """How much sooner two hosts are done than one, in turns, and two bare loops than one.

    Cores that share a cache, or a clock that falls when both are busy, are not two free ones: what
    two loops that know nothing of each other gain is what the machine has to give.
    """
    rates: dict[int, list[float]] = {1: [], 2: []}
    bare: dict[int, list[float]] = {1: [], 2: []}
    others = []
    with one_cluster():
        for _ in range(fewer(TURNS, scale, least=1)):
            for count in rates:
                workload = Workload("cnn", cohort=400, hosts=count).scaled(scale)
                with running(workload) as run:
                    run.skip(1)
                    cost = run.cost(1)
                rates[count].append(workload.cohort / cost.wall)
                others.append(cost.others)
                with bare_loops("cnn", count=count) as loops:
                    bare[count].append(workload.cohort / loops.train(workload.cohort)[1])
    ratio, machine = (median(_gains(found)) for found in (rates, bare))
    yield Row(
        "cnn, plain, two hosts against one",
        f"{ratio:.2f}x: {median(rates[2]):.0f} clients a second, one host {median(rates[1]):.0f}; "
        f"two bare loops against one {machine:.2f}x",
        f"at least {TWO_HOSTS:g}x, on two free cores",
        (
            at_least("two hosts / one, wall", ratio, TWO_HOSTS),
            Figure("two bare loops / one, wall", machine),
            Figure("one host, clients a second", median(rates[1])),
            Figure("two hosts, clients a second", median(rates[2])),
            Figure(OTHERS, median(others)),
        ),
    )


def _gains(rates: Mapping[int, list[float]]) -> list[float]:
    return [two / one for one, two in zip(rates[1], rates[2], strict=True)]


def _figures(cost: Cost) -> tuple[Figure, ...]:
    return (
        *(Figure(f"{role}, CPU s a round", spent) for role, spent in cost.cpu.items()),
        *(Figure(f"{stage}, wall s a round", spent) for stage, spent in cost.stages.items()),
        Figure("wall s a round", cost.wall),
        Figure(OTHERS, cost.others),
    )


def _training(name: str) -> Training:
    return next(known for known in get_args(Training) if known == name)


PARTS: Final[Mapping[str, Part]] = {
    "stages": stages,
    "hosts": hosts,
    "bare": bare,
    "bf16": bf16,
    "secure": secure,
    "empty": empty,
    "no-op": no_op,
    "two-hosts": two_hosts,
    "first-result": first_result,
}
"""What to ask for by name."""
