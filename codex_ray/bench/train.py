"""Client updates a second: a plan against bare and lean loops and Opacus, and on a GPU."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from statistics import median
from typing import Final

from codex_ray.bench.bars import Figure, Row, at_least, fewer
from codex_ray.bench.parts import Part
from codex_ray.errors import ClusterError
from codex_ray.learning.autotune import Autotune
from codex_ray.learning.compiled import reason_of
from codex_ray.learning.contest import (
    MODELS,
    PLAIN,
    PRIVATE,
    Spent,
    gpu_here,
    milliseconds,
    timed,
    training,
)
from codex_ray.learning.dp_sgd import DpSgd
from codex_ray.learning.plans import Plan
from codex_ray.learning.trainers import Sgd
from codex_ray.learning.vectorised import VectorisedTraining

COHORT: Final = 256
TURNS: Final = 5
OTHERS: Final = 4
UPDATES: Final = 100_000
BARS: Final[dict[tuple[str, str], tuple[str, float]]] = {
    ("logistic", "sgd"): ("lean", 4.0),
    ("mlp", "sgd"): ("lean", 2.3),
    ("cnn", "sgd"): ("bare", 1.25),
    ("logistic", "dp_sgd"): ("opacus", 8.0),
    ("mlp", "dp_sgd"): ("opacus", 3.5),
    ("cnn", "dp_sgd"): ("opacus", 2.5),
}
"""Against whom, and by how much, a plan has to be faster; nothing is asked of other models."""
EPOCHS: Final = Plan(kernel="compiled")
COMPILED: Final = ("residual",)
"""Models whose plan is not left to the autotune."""
GPU_BARS: Final = {"sgd": 20.0, "dp_sgd": 10.0}
"""How many times what two cores do one GPU has to."""


def part(name: str, trainer: Sgd | DpSgd) -> Part:
    """Measures one model under one trainer; the plan is the one that a long run would be given.

    A model that is no stack is compiled, which a run must be longer for where machines are faster.
    """

    def measure(scale: float) -> Iterator[Row]:
        cohort, turns = fewer(COHORT, scale, least=8), fewer(TURNS, scale, least=1)
        tuned = training(name, trainer, clients=min(cohort, 64))
        compiled = name in COMPILED and scale >= 1
        plan = EPOCHS if compiled else Autotune(tuned, UPDATES if scale >= 1 else 8).plan()
        try:
            found = milliseconds(name, trainer, plan, clients=cohort, others=OTHERS, turns=turns)
        except ClusterError as error:
            yield _not_compiled(f"{name}, {trainer.kind}", error)
            return
        yield _row(name, trainer.kind, plan, found)

    return measure


def on_gpu(scale: float) -> Iterator[Row]:
    """The CNN on one GPU against what two cores do in the same minutes, by the wall's clock."""
    cohort, turns = fewer(COHORT, scale, least=8), fewer(TURNS, scale, least=1)
    for trainer in (PLAIN, PRIVATE):
        words, bar = f"cnn, {trainer.kind}, one GPU, {cohort} clients", GPU_BARS[trainer.kind]
        told = f"at least {bar:g}x two cores"
        if not gpu_here():
            yield Row(words, "torch finds no GPU here: not measured", told, ())
            continue
        made = training("cnn", trainer, clients=cohort)
        updates = UPDATES if scale >= 1 else 8
        plans = [Autotune(made, updates, device).plan() for device in ("cuda", "cpu")]
        ours = [VectorisedTraining(made, plan) for plan in plans]
        params, found = made.model.get(), list[tuple[Spent, Spent]]()
        for _ in range(turns + 1):
            spent = [
                timed(partial(one.train, params, range(cohort), 0), clients=cohort, device=device)
                for one, device in zip(ours, ("cuda", "cpu"), strict=True)
            ]
            found.append((spent[0], spent[1]))
        ratio = median(cpu.cpu / 2 / gpu.wall for gpu, cpu in found[1:])  # the first warms up
        rate = 1000 / median(gpu.wall for gpu, _ in found[1:])
        yield Row(
            words,
            f"{plans[0]}: {rate:.0f} clients a second, {ratio:.1f}x two cores",
            told,
            (at_least("GPU / two cores", ratio, bar), Figure("clients a second", rate)),
        )


