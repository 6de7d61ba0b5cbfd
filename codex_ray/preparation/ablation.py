"""What each column brings: how much worse a simple model predicts without it.

A column that brings nothing need not be collected. The model is logistic regression on the features
that training would see, scaled by public ranges; it is fitted on four fifths of all records and
scored on the rest, five times. What it says holds for that model: a column may matter to another
one, and of two that say the same neither seems to bring anything.

The figures are computed from the records without noise. They are for whoever holds all of them, and
stand in no card.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from codex_ray.data.prepared_shards import PreparedShards
from codex_ray.errors import DataError
from codex_ray.randomness import Randomness

FOLDS: Final = 5
FEWEST: Final = 10
"""Records of each class that are needed to say anything."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Brings:
    """What one column brings, or what all bring together.

    Attributes:
        column: its name; empty for all columns.
        accuracy: of all columns, that of the model; of one, the mean loss without it.
        accuracy_error: standard error of that over the folds.
        auc: the same of the area under the curve; None with more than two classes.
        auc_error: its standard error.
    """

    column: str
    accuracy: float
    accuracy_error: float
    auc: float | None
    auc_error: float | None


def ablation(folder: Path) -> list[Brings]:
    """What all columns of a prepared folder bring, and then each of them, the most useful first.

    Raises:
        DataError: a file is not that of its manifest; there are too few records to say anything.
    """
    shards = PreparedShards(folder)
    features, labels = _pooled(shards)
    folds = _folds(labels, folder)
    whole = _scores(features, labels, folds)
    first = 0
    found = []
    for encoding in shards.manifest.features:
        width = len(encoding.features)
        without = np.delete(features, np.s_[first : first + width], axis=1)
        first += width
        found.append(_brings(encoding.name, whole - _scores(without, labels, folds)))
    found.sort(key=lambda one: (-(one.accuracy if one.auc is None else one.auc), one.column))
    return [_brings("", whole), *found]


def _pooled(shards: PreparedShards) -> tuple[Floats, npt.NDArray[np.int64]]:
    """All records: numbers in [-1, 1] by public ranges, the middle for a missing one."""
    raws = [shards.client(number) for number in range(len(shards.manifest.shards))]
    values = np.concatenate([raw.features for raw in raws])
    low, high = shards.ranges.T
    scaled = np.where(shards.on_a_line, 2 * (values - low) / (high - low) - 1, values)
    return np.nan_to_num(scaled, nan=0.0), np.concatenate([raw.labels for raw in raws])


def _folds(labels: npt.NDArray[np.int64], folder: Path) -> npt.NDArray[np.int64]:
    """In which fifth each record [n] is tested; each class is spread evenly over them.

    Raises:
        DataError: there are too few of a class, or is only one.
    """
    counts = np.bincount(labels)
    there = counts[counts > 0]
    if len(there) < 2 or there.min() < FEWEST:
        raise DataError(
            f"{folder}: what a column brings is only said with two classes and {FEWEST} records of "
            f"each, and there are {', '.join(map(str, there))}"
        )
    folds = np.empty(len(labels), dtype=np.int64)
    rng = Randomness.of(0).public.stream("ablation").numpy()
    for label in np.flatnonzero(counts):
        places = rng.permutation(np.flatnonzero(labels == label))
        folds[places] = np.arange(len(places)) % FOLDS
    return folds


def _scores(
    features: Floats, labels: npt.NDArray[np.int64], folds: npt.NDArray[np.int64]
) -> Floats:
    """Accuracy and, of two classes, the area under the curve, of each fold [folds, 1 or 2]."""
    return np.array([list(_score(features, labels, folds == fold)) for fold in range(FOLDS)])


def _score(
    features: Floats, labels: npt.NDArray[np.int64], test: npt.NDArray[np.bool_]
) -> Iterator[float]:
    from sklearn.linear_model import LogisticRegression  # slow to import
    from sklearn.metrics import roc_auc_score

    if not features.shape[1]:
        features = np.zeros((len(features), 1))
    model: Any = LogisticRegression(max_iter=300)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not settled to the last digit
        model.fit(features[~test], labels[~test])
    yield float((model.predict(features[test]) == labels[test]).mean())
    if len(model.classes_) == 2:
        yield float(roc_auc_score(labels[test], model.decision_function(features[test])))


def _brings(column: str, scores: Floats) -> Brings:
    means = scores.mean(axis=0).tolist()
    errors = (scores.std(axis=0, ddof=1) / math.sqrt(FOLDS)).tolist()
    two = len(means) == 2
    return Brings(
        column, means[0], errors[0], means[1] if two else None, errors[1] if two else None
    )
