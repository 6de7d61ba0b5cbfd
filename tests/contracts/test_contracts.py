"""One suite for each plug-in point: what every kind of it must do, whatever else it does."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from codex_ray.data.breast_cancer import BreastCancer
from codex_ray.data.dataset import Records
from codex_ray.data.synthetic_images import SyntheticImages
from codex_ray.federation.algorithms import FedAvg
from codex_ray.federation.sampling import EveryClient, FixedSize, PoissonCohorts
from codex_ray.learning.batches import PoissonBatches, ShuffledBatches
from codex_ray.learning.dp_sgd import DpSgd
from codex_ray.learning.models import Linear, Mlp
from codex_ray.learning.trainers import Sgd
from codex_ray.privacy.mechanisms import CentralGaussian, NoMechanism
from codex_ray.randomness import Randomness
from codex_ray.secagg.protocols import Clear, Ideal, SecAgg, SecAggPlus
from codex_ray.types import GroupSum, SessionContext
from codex_ray.wire import read_frame

RANDOM = Randomness.of(11)
named = {"ids": lambda component: f"{component.kind}"}


@pytest.mark.parametrize(
    "sampler", [EveryClient(), PoissonCohorts(rate=0.3), FixedSize(size=9)], **named
)
class TestSampler:
    def test_cohorts_are_sorted_distinct_and_within_bounds(self, sampler) -> None:
        sizes = []
        for round_ in range(200):
            cohort = sampler.sample(40, RANDOM.secret.stream("cohort", round_))
            assert list(cohort) == sorted(set(cohort)) and set(cohort) <= set(range(40))
            assert len(cohort) <= sampler.largest(40)
            sizes.append(len(cohort))
        assert np.mean(sizes) == pytest.approx(sampler.expected(40), rel=0.1)

    def test_the_same_stream_gives_the_same_cohort(self, sampler) -> None:
        one, other = (sampler.sample(40, RANDOM.secret.stream("c", 1)) for _ in range(2))
        assert one == other

    def test_every_client_has_the_same_chance(self, sampler) -> None:
        counts = np.zeros(20)
        for round_ in range(600):
            counts[list(sampler.sample(20, RANDOM.secret.stream("fair", round_)))] += 1
        assert np.abs(counts - counts.mean()).max() < 5 * np.sqrt(600 * 0.25)

    def test_a_population_it_can_serve_is_accepted(self, sampler) -> None:
        sampler.check(40)


@pytest.mark.parametrize(
    "mechanism",
    [NoMechanism(bound=4), CentralGaussian(clip_norm=0.5, noise_multiplier=1.0)],
    **named,
)
class TestMechanism:
    def test_a_sum_does_not_depend_on_order_or_grouping(self, mechanism) -> None:
        grid = mechanism.grid(dimension=6, summands=8)
        updates = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
        encoded = [mechanism.encode(update, grid) for update in updates]
        total = np.sum(encoded, axis=0, dtype=np.uint32)
        for order in itertools.islice(itertools.permutations(range(8)), 0, 40320, 4001):
            again = np.zeros(6, dtype=np.uint32)
            for i in order:
                again = again + encoded[i]
            assert np.array_equal(again, total)

    def test_release_is_the_streams_and_has_the_right_shape(self, mechanism) -> None:
        grid = mechanism.grid(dimension=6, summands=8)
        group = GroupSum((0, 1), np.arange(6, dtype=np.uint32))
        one, same, other = (
            mechanism.release(group, grid=grid, expected=4, noise=RANDOM.secret.stream("r", r))
            for r in (0, 0, 1)
        )
        assert one.shape == (6,) and one.dtype == torch.float64 and torch.equal(one, same)
        assert torch.equal(one, other) == (mechanism.event() is None)


CONTEXT = SessionContext(b"r" * 16, 0, 0, bytes(32), 5)


@pytest.mark.parametrize("protocol", [Clear(), Ideal(), SecAgg(), SecAggPlus()], **named)
class TestSumProtocol:
    def run(self, protocol, summands):
        clients = {c: protocol.client(c, CONTEXT, s) for c, s in summands.items()}
        session = protocol.session(tuple(sorted(clients)), CONTEXT)
        trips, replies = 0, None
        try:
            outbox = next(session)
            while True:
                trips += 1
                replies = {
                    c: read_frame(clients[c].answer(read_frame(m.to_frame())).to_frame())
                    for c, m in outbox.items()
                }
                outbox = session.send(replies)
        except StopIteration as stop:
            return stop.value, trips

    def test_the_groups_add_up_to_the_plain_sum(self, protocol) -> None:
        rng = np.random.default_rng(0)
        summands = {c: rng.integers(0, 2**32, 5, dtype=np.uint32) for c in (2, 3, 5, 7, 11, 13)}
        result, trips = self.run(protocol, summands)
        assert result.members == tuple(sorted(summands)) and trips <= 4
        total = np.sum([group.total for group in result.groups], axis=0, dtype=np.uint32)
        assert np.array_equal(total, np.sum(list(summands.values()), axis=0, dtype=np.uint32))
        assert len(result.groups) == (6 if protocol.kind == "clear" else 1)

    def test_the_summand_of_the_caller_is_left_alone(self, protocol) -> None:
        summands = {c: np.full(5, c, dtype=np.uint32) for c in range(6)}
        self.run(protocol, summands)
        assert all((words == c).all() for c, words in summands.items())

    def test_it_accepts_a_cohort_of_ordinary_size(self, protocol) -> None:
        protocol.check(10)


DP = DpSgd(
    learning_rate=0.1, clip_norm=1, noise_multiplier=1, batch_size=5,
    batches=PoissonBatches(sampling_rate=0.5),
)  # fmt: skip


@pytest.mark.parametrize("trainer", [Sgd(learning_rate=0.1), DP], **named)
@pytest.mark.parametrize("source", [Linear(), Mlp(hidden=(4,))], **named)
class TestTrainer:
    def test_an_update_is_the_streams_and_the_records(self, trainer, source) -> None:
        rng = np.random.default_rng(0)
        records = Records(rng.normal(size=(20, 3)).astype(np.float32), rng.integers(0, 2, 20))
        model = source.build(RANDOM.public, example=torch.zeros(1, 3))
        trainer.check(model, records)
        start = model.get()
        streams = RANDOM.secret.child("t")
        one = trainer.train(model, start, records, streams=streams)
        assert one.shape == start.shape and torch.isfinite(one).all() and one.any()
        assert torch.equal(one, trainer.train(model, start, records, streams=streams))
        other = trainer.train(model, start, records, streams=RANDOM.secret.child("u"))
        assert not torch.equal(one, other)

    def test_no_records_are_no_error(self, trainer, source) -> None:
        model = source.build(RANDOM.public, example=torch.zeros(1, 3))
        nothing = Records(np.zeros((0, 3), np.float32), np.zeros(0, np.int64))
        update = trainer.train(model, model.get(), nothing, streams=RANDOM.secret.child("t"))
        assert torch.isfinite(update).all()
        assert bool(update.any()) == (trainer.event() is not None), "noise must show even so"


@pytest.mark.parametrize("rule", [PoissonBatches(sampling_rate=0.4), ShuffledBatches()], **named)
def test_batches_are_record_numbers_of_their_stream(rule) -> None:
    one, same = (rule.draw(17, RANDOM.secret.stream("b")) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert all(len(set(b)) == len(b) and set(b) <= set(range(17)) for b in one)
    assert all(len(batch) == 0 for batch in rule.draw(0, RANDOM.secret.stream("b")))


@pytest.mark.parametrize("algorithm", [FedAvg(), FedAvg(learning_rate=0.5, momentum=0.9)])
def test_an_algorithm_is_a_pure_step(algorithm) -> None:
    params, update = torch.ones(4), torch.arange(4, dtype=torch.float64)
    state = algorithm.init(4)
    before = (params.clone(), update.clone(), state.clone())
    one, next_state = algorithm.step(params, update, state)
    assert all(torch.equal(a, b) for a, b in zip(before, (params, update, state), strict=True))
    assert torch.equal(one, params + algorithm.learning_rate * update.float())
    two, _ = algorithm.step(one, update, next_state)
    factor = algorithm.learning_rate * (1 + algorithm.momentum)
    torch.testing.assert_close(two, one + factor * update.float())


@pytest.mark.parametrize(
    "source",
    [
        BreastCancer(clients=5, records=(20, 40), ranges={"mean radius": (6, 30)}),
        SyntheticImages(clients=9, test_records=50),
    ],
    **named,
)
def test_a_data_set_is_the_same_in_every_process(source) -> None:
    one, other = source.open(RANDOM.public), source.open(Randomness.of(11).public)
    assert one.population == other.population == source.clients
    for client in (4, 0, 4):
        a, b = one.client(client), other.client(client)
        assert np.array_equal(a.features, b.features) and np.array_equal(a.labels, b.labels)
        a.checked("a client")
        assert a.features.shape[1:] == one.test().features.shape[1:]
