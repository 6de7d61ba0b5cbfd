"""`codex-ray bench heart`: federated and private training on the four hospitals, beside FLamby's.

Every arm is measured on the same twenty splits (`SPLITS`), and what is compared is paired by split.
A figure is a mean over them with its standard error. The splits are of the same 740 records, so
their errors say how a figure depends on the split, and not how it would be with other patients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from codex_ray.bench.bars import Figure, Row, at_least, at_most, fewer
from codex_ray.bench.heart_disease_arms import (
    DISTRIBUTED,
    EPSILONS,
    FEDADAM,
    FEDAVG,
    LOCAL,
    Plain,
    Private,
)
from codex_ray.bench.heart_disease_data import (
    SCALINGS,
    SPLITS,
    Scaling,
    data_section,
    heart_files,
)
from codex_ray.bench.heart_disease_scores import (
    Floats,
    Scores,
    alone_scores,
    pooled_scores,
    standard_error,
)
from codex_ray.bench.parts import Part
from codex_ray.data.dataset import FederatedDataset

PUBLISHED: Final = {"pooled": 0.795, "FedAvg": 0.748, "FedAdam": 0.779}
"""FLamby's accuracies on these files: five seeds, features scaled within each hospital."""
LEAST_ACCURACY: Final = 0.76
FROM_POOLED: Final = 0.02
FROM_FEDADAM: Final = 0.03
LEAST_AUC: Final = 0.84
OVER_LOCAL: Final = 0.02
POOLED: Final = "pooled logistic regression"
BARRED: Final[tuple[Scaling, ...]] = ("fixed", "pooled")
"""The scalings that bars are set for without noise. With noise they are for constants: pooled
figures of 488 records would need noise of their own, and at a small epsilon say nothing."""
DRAWS: Final = 3
"""On one split, two draws of the noise of a small epsilon differ more than two splits do. So each
figure is a mean over draws where the constants are fixed, for which bars are set."""
METRICS: Final = {"accuracy": "accuracy", "balanced": "balanced accuracy", "auc": "AUC"}


@dataclass(frozen=True)
class Bench:
    """The files, and what was measured on them so far.

    Attributes:
        files: the pattern that finds them.
        splits: seeds.
        draws: of the noise of each arm that has any, on every split.
    """

    files: str
    splits: tuple[int, ...]
    draws: int = DRAWS

    def data(self, scaling: Scaling) -> list[FederatedDataset]:
        """The data set of each split, scaled without noise."""
        return _opened(self, scaling)

    def scores(self, settings: Plain | Private, scaling: Scaling) -> Scores:
        """The arm of these settings."""
        return _scored(self, settings, scaling)


@cache
def _opened(bench: Bench, scaling: Scaling) -> list[FederatedDataset]:
    arm = FEDAVG[scaling].arm.on(data_section(bench.files, scaling))
    return [arm.assembled(split).dataset for split in bench.splits]


@cache
def _scored(bench: Bench, settings: Plain | Private, scaling: Scaling) -> Scores:
    if isinstance(settings, Plain):
        return settings.arm.on(data_section(bench.files, scaling)).scores(bench.splits)
    data = _data(bench.files, settings, scaling)
    # Noise is in units of the clip norm, so that neither of these two changes its price.
    noise = _noise(bench.files, replace(settings, clip=1.0, rate=1.0), scaling)
    draws = bench.draws if scaling == "fixed" else 1
    return settings.arm.on(data, noise=noise).scores(bench.splits, draws=draws)


@cache
def _noise(files: str, settings: Private, scaling: Scaling) -> float:
    return settings.arm.on(_data(files, settings, scaling)).noise()


def _data(files: str, settings: Private, scaling: Scaling) -> dict[str, Any]:
    return data_section(files, scaling, noise=settings.figures, columns=settings.columns)


def parts_for(folder: Path | None) -> Mapping[str, Part]:
    """The parts, on the four files under a folder.

    Raises:
        ConfigError: they are not there; it says how to get them.
    """
    from codex_ray.bench.heart_disease_settings import settings

    files = heart_files(folder)

    def bench(scale: float) -> Bench:
        return Bench(
            files,
            SPLITS[: fewer(len(SPLITS), scale, least=2)],
            draws=fewer(DRAWS, scale, least=1),
        )

    return {
        "plain": lambda scale: plain(bench(scale)),
        "private": lambda scale: private(bench(scale)),
        "settings": lambda scale: settings(files, scale),
    }


def plain(bench: Bench) -> Iterator[Row]:
    """Rows without noise: all records in one place, hospitals alone, FedAvg and FedAdam."""
    yield from (_published(name, value) for name, value in PUBLISHED.items())
    for scaling, words in SCALINGS.items():
        pooled = pooled_scores(bench.data(scaling))
        yield _row(f"{POOLED}, {words}", pooled)
        for name, settings in (("FedAvg", FEDAVG[scaling]), ("FedAdam", FEDADAM[scaling])):
            scores = bench.scores(settings, scaling)
            barred = name == "FedAdam" and scaling in BARRED
            yield _row(f"{name}, {words}", scores, *_against_pooled(scores, pooled, barred=barred))
    alone = alone_scores(bench.data("fixed"))
    for name, scores in zip(("Cleveland", "Hungary", "Switzerland", "VA"), alone, strict=True):
        yield _row(f"{name} alone, {SCALINGS['fixed']}", scores)


