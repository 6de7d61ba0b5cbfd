"""The simple model that columns are judged by: logistic regression on five folds.

It is fitted on four fifths of the records and scored on the rest, five times. What it says holds
for that model: a column may matter to another one.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from codex_ray.errors import DataError
from codex_ray.randomness import Randomness

FOLDS: Final = 5
FEWEST: Final = 10
"""Records of each class that are needed to say anything."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Brings:
    """What one column brings, or what several bring together.

    Attributes:
        column: its name; empty for several.
        accuracy: that of a model, or the mean loss of one model against another.
        accuracy_error: standard error of that over the folds.
        auc: the same of the area under the curve; None with more than two classes.
        auc_error: its standard error.
    """

    column: str
    accuracy: float
    accuracy_error: float
    auc: float | None
    auc_error: float | None


def brings(column: str, scores: Floats) -> Brings:
    """Means and standard errors of scores [folds, 1 or 2], or of differences of them."""
    means = scores.mean(axis=0).tolist()
    errors = (scores.std(axis=0, ddof=1) / math.sqrt(FOLDS)).tolist()
    two = len(means) == 2
    return Brings(
        column, means[0], errors[0], means[1] if two else None, errors[1] if two else None
    )


def scaled(values: Floats, low: float | Floats, high: float | Floats) -> Floats:
    """Numbers in [-1, 1] by their public ranges."""
    return 2 * (values - low) / (high - low) - 1


def folds_of(labels: Ints, where: object) -> Ints:
    """In which fifth each record [n] is tested; each class is spread evenly over them.

    Args:
        labels: classes from 0 [n].
        where: the records came from, for the error.

    Raises:
        DataError: there are too few of a class, or is only one.
    """
    counts = np.bincount(labels)
    there = counts[counts > 0]
    if len(there) < 2 or there.min() < FEWEST:
        raise DataError(
            f"{where}: what a column brings is only said with two classes and {FEWEST} records of "
            f"each, and there are {', '.join(map(str, there))}"
        )
    folds = np.empty(len(labels), dtype=np.int64)
    rng = Randomness.of(0).public.stream("ablation").numpy()
    for label in np.flatnonzero(counts):
        places = rng.permutation(np.flatnonzero(labels == label))
        folds[places] = np.arange(len(places)) % FOLDS
    return folds


def scores_of(features: Floats, labels: Ints, folds: Ints) -> Floats:
    """Accuracy and, of two classes, the area under the curve, of each fold [folds, 1 or 2].

    On one thread: several end elsewhere in the last digits, and take longer where others compute.
    """
    # scikit-learn brings it, without types
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with threadpool_limits(1):
        return np.array([list(_score(features, labels, folds == fold)) for fold in range(FOLDS)])


def _score(features: Floats, labels: Ints, test: npt.NDArray[np.bool_]) -> Iterator[float]:
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
