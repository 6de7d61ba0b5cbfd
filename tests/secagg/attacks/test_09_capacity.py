"""Attack 9: a sum that wraps around without a word.

Published code takes 22-bit values and a modulus of 2^32: 1024 clients fit, and 1100 do not.
"""

from __future__ import annotations

import numpy as np
import pytest
from lying_server import LyingServer
from secagg_network import a_context, a_planned_network, a_planned_session

from codex_ray.privacy.quantisation import FixedPoint, largest_level
from codex_ray.secagg.parameters import Plan
from codex_ray.types import reduce as reduce_words
from codex_ray.types import word_type

CLIENTS = 1100
MEMBERS = tuple(range(CLIENTS))
SIZES = Plan(CLIENTS, 4, 3, 551, "semi_honest")
"""The sparsest graph that will do: what is tested is the sum."""


def sum_of(value: int, *, bits: int) -> int:
    """The sum, read as a signed integer, of `value` from each of 1100 clients."""
    context = a_context(2)
    context = type(context)(**(vars(context) | {"bits": bits}))
    word = np.array([value, -value]).astype(np.int64).astype(word_type(bits))
    parts = {one: reduce_words(word.copy(), bits) for one in MEMBERS}
    network = a_planned_network(SIZES, MEMBERS, context, parts)
    total = LyingServer(
        None,
        MEMBERS,
        context=context,
        parts=parts,
        clients=network.clients,
        session=a_planned_session(SIZES, MEMBERS, context),
    ).finish()
    above, below = FixedPoint(1.0, 1, bits).integers(total.groups[0].total).tolist()
    assert above == -below
    return int(above)


@pytest.mark.parametrize("bits", [16, 32])
def test_eleven_hundred_clients_are_summed_exactly_at_the_bound(bits):
    level = largest_level(summands=CLIENTS, bits=bits)
    assert sum_of(level, bits=bits) == CLIENTS * level


def test_mutation_one_level_above_the_bound_wraps():
    """So the bound is tight; the encoding never gives a level above it, as the next test says."""
    level = largest_level(summands=CLIENTS, bits=32) + 1
    assert CLIENTS * level > 2**31 - 1
    assert sum_of(level, bits=32) == CLIENTS * level - 2**32


@pytest.mark.parametrize("bits", [16, 20, 32])
def test_an_encoding_has_no_level_that_could_wrap(bits):
    grid = FixedPoint.without_wrap(1.0, summands=CLIENTS, bits=bits)
    assert grid.levels * CLIENTS <= 2 ** (bits - 1) - 1 < (grid.levels + 1) * CLIENTS
    with pytest.raises(ValueError, match="leave no level"):
        FixedPoint.without_wrap(1.0, summands=2 ** (bits - 1), bits=bits)


def test_values_of_22_bits_fit_1024_clients_and_not_1100():
    """The published case, in unsigned words."""
    largest = 2**22 - 1
    assert 1024 * largest < 2**32 <= CLIENTS * largest
    assert 2 * largest_level(summands=CLIENTS, bits=32) + 1 <= largest
