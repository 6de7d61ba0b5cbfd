"""One suite for each plug-in point: what every kind of it must do, whatever else it does."""

from __future__ import annotations

import itertools

import dp_accounting as dp
import numpy as np
import pytest
import torch

from codex_ray.data.breast_cancer import BreastCancer
from codex_ray.data.dataset import Records
from codex_ray.data.synthetic_images import SyntheticImages
from codex_ray.errors import ProtocolError, SumAborted
from codex_ray.federation.algorithms import FedAvg
from codex_ray.federation.fedadam import FedAdam
from codex_ray.federation.federation import Federation
from codex_ray.federation.sampling import EveryClient, FixedSize, PoissonCohorts
from codex_ray.federation.spaced_sampling import SpacedCohorts
from codex_ray.learning.batches import PoissonBatches, ShuffledBatches
from codex_ray.learning.dp_sgd import DpSgd
from codex_ray.learning.models import Linear, Mlp
from codex_ray.learning.trainers import Sgd
from codex_ray.privacy.adaptive_clipping import AdaptiveGaussian
from codex_ray.privacy.encoding import Encoding
from codex_ray.privacy.events import event_from_json, event_to_json, relations
from codex_ray.privacy.mechanism import Means
from codex_ray.privacy.mechanisms import CentralGaussian, Metrics, NoMechanism, Weights
from codex_ray.privacy.passengers import Range, Told
from codex_ray.privacy.quantisation import no_words
from codex_ray.randomness import Randomness
from codex_ray.secagg.identity import Enrolment, Identity, Membership
from codex_ray.secagg.protocols import Clear, Ideal, SecAgg, SecAggPlus
from codex_ray.types import GroupSum, Residues, SessionContext, word_type
from codex_ray.types import reduce as reduce_words
from codex_ray.wire import read_frame

RANDOM = Randomness.of(11)
named = {"ids": lambda component: f"{component.kind}"}


@pytest.mark.parametrize(
    "sampler",
    [EveryClient(), PoissonCohorts(rate=0.3), FixedSize(size=9), SpacedCohorts(separation=4)],
    **named,
)
class TestSampler:
    def test_cohorts_are_sorted_distinct_and_within_bounds(self, sampler) -> None:
        sizes = []
        for round_ in range(200):
            cohort = sampler.sample(40, RANDOM, round=round_)
            assert list(cohort) == sorted(set(cohort)) and set(cohort) <= set(range(40))
            assert len(cohort) <= sampler.largest(40)
            sizes.append(len(cohort))
        assert np.mean(sizes) == pytest.approx(sampler.expected(40), rel=0.1)

    def test_the_same_randomness_gives_the_same_cohort(self, sampler) -> None:
        one, other = (sampler.sample(40, RANDOM, round=1) for _ in range(2))
        assert one == other

    def test_every_client_has_the_same_chance(self, sampler) -> None:
        counts = np.zeros(20)
        for round_ in range(600):
            counts[list(sampler.sample(20, RANDOM, round=round_))] += 1
        assert np.abs(counts - counts.mean()).max() < 5 * np.sqrt(600 * 0.25)

    def test_a_population_it_can_serve_is_accepted(self, sampler) -> None:
        sampler.check(40)

    def test_it_keeps_its_own_schedule(self, sampler) -> None:
        sampler.schedule(50).check(sampler.sample(40, RANDOM, round=r) for r in range(50))

    def test_its_event_is_one_that_is_accounted(self, sampler) -> None:
        event = sampler.event(dp.GaussianDpEvent(1.0), 40)
        assert event_from_json(event_to_json(event)) == event and relations(event)


SMALL = Encoding(bits=16, rounding="stochastic")
ROTATED = Encoding(bits=20, rounding="stochastic", rotate=True)


