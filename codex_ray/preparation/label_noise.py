"""Labels that the nearest records contradict: confident learning on a leave-one-out neighbourhood.

Northcutt, Jiang and Chuang, Confident Learning, JAIR 2021: a record counts as mislabelled when
another class is confidently its own, that is when its estimated probability of that class is at
least what records labelled so have of it on average (and, so that a class of few does not claim
everybody, more than that of its label). The share of wrong labels is that among the records with a
confident class, label by label (their calibrated confident joint). The probabilities come from a
model that has not seen the record; here from its 15 nearest neighbours without itself. So it sees
wrong labels only where classes lie apart in the features, and calls some honest records of mixed
regions wrong: it is a figure to compare hospitals by, not a list to delete.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

NEIGHBOURS = 15
SAMPLE = 4000
"""Records of a client that are looked at, at most."""

_AT_ONCE = 512


@dataclass(frozen=True)
class LabelNoise:
    """What the neighbours say of a client's labels.

    Attributes:
        looked_at: records, drawn evenly from the client's.
        contradicted: those among them with a confident class that is not their label.
        share: the part of wrong labels that this is an estimate of.
    """

    looked_at: int
    contradicted: int
    share: float


def label_noise(
    features: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]
) -> LabelNoise | None:
    """What the neighbours say of labels [n]; None if there are too few records, or one class.

    Args:
        features: [n, d], on scales that make distances mean something.
        labels: classes from 0.
    """
    if len(labels) <= 2 * NEIGHBOURS or len(np.unique(labels)) < 2:
        return None
    best = confident_classes(features, labels)
    contradicted = (best >= 0) & (best != labels)
    share = 0.0
    for label in np.unique(labels):
        sure = (labels == label) & (best >= 0)
        wrong = float(contradicted[sure].mean()) if sure.any() else 0.0
        share += wrong * float((labels == label).mean())
    return LabelNoise(len(labels), int(contradicted.sum()), share)


def confident_classes(
    features: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """The class that each record [n] is confidently of, by its neighbours; -1 if of none."""
    shares = _neighbour_shares(features, labels)
    classes = shares.shape[1]
    own = shares[np.arange(len(labels)), labels]
    counts = np.bincount(labels, minlength=classes)
    sums = np.bincount(labels, weights=own, minlength=classes)
    thresholds = np.where(counts, sums / np.maximum(counts, 1), np.inf)
    confident = np.where(shares >= thresholds, shares, -1.0)
    best = confident.argmax(axis=1)
    sure = confident.max(axis=1) >= np.where(best == labels, 0.0, np.nextafter(own, 2.0))
    return np.where(sure, best, -1)


def _neighbour_shares(
    features: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """For each record the share of each class among its nearest others [n, classes]."""
    squares = (features**2).sum(axis=1)
    one_hot = np.eye(int(labels.max()) + 1)[labels]
    found = np.empty_like(one_hot)
    for start in range(0, len(labels), _AT_ONCE):
        rows = np.arange(start, min(start + _AT_ONCE, len(labels)))
        distance = squares[rows, None] - 2.0 * (features[rows] @ features.T) + squares
        distance[np.arange(len(rows)), rows] = np.inf
        near = np.argpartition(distance, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]
        found[rows] = one_hot[near].mean(axis=1)
    return found
