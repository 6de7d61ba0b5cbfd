"""Client updates by CPU second: a plan against a bare loop, a lean one, and Opacus' hooks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import median
from typing import Final

from codex_ray.bench.bars import Figure, Row, at_least, fewer
from codex_ray.bench.parts import Part
from codex_ray.learning.autotune import Autotune
from codex_ray.learning.contest import MODELS, PLAIN, PRIVATE, milliseconds, training
from codex_ray.learning.dp_sgd import DpSgd
from codex_ray.learning.plans import Plan
from codex_ray.learning.trainers import Sgd

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
"""Against whom, and by how much, a plan has to be faster."""


def part(name: str, trainer: Sgd | DpSgd) -> Part:
    """Measures one model under one trainer; the plan is the one that a long run would be given."""

    def measure(scale: float) -> Iterator[Row]:
        cohort, turns = fewer(COHORT, scale, least=8), fewer(TURNS, scale, least=1)
        tuned = training(name, trainer, clients=min(cohort, 64))
        plan = Autotune(tuned, UPDATES if scale >= 1 else 8).plan()
        found = milliseconds(name, trainer, plan, clients=cohort, others=OTHERS, turns=turns)
        yield _row(name, trainer.kind, plan, found)

    return measure


PARTS: Final[Mapping[str, Part]] = {
    f"{name}-{trainer.kind.replace('_', '-')}": part(name, trainer)
    for trainer in (PLAIN, PRIVATE)
    for name in MODELS
}
"""What to ask for by name."""


def _row(name: str, kind: str, plan: Plan, found: dict[str, list[float]]) -> Row:
    """The medians over the turns, and the median of the turns' ratios."""
    against, bar = BARS[name, kind]

    def ratio(other: str) -> float:
        return median(a / b for a, b in zip(found[other], found["plan"], strict=True))

    others = [other for other in found if other != "plan"]
    middle = {who: median(times) for who, times in found.items()}
    figures = (
        at_least(f"{against} / plan", ratio(against), bar),
        *(Figure(f"{other} / plan", ratio(other)) for other in others if other != against),
        *(Figure(f"{who}, CPU ms a client", value) for who, value in middle.items()),
        *(Figure(f"{who}, clients a CPU second", 1000 / value) for who, value in middle.items()),
        Figure("clients at a time", plan.clients),
    )
    return Row(
        f"{name}, {kind}",
        f"{plan.kernel} x {plan.clients}: {1000 / middle['plan']:.0f} clients a CPU second, "
        + ", ".join(f"{ratio(other):.2f}x {other}" for other in others),
        f"at least {bar:g}x {against}",
        figures,
    )
