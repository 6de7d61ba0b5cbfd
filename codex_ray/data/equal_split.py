"""Clients of one size from one pool: alike, or each with images of a single label."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from codex_ray.data.partition import Indices
from codex_ray.errors import DataError

Counts = npt.NDArray[np.int64]
Partition = Literal["iid", "one_label"]


def kept_of_labels(labels: Counts, clients: int, records: int, *, partition: Partition) -> Counts:
    """How many records of each label from 0 go to clients [classes]: their part of all there are.

    Each label's share is rounded down, and what is still missing goes to the labels with the
    largest remainders (Hamilton's method). With `one_label` it is clients that are shared out, so
    that none of them has to mix two labels.

    Raises:
        DataError: there are too few records, of all labels or of one of them.
    """
    if clients * records >= len(labels):
        raise DataError(
            f"data.clients: {clients} clients of {records} records need {clients * records}, and a "
            f"test set besides, but there are {len(labels)}: lower clients or records_per_client"
        )
    unit = records if partition == "one_label" else 1
    whole, counts = clients * records // unit, np.bincount(labels)
    shares = counts * (whole / len(labels))
    given: Counts = np.floor(shares).astype(np.int64)
    given[np.argsort(given - shares, kind="stable")[: whole - int(given.sum())]] += 1
    if (short := np.flatnonzero(given * unit > counts)).size:
        label = int(short[0])
        raise DataError(
            f"data.partition: {given[label]} clients of {records} records with label {label} are "
            f"due, but only {counts[label]} records have it: lower clients or records_per_client"
        )
    return given * unit


def spread_holdout(labels: Counts, kept: Counts) -> tuple[Indices, Indices]:
    """(held out, kept) indices, both sorted: `kept[label]` records of each label, by their place.

    What is held out lies evenly over the file, label by label. Nothing is drawn: the test set is
    the same for every seed, so that settings can be found without it.
    """
    held_out = np.zeros(len(labels), dtype=bool)
    for label, stays in enumerate(kept):
        places = np.flatnonzero(labels == label)
        leaves = len(places) - int(stays)
        held_out[places[(2 * np.arange(leaves) + 1) * len(places) // (2 * max(leaves, 1))]] = True
    return np.flatnonzero(held_out), np.flatnonzero(~held_out)


def equal_split(
    labels: Counts,
    pool: Indices,
    records: int,
    *,
    partition: Partition,
    rng: np.random.Generator,
) -> Indices:
    """The records of each client [clients, records], all of `pool` in random order.

    With `one_label` the clients of label 0 come first, then those of label 1, and so on.

    Raises:
        ValueError: the pool, or with `one_label` a label's part of it, is no multiple of `records`.
    """
    if partition == "iid":
        return rng.permutation(pool).reshape(-1, records)
    parts = [pool[labels[pool] == label] for label in np.unique(labels[pool])]
    return np.concatenate([rng.permutation(part).reshape(-1, records) for part in parts])
