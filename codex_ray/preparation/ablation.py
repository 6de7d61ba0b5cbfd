"""What each prepared column brings: how much worse a simple model predicts without it.

A column that brings nothing need not be collected. The model is that of `simple_model`, on the
features that training would see, scaled by public ranges. What it says holds for that model: a
column may matter to another one, and of two that say the same neither seems to bring anything.

The figures are computed from the records without noise. They are for whoever holds all of them, and
stand in no card.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from codex_ray.data.prepared_shards import PreparedShards
from codex_ray.preparation.simple_model import (
    Brings,
    Floats,
    Ints,
    brings,
    folds_of,
    scaled,
    scores_of,
)


def ablation(folder: Path) -> list[Brings]:
    """What all columns of a prepared folder bring, and then each of them, the most useful first.

    Raises:
        DataError: a file is not that of its manifest; there are too few records to say anything.
    """
    shards = PreparedShards(folder)
    features, labels = _pooled(shards)
    folds = folds_of(labels, folder)
    whole = scores_of(features, labels, folds)
    first = 0
    found = []
    for encoding in shards.manifest.features:
        width = len(encoding.features)
        without = np.delete(features, np.s_[first : first + width], axis=1)
        first += width
        found.append(brings(encoding.name, whole - scores_of(without, labels, folds)))
    found.sort(key=lambda one: (-(one.accuracy if one.auc is None else one.auc), one.column))
    return [brings("", whole), *found]


def _pooled(shards: PreparedShards) -> tuple[Floats, Ints]:
    """All records: numbers in [-1, 1] by public ranges, the middle for a missing one."""
    raws = [shards.client(number) for number in range(len(shards.manifest.shards))]
    values = np.concatenate([raw.features for raw in raws])
    low, high = shards.ranges.T
    by_range = np.where(shards.on_a_line, scaled(values, low, high), values)
    return np.nan_to_num(by_range, nan=0.0), np.concatenate([raw.labels for raw in raws])
