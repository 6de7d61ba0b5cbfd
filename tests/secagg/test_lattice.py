"""Masks add up to the exact sum modulo 2^bits, and are what ring learning with errors asks for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codex_ray.errors import ConfigError, ProtocolError
from codex_ray.secagg import lattice
from codex_ray.secagg.lattice import (
    LARGEST_SUM,
    Masked,
    Modulus,
    fresh_key,
    key_to_field,
    keys_from_field,
    mask,
    noise_distribution,
    unmask,
)
from codex_ray.secagg.ring import LARGEST_MODULUS_BITS
from codex_ray.types import SessionContext, word_type

RNG = np.random.Generator(np.random.PCG64(3))


def a_context(dimension: int, bits: int = 16, *, round: int = 0, model: bytes = b"m" * 32):
    return SessionContext(b"r" * 16, round, 0, model, dimension, bits)


def a_summand(context: SessionContext) -> np.ndarray:
    return RNG.integers(0, 1 << context.bits, context.dimension, dtype=np.uint64).astype(
        word_type(context.bits)
    )


def whole(masked: Masked) -> np.ndarray:
    """The numbers modulo 2^w, in 64 bits."""
    low = masked.low.astype(np.uint64)
    return low | masked.high.astype(np.uint64) << np.uint64(32) if masked.high.size else low


def noise_in(masked, summand, key, *, context, modulus) -> np.ndarray:
    """c - A s - 2^k x modulo 2^w, from -2^(w-1) up."""
    products = np.concatenate(
        [it.copy() for _, it in lattice._products(key.astype(np.int64), context, modulus, keys=1)]
    )
    rest = whole(masked) - products - (summand.astype(np.uint64) << np.uint64(modulus.noise_bits))
    unused = 64 - modulus.width
    return (rest << np.uint64(unused)).view(np.int64) >> unused


@pytest.mark.parametrize(
    ("members", "bits", "noise_bits"),
    [(3, 16, 7), (100, 16, 9), (1_000, 16, 11), (10_000, 20, 13), (LARGEST_SUM, 32, 16)],
)
def test_noise_bits_leave_nine_deviations(members, bits, noise_bits):
    modulus = Modulus.of_sum(members, bits)
    assert modulus == Modulus(noise_bits, bits)
    assert modulus.width == noise_bits + bits <= LARGEST_MODULUS_BITS
    reach = 9.2 * noise_distribution().sigma * members**0.5
    assert modulus.width <= 54  # what the table in docs/protocol.md goes up to
    assert 2 ** (noise_bits - 2) < reach <= 2 ** (noise_bits - 1)


def test_more_clients_than_a_field_element_carries_are_refused():
    with pytest.raises(ConfigError, match="at most"):
        Modulus.of_sum(LARGEST_SUM + 1, 16)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([16, 17, 20, 22, 24, 31, 32]),
    st.sampled_from([3, 40, 1_000, 10_000, LARGEST_SUM]),
    st.sampled_from([1, 5, 2_048, 2_049]),
    st.integers(1, 6),
)
def test_masks_add_up_to_the_sum_modulo_two_to_the_bits(bits, members, dimension, summed):
    context, modulus = a_context(dimension, bits), Modulus.of_sum(members, bits)
    total, keys, plain = Masked.nothing(dimension, modulus), 0, 0
    for _ in range(summed):
        summand, key = a_summand(context), fresh_key()
        masked = mask(summand, key, context=context, modulus=modulus)
        assert whole(masked).max() >> np.uint64(modulus.width) == 0
        assert total.fits(masked.low, masked.high)
        total.add(masked.low, masked.high)
        keys = keys + key_to_field(key)
        plain = plain + summand.astype(np.uint64)
    got = unmask(total, keys_from_field(keys), context=context, modulus=modulus, summed=summed)
    assert got.dtype == word_type(bits)
    np.testing.assert_array_equal(got, plain & np.uint64((1 << bits) - 1))


@pytest.mark.parametrize("width", [(11, 22), (13, 32), (16, 32)])
def test_additions_carry_into_the_high_words(width):
    modulus = Modulus(*width)
    total, want = Masked.nothing(300, modulus), np.zeros(300, dtype=np.uint64)
    for _ in range(50):
        number = RNG.integers(0, 1 << modulus.width, 300, dtype=np.uint64)
        number[:3] = (1 << modulus.width) - 1, (1 << 32) - 1, 1 << 32
        high = (number >> np.uint64(32)).astype(modulus.high_type)
        total.add(number.astype(np.uint32), high)
        want += number
    inside = np.uint64((1 << modulus.width) - 1)
    np.testing.assert_array_equal(whole(total) & inside, want & inside)


def test_masked_inputs_of_another_shape_do_not_fit():
    total = Masked.nothing(4, Modulus(13, 20))
    low, high = np.zeros(4, np.uint32), np.zeros(4, np.uint8)
    assert total.fits(low, high)
    for wrong in [(low[:3], high), (low.view(np.uint16)[:4], high), (low, high[:0])]:
        assert not total.fits(*wrong)
    assert not total.fits(low, high.astype(np.uint16))


@pytest.mark.parametrize("bits", [16, 24])
def test_attack_24_the_noise_has_its_variance(bits):
    context, modulus = a_context(200_000, bits), Modulus.of_sum(1_000, bits)
    summand, key = a_summand(context), fresh_key()
    masked = mask(summand, key, context=context, modulus=modulus)
    noise = noise_in(masked, summand, key, context=context, modulus=modulus)
    sigma = noise_distribution().sigma
    assert abs(noise.var() / sigma**2 - 1) < 5 * (2 / noise.size) ** 0.5
    assert abs(noise.mean()) < 5 * sigma / noise.size**0.5
    # And it is no function of the key: a second mask of the same has other noise.
    again = mask(summand, key, context=context, modulus=modulus)
    other = noise_in(again, summand, key, context=context, modulus=modulus)
    assert abs(np.corrcoef(noise, other)[0, 1]) < 5 / noise.size**0.5


def test_attack_24_masked_inputs_look_uniform():
    context, modulus = a_context(200_000), Modulus.of_sum(1_000, 16)
    masked = mask(np.zeros(200_000, np.uint16), fresh_key(), context=context, modulus=modulus)
    for shift in (0, modulus.noise_bits, modulus.width - 4):
        seen = np.bincount((masked.low >> np.uint32(shift)) & 15, minlength=16)
        assert abs(seen - 12_500).max() < 5.5 * 12_500**0.5


def test_attack_24_a_key_used_twice_shows_the_difference_and_a_fresh_one_does_not():
    context, modulus = a_context(1_000), Modulus.of_sum(1_000, 16)
    one, other = a_summand(context), a_summand(context)

    def guessed(first_key, second_key):
        masked = [
            mask(it, key, context=context, modulus=modulus)
            for it, key in [(one, first_key), (other, second_key)]
        ]
        apart = masked[0].low - masked[1].low + np.uint32(1 << (modulus.noise_bits - 1))
        return (apart >> np.uint32(modulus.noise_bits)).astype(np.uint16)

    key = fresh_key()
    np.testing.assert_array_equal(guessed(key, key), one - other)
    assert np.mean(guessed(key, fresh_key()) == one - other) < 0.01


def test_attack_24_the_matrix_follows_from_the_context_and_nothing_else():
    modulus = Modulus.of_sum(1_000, 16)
    unit = np.zeros(2_048, dtype=np.int64)
    unit[0] = 1

    def matrix(context):
        pieces = [it.copy() for _, it in lattice._products(unit, context, modulus, keys=1)]
        return np.concatenate(pieces) & np.uint64((1 << modulus.width) - 1)

    here = matrix(a_context(5_000))
    lattice.public_matrix.cache_clear()
    np.testing.assert_array_equal(matrix(a_context(5_000)), here)
    for other in (a_context(5_000, round=1), a_context(5_000, model=b"n" * 32)):
        assert np.mean(matrix(other) == here) < 0.01
    assert abs((here >> np.uint64(modulus.width - 1)).mean() - 0.5) < 0.05


def test_attack_24_a_matrix_of_the_servers_choice_would_open_every_summand(monkeypatch):
    context, modulus = a_context(1_000), Modulus.of_sum(1_000, 16)
    summand = a_summand(context)

    def read_off() -> np.ndarray:
        low = mask(summand, fresh_key(), context=context, modulus=modulus).low
        return ((low + np.uint32(1 << (modulus.noise_bits - 1))) >> modulus.noise_bits).astype(
            np.uint16
        )

    assert np.mean(read_off() == summand) < 0.01
    zero = lattice.Multiplicand(
        np.zeros((1, 2_048), dtype=np.int64), bits=modulus.width, norm=200.0
    )
    monkeypatch.setattr(lattice, "public_matrix", lambda *_: zero)
    np.testing.assert_array_equal(read_off(), summand)


@pytest.mark.parametrize("change", [1, 700])
def test_a_sum_under_another_key_is_noticed(monkeypatch, change):
    context, modulus = a_context(2_048), Modulus.of_sum(1_000, 16)
    summand, key = a_summand(context), fresh_key().astype(np.int64)
    masked = mask(summand, key.astype(np.int32), context=context, modulus=modulus)
    wrong = key.copy()
    wrong[5] += change
    with pytest.raises(ProtocolError, match="does not decode"):
        unmask(masked, wrong, context=context, modulus=modulus, summed=1)
    # Without the check it would be a wrong sum.
    monkeypatch.setattr(lattice, "_check_squares", lambda *_, **__: None)
    if change == 1:
        got = unmask(masked, wrong, context=context, modulus=modulus, summed=1)
        assert np.mean(got == summand) < 0.5


@settings(deadline=None, max_examples=50)
@given(st.integers(-(2**14) + 1, 2**14 - 1), st.integers(-(2**14) + 1, 2**14 - 1))
def test_a_field_element_carries_two_coefficients(low, high):
    key = np.full(2_048, low, dtype=np.int32)
    key[1_024:] = high
    elements = key_to_field(key)
    assert abs(elements).max() <= (2**31 - 1) // 2
    np.testing.assert_array_equal(keys_from_field(elements), key)


def test_keys_are_fresh_and_short():
    one, other = fresh_key(), fresh_key()
    assert np.mean(one == other) < 0.3
    assert abs(one.var() / lattice.key_distribution().sigma ** 2 - 1) < 0.2
