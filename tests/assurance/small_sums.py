"""Sums as an audit meets them: of encoded updates, and of what clients bring of the noise."""

from __future__ import annotations

import numpy as np

from codex_ray.privacy.quantisation import no_words
from codex_ray.randomness import SeedTree
from codex_ray.types import GroupSum
from codex_ray.types import reduce as reduce_words


def sum_of(mechanism, codec, updates) -> GroupSum:
    """The sum of the encoded updates, {client: update}, as a protocol would give it."""
    total = no_words(codec.length, bits=codec.bits)
    for update in updates.values():
        total = reduce_words(total + mechanism.encode(update, codec), codec.bits)
    return GroupSum(tuple(sorted(updates)), total)


def shared_noise(
    seeds: SeedTree, *, clients: int, dropped: int, restored: bool, d: int
) -> np.ndarray:
    """What noise [d] of standard deviation 1 is left when each client adds a share of it.

    A share is as large as if nobody dropped out; restoring gives back those of the dropped.
    """
    total = np.zeros(d)
    for client in range(clients if restored else clients - dropped):
        total += seeds.stream("noise share", client).normal(d) / np.sqrt(clients)
    return total
