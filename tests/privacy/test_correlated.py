"""Correlated noise: its sensitivity by brute force, its error against published values, and that
what is released is C^-1 z to the bit, however a run comes to it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import toeplitz

from codex_ray.errors import ConfigError, PrivacyError
from codex_ray.privacy.accountants import account
from codex_ray.privacy.banded import BLOCK, Banded, BandedFactor
from codex_ray.privacy.blt import Buffered, BufferedFactor, _settled
from codex_ray.privacy.correlated import (
    error,
    inverse,
    loss,
    sensitivities,
    square_root,
    stretch,
    sum_errors,
)
from codex_ray.privacy.correlated_gaussian import CorrelatedGaussian
from codex_ray.privacy.mechanisms import CentralGaussian
from codex_ray.privacy.quantisation import no_words
from codex_ray.privacy.schedule import Schedule
from codex_ray.randomness import SeedTree, Stream
from codex_ray.types import GroupSum

TREE = SeedTree(bytes(32))
BUFFERED = BufferedFactor((0.95, 0.5), (0.2, 0.3))
BANDED = BandedFactor((1.0, 0.5, 0.4, 0.1))
DEPLOYED = Schedule(2052, 342, 6)
"""Six epochs of Stack Overflow (arXiv:2306.08153, section 6)."""


def matrix(column: np.ndarray, rounds: int) -> np.ndarray:
    """The lower triangular Toeplitz matrix [n, n] of a first column."""
    full = np.zeros(rounds)
    full[: len(column[:rounds])] = column[:rounds]
    return toeplitz(full, np.zeros(rounds))


def patterns(schedule: Schedule, times: int) -> Iterator[tuple[int, ...]]:
    """All ways to take part so many times."""
    for rounds in itertools.combinations(range(schedule.rounds), times):
        if all(b - a >= schedule.separation for a, b in itertools.pairwise(rounds)):
            yield rounds


def worst(found: np.ndarray, schedule: Schedule, times: int) -> float:
    """The largest |C u| over all patterns and all signs of updates of norm 1."""
    return max(
        float(np.linalg.norm(found[:, pattern] @ np.array(signs)))
        for pattern in patterns(schedule, times)
        for signs in itertools.product((1.0, -1.0), repeat=times)
    )


SCHEDULES = [Schedule(n, b, k) for n, b, k in [(7, 1, 7), (9, 2, 3), (10, 3, 4), (8, 4, 2)]]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    "column",
    [BUFFERED.column(12), square_root(12), np.ones(12), np.array([1.0, 0.7, 0.7, 0.1, 0.0])],
    ids=["buffered", "square root", "ones", "steps"],
)
def test_sensitivity_is_the_worst_of_all_patterns(schedule, column) -> None:
    found = sensitivities(column, schedule)
    for times in range(1, schedule.participations + 1):
        expected = worst(matrix(column, schedule.rounds), schedule, times)
        assert found[times - 1] == pytest.approx(expected, rel=1e-12)


def test_participations_that_never_meet_may_have_any_column() -> None:
    schedule, column = Schedule(11, 3, 4), np.array([1.0, -0.6, 0.9])
    found = sensitivities(column, schedule)
    for times in (1, 2, 3):  # a fourth one is cut short by the end of the run
        expected = worst(matrix(column, 11), schedule, times)
        assert found[times - 1] == pytest.approx(expected, rel=1e-12)
    assert found[3] >= worst(matrix(column, 11), schedule, 4)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-1, 1), min_size=1, max_size=6),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(4, 8),
)
def test_a_sensitivity_is_right_or_refused(below, separation, times, rounds) -> None:
    schedule = Schedule(rounds, separation, min(times, -(-rounds // separation)))
    column = np.array([1.0, *below])
    try:
        found = sensitivities(column, schedule)
    except PrivacyError:
        return
    for count in range(1, schedule.participations + 1):
        if any(True for _ in patterns(schedule, count)):
            assert found[count - 1] >= worst(matrix(column, rounds), schedule, count) - 1e-9


@pytest.mark.parametrize("column", [[1.0, 0.1, 0.2], [1.0, 0.5, -0.1], [1.0, 1.1, 1.0]])
def test_a_column_of_which_nothing_is_known_is_refused(column) -> None:
    with pytest.raises(PrivacyError, match="must not increase"):
        sensitivities(np.array(column), Schedule(8, 2, 3))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("factor", [BUFFERED, BufferedFactor((0.9,), (0.5,))])
def test_a_charge_for_each_participation_covers_the_run(schedule, factor) -> None:
    """Gaussians compose by squares: j of multiplier 1 are one of sensitivity sqrt(j)."""
    column = factor.column(schedule.rounds)
    larger = stretch(column, schedule)
    moved = [
        worst(matrix(column, schedule.rounds), schedule, times)
        for times in range(1, schedule.participations + 1)
    ]
    spent = [one / larger / math.sqrt(times + 1) for times, one in enumerate(moved)]
    assert max(spent) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("first", [1, 3, 5])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("factor", [BUFFERED, BufferedFactor((0.99,), (0.9,))])
def test_noise_that_begins_anew_costs_nothing_more(schedule, factor, first) -> None:
    column = factor.column(schedule.rounds)
    cut = matrix(column, schedule.rounds)
    cut[first:, :first] = 0
    for times in range(1, schedule.participations + 1):
        bound = sensitivities(column, schedule)[times - 1]
        assert worst(cut, schedule, times) <= bound * (1 + 1e-12)


def test_the_square_root_is_one() -> None:
    root = matrix(square_root(50), 50)
    assert np.allclose(root @ root, np.tril(np.ones((50, 50))), atol=1e-12)


@pytest.mark.parametrize("factor", [BUFFERED, BANDED, BufferedFactor((), ())])
def test_undone_is_the_inverse(factor) -> None:
    product = matrix(factor.column(30), 30) @ matrix(factor.undone(30), 30)
    assert np.allclose(product, np.eye(30), atol=1e-12)


def test_error_is_that_of_the_matrices() -> None:
    schedule, ones = Schedule(20, 5, 4), np.tril(np.ones((20, 20)))
    off = ones @ np.linalg.inv(matrix(BUFFERED.column(20), 20))
    larger = stretch(BUFFERED.column(20), schedule)
    mean = larger * np.linalg.norm(off) / math.sqrt(20)
    assert error(BUFFERED, schedule) == pytest.approx(mean, rel=1e-10)
    last = larger * np.linalg.norm(off[-1])
    assert error(BUFFERED, schedule, aim="last") == pytest.approx(last, rel=1e-10)
    assert np.allclose(sum_errors(BUFFERED.undone(20)), np.linalg.norm(off, axis=1))


@pytest.mark.parametrize("aim", ["mean", "last"])
@pytest.mark.parametrize("meet", [True, False])
def test_the_gradient_of_the_loss(aim, meet) -> None:
    schedule, column = Schedule(12, 3, 3), BUFFERED.column(12)

    def value(entries: np.ndarray) -> float:
        return loss(entries, inverse(entries, 12), schedule, meet=meet, aim=aim)[0]

    times = schedule.participations if meet else 1
    moved = sensitivities(column, schedule)[times - 1]
    off = sum_errors(inverse(column, 12))
    typical = off[-1] if aim == "last" else math.sqrt(np.mean(off**2))
    assert value(column) == pytest.approx(math.log(moved * typical), rel=1e-10)
    gradient = loss(column, inverse(column, 12), schedule, meet=meet, aim=aim)[1]
    for at in range(1, 12):
        step = np.zeros(12)
        step[at] = 1e-6
        slope = (value(column + step) - value(column - step)) / 2e-6
        assert gradient[at] == pytest.approx(slope, abs=1e-7)


def test_the_fit_for_one_participation_is_the_published_one() -> None:
    """Two buffers, 100 000 rounds, largest error: the parameters that jax_privacy 2 tests for."""
    schedule = Schedule(100_000, 100_000, 1)
    published = BufferedFactor((0.9999528892, 0.9857068667), (0.0122853238, 0.1878393665))
    found = _settled(np.array([1e-4, 1e-2]), np.array([0.01, 0.1]), schedule, "last")
    assert error(found, schedule, aim="last") <= error(published, schedule, aim="last") * (1 + 1e-7)
    assert found.fades == pytest.approx(published.fades, rel=1e-5)
    assert found.scales == pytest.approx(published.scales, rel=1e-3)


def test_one_participation_comes_near_what_is_possible() -> None:
    """1 + ln(n) / pi is above the least largest error there is (Mathias 1993, corollary 3.5)."""
    schedule = Schedule(1000, 1000, 1)
    above = 1 + math.log(1000) / math.pi
    assert error(Buffered(buffers=3).fit(schedule, aim="last"), schedule, aim="last") < 1.03 * above
    assert error(Banded(bands=1000).fit(schedule, aim="last"), schedule, aim="last") < 1.03 * above


def test_six_epochs_of_rounds() -> None:
    independent = error(Banded(bands=1).fit(DEPLOYED), DEPLOYED)
    assert independent == pytest.approx(math.sqrt(2053 / 2), rel=1e-12)
    few = error(Banded(bands=32).fit(DEPLOYED), DEPLOYED)
    most = error(Banded(bands=342).fit(DEPLOYED), DEPLOYED)
    buffered = error(Buffered().fit(DEPLOYED), DEPLOYED)
    assert few < 0.21 * independent
    assert most < 0.113 * independent
    assert most < buffered < 1.05 * most


def test_fits_beat_where_they_start_and_never_lose_to_independent_noise() -> None:
    for schedule in (Schedule(200, 10, 20), Schedule(64, 1, 64), Schedule(30, 29, 2)):
        independent = math.sqrt((schedule.rounds + 1) / 2)
        root = BandedFactor(tuple(square_root(schedule.separation)))
        assert error(Buffered().fit(schedule), schedule) <= independent * (1 + 1e-12)
        banded = Banded(bands=schedule.separation).fit(schedule)
        assert error(banded, schedule) <= error(root, schedule) * (1 + 1e-12)


def test_no_correlation_where_everyone_is_in_every_round() -> None:
    assert Buffered().fit(Schedule(40, 1, 40)).kept == 0
    assert Buffered().fit(Schedule(1, 1, 1)).kept == 0


def test_every_fit_has_a_known_sensitivity() -> None:
    for rounds, separation in itertools.product((2, 3, 17, 100), (1, 2, 7, 60)):
        schedule = Schedule(rounds, separation, -(-rounds // separation))
        assert stretch(Buffered(buffers=2).fit(schedule).column(rounds), schedule) >= 1


# What is released.


def source(mechanism: CorrelatedGaussian, schedule: Schedule, **more):
    """The noise of a run, of some dimension."""
    return mechanism.noise(schedule, secret=TREE, **({"dimension": 5} | more))


MECHANISMS = [
    CorrelatedGaussian(clip_norm=1, noise_multiplier=2, correlation=Buffered(buffers=2)),
    CorrelatedGaussian(clip_norm=1, noise_multiplier=2, correlation=Banded(bands=4)),
    CorrelatedGaussian(clip_norm=1, noise_multiplier=2, correlation=Banded(bands=1)),
]
SCHEDULE = Schedule(15, 5, 3)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_rows_times_c_are_the_fresh_noise_of_each_round(mechanism) -> None:
    """So the run is one Gaussian release of C x, and its noise is what the ledger is told."""
    noise, factor = source(mechanism, SCHEDULE), mechanism.correlation.fit(SCHEDULE)
    rows = np.array([noise.stream(number).normal(5) for number in range(15)])
    fresh = np.array([TREE.stream("release", number).normal(5) for number in range(15)])
    column = factor.column(15)
    assert noise.stretch == stretch(column, SCHEDULE)
    assert np.allclose(matrix(column, 15) @ rows, noise.stretch * fresh, atol=1e-12)
    expected = noise.stretch * np.linalg.norm(np.linalg.inv(matrix(column, 15)), axis=1)
    assert np.allclose([noise.deviation(number) for number in range(15)], expected)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_row_has_the_same_bits_in_whatever_order_it_is_asked_for(mechanism) -> None:
    dimension = BLOCK + 3
    running = source(mechanism, SCHEDULE, dimension=dimension)
    rows = [running.row(number).tobytes() for number in range(15)]
    assert len(set(rows)) == 15
    resumed = source(mechanism, SCHEDULE, dimension=dimension)
    for number in (7, 7, 8, 12, 3, 4, 14, 0):
        assert resumed.row(number).tobytes() == rows[number]


def test_a_row_that_was_handed_out_can_be_changed_without_harm() -> None:
    noise = source(MECHANISMS[1], SCHEDULE)
    expected = source(MECHANISMS[1], SCHEDULE)
    for number in range(6):
        row = noise.row(number)
        assert np.array_equal(row, expected.row(number))
        row[:] = 0
        assert np.array_equal(noise.row(number), expected.row(number))


def test_noise_that_begins_anew_is_that_of_a_run_from_there() -> None:
    anew = source(MECHANISMS[0], SCHEDULE, first=6)
    column = MECHANISMS[0].correlation.fit(SCHEDULE).column(15)
    fresh = np.array([TREE.stream("release", number).normal(5) for number in range(6, 15)])
    rows = np.array([anew.row(number) for number in range(6, 15)])
    assert np.allclose(matrix(column, 9) @ rows, anew.stretch * fresh, atol=1e-12)
    deviation = source(MECHANISMS[0], SCHEDULE).deviation
    assert [anew.deviation(at) for at in (6, 9)] == [deviation(0), deviation(3)]
    assert np.array_equal(anew.row(7), rows[1])
    for number in (5, 15):
        with pytest.raises(ValueError, match=f"round {number} has no noise"):
            anew.stream(number)


def test_a_round_has_its_noise_once_and_for_the_whole_model() -> None:
    stream = source(MECHANISMS[0], SCHEDULE).stream(0)
    with pytest.raises(ValueError, match="4 normals"):
        stream.normal(4)
    stream.normal(5)
    with pytest.raises(ValueError, match="once"):
        stream.normal(5)


def test_release_is_the_sum_and_the_rounds_row() -> None:
    mechanism = CorrelatedGaussian(clip_norm=0.5, noise_multiplier=3)
    codec = mechanism.codec(dimension=5, summands=10)
    update = torch.tensor([0.1, -0.2, 0.0, 0.3, 0.1])
    group = GroupSum((3,), mechanism.encode(update, codec))
    noise = source(mechanism, SCHEDULE)
    for number in (0, 1, 2):
        released = mechanism.release(
            group, codec=codec, expected=4.0, noise=noise.stream(number)
        ).update
        expected = (update.double().numpy() + 0.5 * 3 * noise.row(number)) / 4
        assert np.allclose(released.numpy(), expected, atol=1e-6)


def test_release_refuses_noise_of_one_round() -> None:
    mechanism = MECHANISMS[0]
    codec = mechanism.codec(dimension=5, summands=10)
    group = GroupSum((), no_words(codec.length, bits=codec.bits))
    with pytest.raises(ValueError, match="of a whole run"):
        mechanism.release(group, codec=codec, expected=1, noise=TREE.stream("release", 0))


def test_signal_to_noise_knows_how_loud_the_row_is() -> None:
    mechanism, d = CorrelatedGaussian(clip_norm=1, noise_multiplier=1), 20_000
    noise = mechanism.noise(SCHEDULE, secret=TREE, dimension=d)
    codec = mechanism.codec(dimension=d, summands=10)
    for number in (0, 14):
        stream = noise.stream(number)
        assert np.std(noise.row(number)) == pytest.approx(stream.deviation, rel=0.03)
        group = GroupSum((), no_words(codec.length, bits=codec.bits))
        told = mechanism.release(group, codec=codec, expected=2.0, noise=stream).privacy
        assert told["signal_to_noise"] < 0.2


@settings(max_examples=50)
@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=30), st.floats(0.01, 10))
def test_a_summand_is_that_of_the_central_gaussian(values, clip_norm) -> None:
    update = torch.tensor(values, dtype=torch.float32)
    ours = CorrelatedGaussian(clip_norm=clip_norm, noise_multiplier=1)
    plain = CentralGaussian(clip_norm=clip_norm, noise_multiplier=1)
    codec = ours.codec(dimension=len(values), summands=50)
    assert codec == plain.codec(dimension=len(values), summands=50)
    sent = ours.encode(update, codec)
    assert np.array_equal(sent, plain.encode(update, codec))
    assert ours.sent_norm(sent, codec) <= clip_norm * (1 + 1e-12)


def test_more_bands_than_the_schedule_allows_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"bands is 6.*after 5 rounds: lower it"):
        Banded(bands=6).fit(SCHEDULE)


# What it costs.


@pytest.mark.parametrize(
    ("noise_multiplier", "participations", "rho", "epsilon"),
    [(1.411 * math.sqrt(5), 3, 0.15, 3.42), (8.35, 2, 0.0144, 0.994)],
    ids=["Spanish", "Portuguese"],
)
def test_the_accounts_of_deployed_models(noise_multiplier, participations, rho, epsilon) -> None:
    """Two keyboards' language models with banded noise (google-research/federated, delta 1e-10).

    zCDP adds up over participations. The multiplier given for Spanish, 1.411, is taken to be that
    of the five participations that 2000 rounds with a separation of 484 hold, of which three were:
    only so do its rho and epsilon follow.
    """
    from dp_accounting import GaussianDpEvent

    event = CorrelatedGaussian(clip_norm=1, noise_multiplier=noise_multiplier).event()
    assert event == GaussianDpEvent(noise_multiplier)
    assert participations / (2 * noise_multiplier**2) == pytest.approx(rho, rel=0.01)
    found = account(((event, participations),), 1e-10)
    assert found.epsilon == pytest.approx(epsilon, rel=0.005)


def test_a_schedule_that_nobody_can_keep_is_refused() -> None:
    for wrong in [(0, 1, 1), (5, 0, 1), (5, 1, 0)]:
        with pytest.raises(PrivacyError, match="at least 1"):
            Schedule(*wrong)
    with pytest.raises(PrivacyError, match="5 rounds hold 3 participations"):
        Schedule(5, 2, 4)


def test_cohorts_are_held_against_the_schedule() -> None:
    schedule = Schedule(6, 2, 2)
    schedule.check([[0, 1], [2], [0], [2, 1]])
    with pytest.raises(PrivacyError, match="client 2 is in rounds 1 and 2"):
        schedule.check([[0, 1], [2], [2]])
    with pytest.raises(PrivacyError, match="client 0 is in 3 rounds up to round 4"):
        schedule.check([[0], [], [0], [], [0]])
    with pytest.raises(PrivacyError, match="round 6"):
        schedule.check([[]] * 7)


def test_the_stream_is_the_rounds_own_for_everything_else() -> None:
    stream: Stream = source(MECHANISMS[0], SCHEDULE).stream(3)
    assert stream.bytes(16) == TREE.stream("release", 3).bytes(16)
