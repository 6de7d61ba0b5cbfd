"""Mechanisms: what a client sends never exceeds the sensitivity, and what is released has its
noise.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from codex_ray.errors import ConfigError
from codex_ray.privacy.encoding import Encoding
from codex_ray.privacy.mechanism import signal_to_noise
from codex_ray.privacy.mechanisms import CentralGaussian, Metrics, NoMechanism, Weights
from codex_ray.privacy.passengers import Range, Told
from codex_ray.privacy.quantisation import no_words
from codex_ray.randomness import SeedTree
from codex_ray.types import GroupSum
from codex_ray.types import reduce as reduce_words

TREE = SeedTree(bytes(32))
VECTORS = st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=30).map(
    lambda v: torch.tensor(v, dtype=torch.float32)
)


@settings(max_examples=200)
@given(VECTORS, st.floats(0.01, 10), st.integers(1, 100_000))
def test_a_summands_norm_is_at_most_the_clip_norm(vector, clip_norm, summands) -> None:
    mechanism = CentralGaussian(clip_norm=clip_norm, noise_multiplier=1)
    codec = mechanism.codec(dimension=len(vector), summands=summands)
    sent = codec.decode(mechanism.encode(vector, codec))
    assert float(torch.linalg.vector_norm(sent)) <= clip_norm * (1 + 1e-12)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_an_update_that_is_no_number_becomes_zero(bad) -> None:
    mechanism = CentralGaussian(clip_norm=1, noise_multiplier=1)
    codec = mechanism.codec(dimension=3, summands=10)
    assert not mechanism.encode(torch.tensor([0.1, bad, 0.2]), codec).any()


def test_short_updates_are_not_stretched() -> None:
    mechanism = CentralGaussian(clip_norm=1, noise_multiplier=1)
    codec = mechanism.codec(dimension=2, summands=10)
    update = torch.tensor([0.3, -0.4])
    sent = codec.decode(mechanism.encode(update, codec))
    assert float((sent - update.double()).abs().max()) <= codec.grid.step


def test_release_adds_the_noise_that_the_event_claims() -> None:
    mechanism = CentralGaussian(clip_norm=0.5, noise_multiplier=3.0)
    d, expected = 20_000, 8.0
    codec = mechanism.codec(dimension=d, summands=20)
    group = GroupSum((0, 1), np.zeros(d, dtype=np.uint32))
    released = mechanism.release(group, codec=codec, expected=expected, noise=TREE.stream("n"))
    scaled = (released.update * expected / (0.5 * 3.0)).numpy()
    assert stats.kstest(scaled, "norm").pvalue > 1e-3
    event = mechanism.event()
    assert event is not None and event.noise_multiplier == 3.0


def test_release_divides_by_the_public_cohort_and_not_by_the_survivors() -> None:
    mechanism = CentralGaussian(clip_norm=1.0, noise_multiplier=1e-9)
    codec = mechanism.codec(dimension=1, summands=10)
    one = mechanism.encode(torch.tensor([0.5]), codec)
    for members in ((0,), (0, 1, 2)):
        released = mechanism.release(
            GroupSum(members, one), codec=codec, expected=10.0, noise=TREE.stream("n")
        )
        assert float(released.update[0]) == pytest.approx(0.05, abs=1e-6)


def test_no_mechanism_is_the_mean_of_the_survivors_and_zero_for_none() -> None:
    mechanism = NoMechanism(bound=2.0)
    codec = mechanism.codec(dimension=1, summands=4)
    total = mechanism.encode(torch.tensor([1.0]), codec) + mechanism.encode(
        torch.tensor([0.5]), codec
    )
    mean = mechanism.release(
        GroupSum((3, 9), total), codec=codec, expected=4, noise=TREE.stream("n")
    )
    assert float(mean.update[0]) == pytest.approx(0.75, abs=1e-6)
    empty = GroupSum((), np.zeros(1, dtype=np.uint32))
    assert not mechanism.release(
        empty, codec=codec, expected=4, noise=TREE.stream("n")
    ).update.any()
    assert mechanism.event() is None


def test_a_cohort_too_large_for_the_words_is_refused() -> None:
    with pytest.raises(ConfigError, match="lower the rate"):
        CentralGaussian(clip_norm=1, noise_multiplier=1).codec(dimension=10**6, summands=10**6)


def test_noise_is_added_after_the_rotation_is_undone() -> None:
    """The padding is gone by then, and each parameter has the noise that the event claims."""
    flat = Encoding(bits=16, rounding="stochastic", rotate=True)
    mechanism = CentralGaussian(clip_norm=0.5, noise_multiplier=3.0, encoding=flat)
    codec = mechanism.codec(dimension=20_000, summands=20)
    assert codec.length == 2**15
    group = GroupSum((0, 1), no_words(codec.length, bits=16))
    rotation = codec.rotation(TREE.stream("rotation"))
    released = mechanism.release(
        group, codec=codec, expected=8.0, noise=TREE.stream("n"), rotation=rotation
    )
    assert released.update.shape == (20_000,) and not released.metrics
    assert stats.kstest((released.update * 8.0 / 1.5).numpy(), "norm").pvalue > 1e-3


LOSS = Range(low=0, high=4, resolution=1e-4)


@given(
    st.lists(
        st.tuples(st.floats(-3, 3), st.integers(0, 500), st.none() | st.floats(-1, 6)),
        min_size=1,
        max_size=12,
    ),
    st.sampled_from([16, 20, 32]),
)
def test_a_weighted_mean_is_that_of_the_records_and_a_metric_that_of_the_clients(
    clients, bits
) -> None:
    mechanism = NoMechanism(
        bound=2.0,
        encoding=Encoding(bits=bits),
        weights=Weights(by="records", largest=300),
        metrics=Metrics(train_loss=LOSS),
    )
    codec = mechanism.codec(dimension=1, summands=len(clients))
    total = no_words(codec.length, bits=bits)
    for value, records, loss in clients:
        total += mechanism.encode(torch.tensor([value]), codec, told=Told(records, loss))
    total = reduce_words(total, bits)
    group = GroupSum(tuple(range(len(clients))), total)
    released = mechanism.release(group, codec=codec, expected=1.0, noise=TREE.stream("n"))

    weights = np.array([min(records, 300) for _, records, _ in clients])
    values = np.array([np.clip(np.float32(value), -2, 2) for value, _, _ in clients])
    if not weights.any():
        assert float(released.update[0]) == 0
    else:
        error = abs(float(released.update[0]) - float(weights @ values) / weights.sum())
        assert error <= codec.grid.step / 2 * 300 * len(clients) / weights.sum() + 1e-9
    losses = [min(max(loss, 0), 4) for *_, loss in clients if loss is not None]
    if losses:
        assert released.metrics["train_loss"] == pytest.approx(np.mean(losses), abs=0.51e-4)
    else:
        assert released.metrics == {}


def test_the_norm_that_was_sent_is_told_without_its_weight() -> None:
    mechanism = NoMechanism(weights=Weights(by="records", largest=100))
    codec = mechanism.codec(dimension=2, summands=10)
    update = torch.tensor([3.0, -4.0])
    for records, norm in ((100, 5.0), (7, 5.0), (0, 0.0)):
        words = mechanism.encode(update, codec, told=Told(records))
        assert mechanism.sent_norm(words, codec) == pytest.approx(norm, abs=1e-6)


def test_what_is_asked_for_must_be_told() -> None:
    mechanism = NoMechanism(metrics=Metrics(train_loss=LOSS))
    codec = mechanism.codec(dimension=1, summands=3)
    with pytest.raises(ValueError, match=r"asks for \['train_loss'\]"):
        mechanism.encode(torch.zeros(1), codec)


@pytest.mark.parametrize("given", [{"by": "records"}, {"largest": 5}])
def test_weights_need_a_declared_range_and_a_range_needs_weights(given) -> None:
    with pytest.raises(ConfigError, match=r"weights.largest: give it with by: records"):
        Weights(**given)


@pytest.mark.parametrize("truth", [0.0, 0.5, 3.0])
def test_signal_to_noise_is_told_from_the_noised_update_alone(truth) -> None:
    signal = torch.full((40_000,), truth, dtype=torch.float64)
    noised = signal + torch.from_numpy(TREE.stream("snr").normal(40_000))
    assert signal_to_noise(noised, 1.0) == pytest.approx(truth, abs=0.12 if truth == 0 else 0.03)