@pytest.mark.parametrize(
    "mechanism",
    [
        NoMechanism(bound=4),
        NoMechanism(bound=4, encoding=SMALL),
        NoMechanism(
            bound=4,
            weights=Weights(by="records", largest=300),
            metrics=Metrics(train_loss=Range(low=0, high=5, resolution=0.01)),
        ),
        CentralGaussian(clip_norm=0.5, noise_multiplier=1.0),
        CentralGaussian(clip_norm=0.5, noise_multiplier=1.0, encoding=ROTATED),
        AdaptiveGaussian(noise_multiplier=1.0, count_noise=2.0),
        AdaptiveGaussian(noise_multiplier=1.0, count_noise=2.0, encoding=ROTATED),
    ],
    ids=[
        "none",
        "none-16-bit",
        "none-weighted",
        "gaussian",
        "gaussian-rotated",
        "adaptive",
        "adaptive-rotated",
    ],
)
class TestMechanism:
    def summands(self, mechanism, codec, count: int) -> list[Residues]:
        updates = torch.randn(count, 6, generator=torch.Generator().manual_seed(0))
        return [
            mechanism.encode(
                update,
                codec,
                rotation=codec.rotation(RANDOM.public.stream("rotation", 0)),
                draws=RANDOM.secret.stream("rounding", 0, client),
                told=Told(records=20 * client, train_loss=0.1 * client),
                noise=RANDOM.secret.stream("noise share", 0, client),
                state=mechanism.init(),
            )
            for client, update in enumerate(updates)
        ]

    def test_a_summand_is_words_of_the_session_and_the_streams(self, mechanism) -> None:
        codec = mechanism.codec(dimension=6, summands=8)
        for one, same in zip(*(self.summands(mechanism, codec, 8) for _ in range(2)), strict=True):
            assert one.dtype == word_type(codec.bits) and one.shape == (codec.length,)
            assert int(one.max()) < 2**codec.bits and np.array_equal(one, same)

    def test_a_sum_does_not_depend_on_order_or_grouping(self, mechanism) -> None:
        codec = mechanism.codec(dimension=6, summands=8)
        encoded = self.summands(mechanism, codec, 8)
        total = self.added(encoded, codec)
        for order in itertools.islice(itertools.permutations(range(8)), 0, 40320, 4001):
            halves = [self.added([encoded[i] for i in order[a : a + 4]], codec) for a in (0, 4)]
            assert np.array_equal(self.added(halves, codec), total)

    def test_a_chunk_and_its_sum_are_those_of_its_clients(self, mechanism) -> None:
        codec = mechanism.codec(dimension=6, summands=8)
        alone = self.summands(mechanism, codec, 8)
        updates = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
        means = Means(
            rotation=codec.rotation(RANDOM.public.stream("rotation", 0)),
            draws=lambda client: RANDOM.secret.stream("rounding", 0, client),
            noise=lambda client: RANDOM.secret.stream("noise share", 0, client),
            told=[Told(records=20 * n, train_loss=0.1 * n) for n in range(8)],
            state=mechanism.init(),
        )
        assert np.array_equal(mechanism.encode_all(updates, codec, means), np.stack(alone))
        total = mechanism.encode_sum(updates, codec, means)
        assert np.array_equal(total, self.added(alone, codec))

    def added(self, summands: list[Residues], codec) -> Residues:
        total = no_words(codec.length, bits=codec.bits)
        for summand in summands:
            total += summand
        return reduce_words(total, codec.bits)

    def test_release_is_the_streams_and_has_the_right_shape(self, mechanism) -> None:
        codec = mechanism.codec(dimension=6, summands=8)
        group = GroupSum((0, 1, 2), self.added(self.summands(mechanism, codec, 3), codec))
        rotation = codec.rotation(RANDOM.public.stream("rotation", 0))
        one, same, other = (
            mechanism.release(
                group,
                codec=codec,
                expected=4,
                noise=RANDOM.secret.stream("r", r),
                rotation=rotation,
                state=mechanism.init(),
            )
            for r in (0, 0, 1)
        )
        assert one.update.shape == (6,) and one.update.dtype == torch.float64
        assert torch.equal(one.update, same.update) and one.metrics == same.metrics
        assert torch.equal(one.update, other.update) == (mechanism.event() is None)
        assert len(one.state) == len(mechanism.init()) and one.state == same.state
        assert all(number == np.float32(number) for number in one.state)

    def test_a_claim_goes_with_equal_weights_and_no_figures_of_the_records(self, mechanism) -> None:
        assert mechanism.event() is None or not mechanism.asks


