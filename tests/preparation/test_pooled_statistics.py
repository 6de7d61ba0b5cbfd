"""Figures of all clients by real secure sums: those of the pooled records, within the bound."""

import numpy as np
import pytest
from pools import pool_of

from codex_ray.data.column_statistics import QUARTILES, Ranges, figures, of_table
from codex_ray.errors import ConfigError, DataError
from codex_ray.federation.pooled_sums import as_words
from codex_ray.federation.transport import LocalTransport
from codex_ray.preparation.pooled_statistics import bounds, pooled, scale_bits
from codex_ray.secagg.protocols import Clear, Ideal, OneShot, SecAgg, SecAggPlus

RANGES = Ranges(np.array([0.0, -50.0, 1e6]), np.array([100.0, 50.0, 3e6]))
NAMES = ("age", "balance", "income")
BINS = 32


def clients(seed=0, sizes=(40, 3, 0, 90, 17)):
    """Values [n, 3] of each client, some missing, some outside their range."""
    rng = np.random.default_rng(seed)
    found = []
    for size in sizes:
        values = np.column_stack(
            [rng.normal(60, 30, size), rng.standard_t(2, size) * 9, rng.lognormal(14.3, 0.4, size)]
        )
        values[rng.random(values.shape) < 0.15] = np.nan
        found.append(RANGES.public(values))
    return found


def summed(parts, protocol=None, bins=BINS):
    pool = pool_of(
        protocol or SecAgg(), len(parts), lambda asked, one: as_words(asked.of(parts[one]))
    )
    return pooled(pool, columns=NAMES, moments=True, quantiles=True, bins=bins)


@pytest.mark.parametrize("seed", range(4))
def test_figures_are_those_of_the_pooled_records_within_the_bound(seed):
    parts = clients(seed)
    whole = np.concatenate(parts)
    found, counts = summed(parts)
    off = bounds(counts, clients=len(parts), bins=BINS)
    assert counts.tolist() == (~np.isnan(whole)).sum(axis=0).tolist()
    floats = 1e-15  # of numpy's own sums
    assert np.all(np.abs(found.mean - np.nanmean(whole, axis=0)) <= off.mean + floats)
    assert np.all(np.abs(found.variance - np.nanvar(whole, axis=0)) <= off.variance + floats)
    for place, share in enumerate(QUARTILES):
        true = np.nanquantile(whole, share, axis=0, method="inverted_cdf")
        assert np.all(np.abs(found.quartiles[place] - true) <= off.quantile + floats)
    assert off.mean.max() < 5 * 2.0**-30 * counts.max() / counts.min()
    assert off.quantile == 1 / BINS**2


def test_the_bound_is_nearly_reached():
    """A bound that is a thousand times too wide would hide an error of fixed point."""
    shares = []
    for seed in range(6):
        parts = clients(seed)
        found, counts = summed(parts, Ideal())
        off = bounds(counts, clients=len(parts), bins=BINS)
        wrong = np.abs(found.mean - np.nanmean(np.concatenate(parts), axis=0))
        shares.append((wrong / off.mean).max())
    assert 0.1 < max(shares) <= 1.0


def test_quantiles_are_as_numpy_has_them_but_for_half_a_cell():
    parts = clients(7)
    exact = of_table(np.concatenate(parts) , Ranges(-np.ones(3), np.ones(3)), moments=True,
                     quantiles=True)  # fmt: skip
    whole = np.concatenate(parts)
    for place, share in enumerate(QUARTILES):
        true = np.nanquantile(whole, share, axis=0, method="inverted_cdf")
        np.testing.assert_array_equal(exact.quartiles[place], true)
    np.testing.assert_allclose(exact.mean, np.nanmean(whole, axis=0), rtol=1e-12)