def compiled_epoch(scale: float) -> Iterator[Row]:
    """The CNN's whole local epoch as one compiled program, in turns with the plan of a long run."""
    cohort, turns = fewer(64, scale, least=8), fewer(TURNS, scale, least=1)
    words, made = "cnn, sgd, a whole epoch compiled", training("cnn", PLAIN, clients=cohort)
    plan = Autotune(made, UPDATES if scale >= 1 else 8).plan()
    params, both = made.model.get(), [VectorisedTraining(made, one) for one in (EPOCHS, plan)]
    try:
        first, _ = [timed(partial(one.train, params, range(1), 0), clients=1) for one in both]
    except ClusterError as error:
        yield _not_compiled(words, error)
        return
    found = [
        [timed(partial(one.train, params, range(cohort), 0), clients=cohort).cpu for one in both]
        for _ in range(turns)
    ]
    compiled, planned = (median(turn) for turn in zip(*found, strict=True))
    ratio = median(one / other for one, other in found)
    yield Row(
        words,
        f"{compiled:.2f} CPU ms a client after {first.wall / 1e3:.0f} s of compiling; "
        f"{plan.kernel} x {plan.clients}: {planned:.2f}, {ratio:.2f}x faster",
        "",
        (
            Figure("compiled epoch / plan", ratio),
            Figure("compiled epoch, CPU ms a client", compiled),
            Figure("plan, CPU ms a client", planned),
            Figure("compiling, seconds", first.wall / 1e3),
        ),
    )


def _not_compiled(words: str, error: ClusterError) -> Row:
    """That a contestant cannot be compiled on this machine."""
    return Row(words, f"not compiled here: {reason_of(error)}", "", ())


PARTS: Final[Mapping[str, Part]] = {
    f"{name}-{trainer.kind.replace('_', '-')}": part(name, trainer)
    for trainer in (PLAIN, PRIVATE)
    for name in MODELS
} | {"gpu": on_gpu, "compiled-epoch": compiled_epoch}
"""What to ask for by name."""


def _row(name: str, kind: str, plan: Plan, found: dict[str, list[Spent]]) -> Row:
    """The medians over the turns, and the median of the turns' ratios."""
    against, bar = BARS.get((name, kind), ("opacus" if "opacus" in found else "bare", -math.inf))

    def ratio(other: str) -> float:
        turns = zip(found[other], found["plan"], strict=True)
        return median(theirs.cpu / ours.cpu for theirs, ours in turns)

    others = [other for other in found if other != "plan"]
    cpu = {who: median(one.cpu for one in turns) for who, turns in found.items()}
    wall = {who: median(one.wall for one in turns) for who, turns in found.items()}
    figures = (
        at_least(f"{against} / plan", ratio(against), bar),
        *(Figure(f"{other} / plan", ratio(other)) for other in others if other != against),
        *(Figure(f"{who}, CPU ms a client", value) for who, value in cpu.items()),
        *(Figure(f"{who}, clients a CPU second", 1000 / value) for who, value in cpu.items()),
        *(Figure(f"{who}, clients a second", 1000 / value) for who, value in wall.items()),
        Figure("clients at a time", plan.clients),
    )
    return Row(
        f"{name}, {kind}",
        f"{plan.kernel} x {plan.clients}: {1000 / cpu['plan']:.0f} clients a CPU second "
        f"({1000 / wall['plan']:.0f} a second), "
        + ", ".join(f"{ratio(other):.2f}x {other}" for other in others),
        f"at least {bar:g}x {against}" if math.isfinite(bar) else "",
        figures,
    )
