"""Heterogeneous splits: how many records each client holds, and of which labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from codex_ray.errors import ConfigError, DataError

Indices = npt.NDArray[np.int64]


def stratified_holdout(
    labels: npt.NDArray[np.int64], count: int, *, rng: np.random.Generator
) -> tuple[Indices, Indices]:
    """`count` held-out indices with the labels' own proportions, and all the others; both sorted.

    Each label's share is rounded down, and the records still missing go to the labels with the
    largest remainders (Hamilton's method), so that `count` is met exactly.

    Raises:
        DataError: more records are to be held out than there are.
    """
    if not 0 <= count <= len(labels):
        raise DataError(f"{count} records to hold out of {len(labels)}: hold out fewer")
    values, totals = np.unique(labels, return_counts=True)
    shares = totals * (count / max(len(labels), 1))
    counts = np.floor(shares).astype(np.int64)
    largest_remainders = np.argsort(counts - shares, kind="stable")
    counts[largest_remainders[: count - int(counts.sum())]] += 1
    held_out = [
        rng.permutation(np.flatnonzero(labels == value))[:taken]
        for value, taken in zip(values, counts, strict=True)
    ]
    chosen = np.zeros(len(labels), dtype=bool)
    chosen[np.concatenate([np.empty(0, np.int64), *held_out])] = True
    return np.flatnonzero(chosen), np.flatnonzero(~chosen)


def check_sizes(bounds: tuple[int, int], *, field: str) -> None:
    """Returns when (fewest, most) is a range of sizes.

    Raises:
        ConfigError: it is not; the message names the field.
    """
    low, high = bounds
    if not 1 <= low <= high:
        raise ConfigError(
            f"{field}: [{low}, {high}] is no range of sizes: write the fewest records first, at "
            "least 1"
        )


def draw_sizes(
    clients: int, bounds: tuple[int, int], *, pool: int, rng: np.random.Generator
) -> list[int]:
    """A number of records for each client, uniform within `bounds`, at most `pool` in all.

    When the drawn sizes ask for more than the pool holds, what each client has above the lower
    bound shrinks by one common factor, rounded down: the order of the sizes and the bounds hold.

    Raises:
        DataError: the pool is too small for every client to hold the lower bound.
    """
    low, high = bounds
    if clients * low > pool:
        raise DataError(
            f"{clients} clients with at least {low} records each need {clients * low} records, but "
            f"there are {pool}: lower the number of clients, the lower bound or the test set"
        )
    sizes = rng.integers(low, high, endpoint=True, size=clients)
    above = sizes - low
    spare = pool - clients * low
    if above.sum() > spare:
        sizes = low + above * spare // above.sum()
    return [int(size) for size in sizes]


def dirichlet_split(
    labels: npt.NDArray[np.int64],
    sizes: Sequence[int],
    *,
    alpha: float,
    rng: np.random.Generator,
) -> list[Indices]:
    """Disjoint index arrays, one for each client, of its exact size and with its own label mixture.

    Each client draws proportions of the labels from a Dirichlet whose mean is the mixture of the
    pool and whose parameters average `alpha` (Dirichlet(alpha, ..., alpha) if labels are equally
    frequent), label counts from them, and takes that many records of each without replacement. When
    a label runs dry, the rest comes uniformly from what is left; clients choose in random order, so
    that what is left does not always fall to the last. A small alpha gives clients with one label,
    a large one clients like the pool (Hsu, Qi and Brown 2019).

    Raises:
        DataError: the sizes ask for more records than there are labels.
    """
    if sum(sizes) > len(labels):
        raise DataError(
            f"{len(sizes)} clients ask for {sum(sizes)} records, but the pool holds {len(labels)}: "
            "lower the number of clients or of records"
        )
    split = [np.empty(0, np.int64) for _ in sizes]
    if not len(labels):
        return split
    values, left = np.unique(labels, return_counts=True)
    pools = [rng.permutation(np.flatnonzero(labels == value)) for value in values]
    concentration = alpha * len(values) * left / len(labels)
    for client in rng.permutation(len(sizes)):
        wanted = np.minimum(rng.multinomial(sizes[client], rng.dirichlet(concentration)), left)
        missing = sizes[client] - int(wanted.sum())
        counts = wanted + rng.multivariate_hypergeometric(left - wanted, missing)
        left = left - counts
        taken = [
            pool[end : end + count] for pool, end, count in zip(pools, left, counts, strict=True)
        ]
        split[client] = np.sort(np.concatenate(taken))
    return split