@pytest.mark.parametrize("protocol", [SecAggPlus(), OneShot(), Ideal(), Clear()], ids=repr)
def test_every_protocol_gives_the_same_figures_to_the_bit(protocol):
    parts = clients(1)
    expected, _ = summed(parts)
    found, _ = summed(parts, protocol)
    for name in ("mean", "variance", "quartiles"):
        assert getattr(found, name).tobytes() == getattr(expected, name).tobytes()


def test_figures_do_not_depend_on_who_holds_which_records():
    whole = np.concatenate(clients(2, sizes=(64, 64, 64)))
    rng = np.random.default_rng(0)
    shuffled = whole[rng.permutation(len(whole))]
    one, _ = summed(np.split(whole, [50, 120]))
    other, _ = summed(np.split(shuffled, [10, 180]))
    assert one.quartiles.tobytes() == other.quartiles.tobytes()
    np.testing.assert_allclose(one.mean, other.mean, atol=3 * 2.0**-30)


@pytest.mark.parametrize(("protocol", "shows"), [(SecAgg(), False), (Clear(), True)], ids=repr)
def test_the_server_sees_no_clients_own_counts(protocol, shows, monkeypatch):
    replies = []

    class Noting(LocalTransport):
        def exchange(self, outbox):
            found = super().exchange(outbox)
            replies.extend(found.values())
            return found

    monkeypatch.setattr("pools.LocalTransport", Noting)
    parts = clients(3, sizes=(301, 302, 303))
    summed(parts, protocol)
    own = [(~np.isnan(part)).sum(axis=0).astype("<u4").tobytes() for part in parts]
    assert any(mine in reply for mine in own for reply in replies) is shows


def test_a_column_without_values_is_named():
    parts = clients(0)
    for part in parts:
        part[:, 1] = np.nan
    with pytest.raises(DataError, match="no client has a value in column 'balance'"):
        summed(parts)


def test_a_client_with_more_records_than_a_sum_has_room_for_says_so(monkeypatch):
    monkeypatch.setattr("codex_ray.preparation.pooled_statistics.LARGEST", 5 * 50)
    with pytest.raises(DataError, match="a client has more than 50 records"):
        summed(clients(0))


def test_two_clients_have_no_secure_sum():
    with pytest.raises(ConfigError, match="the cohort is 2, but"):
        summed(clients(0, sizes=(5, 5)))


@pytest.mark.parametrize("count", [1, 920, 2**20, 2**29])
def test_no_sum_wraps(count):
    bits = scale_bits(np.array([count]), clients=1000)
    assert count * 2.0**bits + 1000 / 2 < 2**31 <= 4 * (count * 2.0**bits + 1000)


def test_values_at_the_ends_of_their_range_are_counted():
    ends = np.array([[-1.0, 1.0, 0.0]] * 8)
    found, _ = summed([ends, ends, ends])
    np.testing.assert_allclose(found.mean, [-1, 1, 0], atol=1e-8)
    np.testing.assert_allclose(found.variance, 0, atol=1e-8)
    np.testing.assert_allclose(found.quartiles[1], [-1, 1, 0], atol=1 / BINS**2)


def test_figures_come_out_in_the_units_of_their_columns():
    parts = clients(5)
    found, _ = summed(parts)
    made = figures(found, RANGES, by="moments", imputation="median")
    own = RANGES.low + (np.concatenate(parts) + 1) * RANGES.half
    np.testing.assert_allclose(made.centre, np.nanmean(own, axis=0), rtol=1e-6)
    np.testing.assert_allclose(made.spread, np.nanstd(own, axis=0), rtol=1e-6)
    median = np.nanquantile(own, 0.5, axis=0, method="inverted_cdf")
    assert np.all(np.abs(made.fill - median) <= RANGES.half / BINS**2 + 1e-9)
    by_quartiles = figures(found, RANGES, by="quartiles", imputation="middle")
    np.testing.assert_allclose(by_quartiles.centre, median, atol=(RANGES.half / BINS**2).max())
    assert by_quartiles.fill.tolist() == [50, 0, 2e6]