def private(bench: Bench) -> Iterator[Row]:
    """Rows with noise: shared inside the secure sum, or each hospital's own, at equal epsilon."""
    for epsilon in EPSILONS:
        for scaling, words in SCALINGS.items():
            fedadam = bench.scores(FEDADAM[scaling], scaling)
            local = bench.scores(LOCAL[scaling, epsilon], scaling)
            scores = bench.scores(DISTRIBUTED[scaling, epsilon], scaling)
            bars = _private_bars(epsilon, scores, fedadam, local, barred=scaling == "fixed")
            yield _row(f"distributed, epsilon {epsilon:g}, {words}", scores, *bars)
            yield _row(f"local noise, epsilon {epsilon:g}, {words}", local)


def _against_pooled(scores: Scores, pooled: Scores, *, barred: bool) -> list[Figure]:
    """How the arm stands to all records in one place, on the same splits."""
    less = pooled.accuracy - scores.accuracy
    what = f"accuracy below {POOLED}"
    if not barred:
        return [Figure(what, float(less.mean()))]
    return [
        at_least("accuracy", float(scores.accuracy.mean()), LEAST_ACCURACY),
        at_most(what, float(less.mean()), FROM_POOLED),
    ]


def _private_bars(
    epsilon: float, scores: Scores, fedadam: Scores, local: Scores, *, barred: bool
) -> list[Figure]:
    """What is asked of distributed noise at that epsilon, and what it is compared with."""
    below, above = fedadam.accuracy - scores.accuracy, scores.accuracy - local.accuracy
    asked = {1.0: FROM_FEDADAM}.get(epsilon, np.inf) if barred else np.inf
    over = {0.05: OVER_LOCAL}.get(epsilon, -np.inf) if barred else -np.inf
    least_auc = {1.0: LEAST_AUC}.get(epsilon, -np.inf) if barred else -np.inf
    least = {0.1: LEAST_ACCURACY}.get(epsilon, -np.inf) if barred else -np.inf
    return [
        at_most("epsilon by the ledger", scores.epsilon, epsilon),
        at_most("accuracy below FedAdam, paired", float(below.mean()), asked),
        Figure("accuracy below FedAdam, standard error", standard_error(below)),
        at_least("AUC", float(scores.auc.mean()), least_auc),
        at_least("accuracy", float(scores.accuracy.mean()), least),
        at_least("accuracy above local noise, paired", float(above.mean()), over),
        Figure("accuracy above local noise, standard error", standard_error(above)),
    ]


def _row(name: str, scores: Scores, *figures: Figure) -> Row:
    """An arm's three means, and what is asked of it."""
    said, found = [], []
    for field, words in METRICS.items():
        values: Floats = getattr(scores, field)
        mean, error = float(values.mean()), standard_error(values)
        said.append(f"{words} {mean:.3f} ± {error:.3f}")
        found += [Figure(f"mean {words}", mean), Figure(f"mean {words}, standard error", error)]
    each = [
        Figure(f"{words}, split {place}", float(value))
        for field, words in METRICS.items()
        for place, value in enumerate(getattr(scores, field))
    ]
    limited = [one for one in figures if one.limited]
    return Row(
        name=name,
        found=", ".join(said),
        bar="; ".join(_asked(one) for one in limited),
        figures=(*figures, *found, *each),
    )


def _asked(figure: Figure) -> str:
    """A figure beside its limit, in words."""
    if np.isfinite(figure.low):
        return f"{figure.what} {figure.value:.3f} >= {figure.low:g}"
    return f"{figure.what} {figure.value:.3f} <= {figure.high:g}"


def _published(name: str, value: float) -> Row:
    """A figure of FLamby's."""
    return Row(
        f"FLamby's {name}, per hospital",
        f"accuracy {value:.3f} (published)",
        "",
        (Figure("published accuracy", value),),
    )


def plot_heart(rows: Sequence[Row], path: Path) -> None:
    """Writes a PNG of every arm's accuracy, balanced accuracy and AUC, by scaling.

    Raises:
        ConfigError: nothing that was measured can be drawn.
    """
    from codex_ray.errors import ConfigError
    from codex_ray.records.error_bars import Dots, Mean, draw_means

    panels = []
    for words in METRICS.values():
        groups: dict[str, dict[str, Mean]] = {}
        for row in rows:
            name, _, scaling = row.name.rpartition(", ")
            values = {one.what: one.value for one in row.figures}
            if f"mean {words}" in values and scaling in SCALINGS.values():
                mean = Mean(values[f"mean {words}"], values[f"mean {words}, standard error"])
                groups.setdefault(scaling, {})[name] = mean
        marks = {f"FLamby, {name}": value for name, value in PUBLISHED.items()}
        panels.append(Dots(words, groups, marks if words == "accuracy" else {}))
    if not any(panel.groups for panel in panels):
        raise ConfigError("--plot: nothing that was measured can be drawn: leave out --only")
    picture = draw_means(
        panels,
        title="UCI Heart Disease, four hospitals: means over the same splits",
        note="Bars are standard errors over splits of the same 740 records. Noise has delta 1e-5.",
    )
    path.write_bytes(picture)