COHORT = (2, 3, 5, 7, 11, 13)
IDENTITIES = {client: Identity.fresh() for client in COHORT}
ENROLMENT = Enrolment({client: identity.public for client, identity in IDENTITIES.items()})
PROTOCOLS = [
    Clear(),
    Ideal(),
    SecAggPlus(),
    *(
        SecAgg(adversary=adversary, keys=keys)
        for adversary in ("semi_honest", "semi_malicious", "malicious")
        for keys in ("session", "enrolled")
    ),
]


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=repr)
class TestSumProtocol:
    def context(self, bits: int = 32) -> SessionContext:
        return SessionContext(b"r" * 16, 0, 0, bytes(32), 5, bits)

    def summands(self, bits: int = 32) -> dict[int, Residues]:
        rng = np.random.default_rng(bits)
        return {c: rng.integers(0, 2**bits, 5).astype(word_type(bits)) for c in COHORT}

    def run(self, protocol, context, summands):
        """What the session returns, and the trips that it took; `summands` are handed over."""
        known = ENROLMENT if protocol.identified else None
        clients = {
            c: protocol.client(
                c, context, words, membership=known and Membership(IDENTITIES[c], known)
            )
            for c, words in summands.items()
        }
        session = protocol.session(tuple(sorted(clients)), context, enrolment=known)
        trips = []
        try:
            outbox = next(session)
            while True:
                trips.append({message.stage for message in outbox.values()})
                replies = {
                    c: read_frame(clients[c].answer(read_frame(m.to_frame())).to_frame())
                    for c, m in outbox.items()
                }
                outbox = session.send(replies)
        except StopIteration as stop:
            return stop.value, trips

    @pytest.mark.parametrize("bits", [16, 17, 20, 31, 32])
    def test_the_groups_add_up_to_the_plain_sum(self, protocol, bits) -> None:
        summands = self.summands(bits)
        want = np.sum([words.astype(np.uint64) for words in summands.values()], axis=0) % 2**bits
        result, _ = self.run(protocol, self.context(bits), summands)
        assert result.members == COHORT
        assert len(result.groups) == (6 if protocol.kind == "clear" else 1)
        total = np.zeros(5, dtype=np.uint64)
        for group in result.groups:
            assert group.total.dtype == word_type(bits) and int(group.total.max()) < 2**bits
            total += group.total
        assert np.array_equal(total % 2**bits, want)

    def test_each_trip_is_one_stage_and_the_stages_increase(self, protocol) -> None:
        _, trips = self.run(protocol, self.context(), self.summands())
        assert all(len(stages) == 1 for stages in trips)
        order = [stage for stages in trips for stage in stages]
        assert order == sorted(set(order)) and len(order) <= 6

    def test_a_summand_may_be_made_when_it_is_needed(self, protocol) -> None:
        want, _ = self.run(protocol, self.context(), self.summands())
        made: list[int] = []
        late = {c: lambda c=c: made.append(c) or self.summands()[c] for c in COHORT}
        got, _ = self.run(protocol, self.context(), late)
        assert sorted(made) == list(COHORT)
        for one, other in zip(want.groups, got.groups, strict=True):
            assert one.members == other.members and np.array_equal(one.total, other.total)

    def test_a_summand_of_other_words_is_refused(self, protocol) -> None:
        for bits, wrong in ((32, np.uint16), (16, np.uint32), (32, np.int64)):
            with pytest.raises(ProtocolError, match="the session sums"):
                self.run(protocol, self.context(bits), {c: np.zeros(5, wrong) for c in COHORT})

    def test_nobody_left_is_an_abort(self, protocol) -> None:
        session = protocol.session(COHORT, self.context(), enrolment=ENROLMENT)
        next(session)
        with pytest.raises(SumAborted, match="0 clients can go on"):
            session.send({})

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


@pytest.mark.parametrize(
    "algorithm", [FedAvg(), FedAvg(learning_rate=0.5, momentum=0.9), FedAdam()], **named
)
def test_an_algorithm_is_a_pure_step(algorithm) -> None:
    params, update = torch.ones(4), torch.arange(4, dtype=torch.float64)
    state = algorithm.init(4)
    before = (params.clone(), update.clone(), state.clone())
    one, next_state = algorithm.step(params, update, state)
    assert all(torch.equal(a, b) for a, b in zip(before, (params, update, state), strict=True))
    again, same_state = algorithm.step(params, update, state)
    assert torch.equal(one, again) and torch.equal(next_state, same_state)
    assert one.dtype == torch.float32 and one.shape == params.shape
    assert next_state.dtype == torch.float64 and next_state.shape == state.shape
    assert one[0] == params[0] and (one[1:] > params[1:]).all()  # along the update


@pytest.mark.parametrize("algorithm", [FedAvg(), FedAvg(learning_rate=0.5, momentum=0.9)])
def test_fedavg_steps_by_its_rate_and_its_momentum(algorithm) -> None:
    params, update = torch.ones(4), torch.arange(4, dtype=torch.float64)
    one, state = algorithm.step(params, update, algorithm.init(4))
    assert torch.equal(one, params + algorithm.learning_rate * update.float())
    two, _ = algorithm.step(one, update, state)
    factor = algorithm.learning_rate * (1 + algorithm.momentum)
    torch.testing.assert_close(two, one + factor * update.float())


def test_fedadam_steps_as_in_its_paper() -> None:
    """Two steps of algorithm 2 of Reddi et al. 2021, by hand."""
    algorithm = FedAdam(learning_rate=0.1, momentum=0.5, decay=0.75, floor=0.5)
    params, update = torch.zeros(1), torch.tensor([2.0], dtype=torch.float64)
    one, state = algorithm.step(params, update, algorithm.init(1))
    assert state[:, 0].tolist() == [1.0, 1.0]
    assert one[0].item() == pytest.approx(0.1 * 1.0 / 1.5)
    two, state = algorithm.step(one, update, state)
    assert state[:, 0].tolist() == [1.5, 1.75]
    assert two[0].item() == pytest.approx(one[0].item() + 0.1 * 1.5 / (1.75**0.5 + 0.5))


def test_an_algorithm_without_a_name_is_fedavg() -> None:
    assert Federation.model_validate({"algorithm": {"momentum": 0.5}}).algorithm == FedAvg(
        momentum=0.5
    )
    named = {"kind": "fedadam", "floor": 0.1}
    assert Federation.model_validate({"algorithm": named}).algorithm == FedAdam(floor=0.1)


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
