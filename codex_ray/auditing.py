"""An audit of an experiment: does what is implemented add, clip and draw what its ledger charges?

Nothing here trusts the run's own account. The parts of the run are made to work on nothing, so that
their noise is seen by itself; then on canaries, whose traces are counted. Checks come first: each
fails a sound build less than once in a million audits. Then the lower bounds, of which only one
above the claim fails a run, and estimates, which never do.

An audit draws from streams of its own: with those of the run its releases would repeat the run's
noise, and could be subtracted from it.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from codex_ray.assembly import Assembled, build_model
from codex_ray.assurance.canary_clients import (
    CanaryClients,
    CanaryTraining,
    SeenRound,
    client_verdicts,
)
from codex_ray.assurance.canary_records import CanaryRecords, step_scores
from codex_ray.assurance.checks import (
    Floats,
    check_poisson,
    check_streams,
    check_variance,
)
from codex_ray.assurance.shown_records import shown_verdicts
from codex_ray.assurance.verdict import Verdict, bound_verdict
from codex_ray.data.dataset import FederatedDataset, Records
from codex_ray.errors import ConfigError
from codex_ray.federation.client import Host
from codex_ray.federation.sampling import PoissonCohorts
from codex_ray.federation.transport import LocalTransport
from codex_ray.learning.batches import PoissonBatches
from codex_ray.learning.dp_sgd import DpSgd
from codex_ray.learning.trainers import LocalTraining
from codex_ray.privacy.adaptive_clipping import AdaptiveGaussian
from codex_ray.privacy.correlated_gaussian import CorrelatedGaussian
from codex_ray.privacy.correlated_noise import CorrelatedStream
from codex_ray.privacy.ledger import epsilon_of
from codex_ray.privacy.local_gaussian import LocalGaussian
from codex_ray.privacy.mechanisms import CentralGaussian, NoMechanism
from codex_ray.privacy.noise_inside import NoiseInside
from codex_ray.privacy.quantisation import no_words
from codex_ray.randomness import Randomness, SeedTree, Stream, fresh_secret
from codex_ray.types import GroupSum
from codex_ray.types import reduce as reduce_words

COORDINATES = 100_000
"""How much noise the variance is measured on, if that takes no more than MOST_DRAWS draws of it."""
MOST_DRAWS = 400
ALIKE = 8
"""Clients, or rounds, whose noises are compared with each other."""
DRAWS = 200
"""Cohorts and batches that are drawn to see how they are drawn."""
LATER = 4
"""The round whose correlated noise is looked at."""
STEPS = 5
"""Local steps that canary records are planted in."""


@dataclass(frozen=True)
class Auditor:
    """An experiment under audit.

    Attributes:
        run: the experiment's components.
        canaries: how many canaries take part in a probe.
    """

    run: Assembled
    canaries: int

    def verdicts(self) -> Iterator[Verdict]:
        """Each verdict as it is reached, checks first.

        Raises:
            ConfigError: the experiment makes no claim.
        """
        if not self.run.charges:
            raise ConfigError(
                "audit: nothing adds noise, so there is no claim to audit: use trainer.kind: "
                "dp_sgd or a federation.mechanism"
            )
        yield from self._sampling()
        noise = self.run.experiment.local_noise
        if noise is not None:
            yield from shown_verdicts(noise, self.run.dataset, self._streams("long records"))
        trainer = self.run.experiment.trainer
        if isinstance(trainer, DpSgd):
            yield from self._record_noise(trainer)
        yield from self._client_noise()
        if isinstance(trainer, DpSgd):
            yield self._canary_records(trainer)
        yield from self._canary_clients()

    def _streams(self, *path: str | int) -> SeedTree:
        """The audit's own tree: of the seed where there is one, so that its figures come again."""
        seed = self.run.experiment.seed
        root = fresh_secret() if seed is None else hashlib.sha256(f"audit {seed}".encode()).digest()
        return SeedTree(root).child(*path)

    # How cohorts and batches are drawn.

    def _sampling(self) -> Iterator[Verdict]:
        population, sampler = self.run.dataset.population, self.run.experiment.federation.sampler
        if isinstance(sampler, PoissonCohorts) and sampler.rate < 1:
            tree = self._streams("cohorts")
            randomness = Randomness(tree, tree)
            drawn = [
                np.array(sampler.sample(population, randomness, round=at), dtype=np.int64)
                for at in range(DRAWS)
            ]
            yield check_poisson(drawn, population=population, rate=sampler.rate, what="cohorts")
        trainer = self.run.experiment.trainer
        if not isinstance(trainer, DpSgd) or not isinstance(trainer.batches, PoissonBatches):
            return
        rate, tree = trainer.batches.sampling_rate, self._streams("batches")
        if rate < 1:
            records = max(2, len(self.run.dataset.client(0)))
            batches = [
                batch
                for at in range(DRAWS)
                for batch in trainer.batches.draw(records, tree.stream(at))
            ][:DRAWS]
            yield check_poisson(batches, population=records, rate=rate, what="batches")

    # The noise by itself.

    def _record_noise(self, trainer: DpSgd) -> Iterator[Verdict]:
        """What the trainer adds for clients that hold nothing."""
        training = self._training(trainer, _Empty(self.run.dataset), "record noise")
        rounds = max(2, min(_rounds_for(self.run.model.dimension * ALIKE), MOST_DRAWS // ALIKE))
        clients = [at % self.run.dataset.population for at in range(ALIKE)]
        several = list(dict.fromkeys(clients))
        noises = [training.train(self.run.initial, several, at).numpy() for at in range(rounds)]
        steps = trainer.batches.steps if isinstance(trainer.batches, PoissonBatches) else 1
        per_step = trainer.learning_rate / trainer.batch_size * trainer.clip_norm
        deviation = per_step * trainer.noise_multiplier * math.sqrt(steps)
        if len(several) > 1:
            yield check_streams(np.concatenate(noises, axis=1), whose="clients")
        yield check_streams(np.stack([one.ravel() for one in noises[:ALIKE]]), whose="rounds")
        yield check_variance(np.concatenate(noises).ravel(), deviation)

    def _client_noise(self) -> Iterator[Verdict]:
        """What the mechanism adds to a sum of nothing."""
        mechanism = self.run.experiment.federation.mechanism
        if isinstance(mechanism, NoMechanism):
            return
        alone = isinstance(mechanism, NoiseInside | LocalGaussian)
        rounds = max(2, min(_rounds_for(self.run.model.dimension), MOST_DRAWS))
        released = np.stack([self._nothing(at) for at in range(rounds)])
        yield check_streams(released[:ALIKE], whose="rounds")
        if alone:
            shares = np.stack([self._nothing(0, clients=(at,)) for at in range(min(ALIKE, 4))])
            yield check_streams(shares, whose="clients")
        yield check_variance(released.ravel(), self._noise_of_nothing())

    def _nothing(self, round: int, *, clients: Sequence[int] | None = None) -> Floats:
        """The sum [d] that is released when the fewest honest clients send zeros."""
        run, federation = self.run, self.run.experiment.federation
        mechanism, expected = federation.mechanism, self._expected
        tree = self._streams("client noise", round)
        rotation = run.codec.rotation(tree.stream("rotation"))
        total = no_words(run.codec.length, bits=run.codec.bits)
        if clients is None:
            clients = range(self._honest)
        for client in clients:
            total += mechanism.encode(
                torch.zeros(run.model.dimension),
                run.codec,
                rotation=rotation,
                draws=tree.stream("rounding", client),
                noise=tree.stream("noise share", client),
                state=mechanism.init(),
            )
        group = GroupSum(tuple(clients), reduce_words(total, run.codec.bits))
        release = mechanism.release(
            group,
            codec=run.codec,
            expected=expected,
            noise=self._release_noise(tree),
            rotation=rotation,
            state=mechanism.init(),
        )
        divisor = max(1, len(clients)) if isinstance(mechanism, LocalGaussian) else expected
        noised: Floats = (release.update * divisor).numpy()
        return noised

    def _release_noise(self, tree: SeedTree) -> Stream:
        """What a release draws from; of correlated noise a round that takes back from others."""
        run, federation = self.run, self.run.experiment.federation
        mechanism = federation.mechanism
        if not isinstance(mechanism, CorrelatedGaussian):
            return tree.stream("release")
        schedule = federation.sampler.schedule(run.experiment.rounds)
        noise = mechanism.noise(schedule, secret=tree, dimension=run.model.dimension)
        return noise.stream(min(LATER, schedule.rounds - 1))

    @property
    def _expected(self) -> float:
        return self.run.experiment.federation.sampler.expected(self.run.dataset.population)

    @property
    def _honest(self) -> int:
        """How many clients the noise of a sum is counted for."""
        mechanism = self.run.experiment.federation.mechanism
        if isinstance(mechanism, NoiseInside):
            return mechanism.honest(self._expected)
        return 1 if isinstance(mechanism, LocalGaussian) else 0

    def _noise_of_nothing(self) -> float:
        """The standard deviation that the event says, in the units of the update."""
        mechanism = self.run.experiment.federation.mechanism
        if isinstance(mechanism, AdaptiveGaussian):
            return mechanism.update_noise(self._expected) * mechanism.init()[0]
        if isinstance(mechanism, CentralGaussian):
            return mechanism.literal(self._expected) * mechanism.clip_norm
        assert not isinstance(mechanism, NoMechanism)
        noise = self._release_noise(self._streams("deviation"))
        if isinstance(noise, CorrelatedStream):
            return noise.deviation * mechanism.noise_multiplier * mechanism.clip_norm
        return mechanism.noise_multiplier * mechanism.clip_norm

    # Canaries.

    def _canary_records(self, trainer: DpSgd) -> Verdict:
        """The lower bound that records planted at one client give, step by step."""
        assert isinstance(trainer.batches, PoissonBatches)  # It would have no event.
        one_step = trainer.model_copy(
            update={"batches": trainer.batches.model_copy(update={"steps": 1})}
        )
        experiment, run = self.run.experiment, self.run
        streams = self._streams("canary records")
        data = CanaryRecords(run.dataset, 2 * self.canaries, (0,), streams)
        training = self._training(one_step, data, "canary records")
        params, steps = run.initial, []
        for at in range(STEPS):
            update = training.train(params, [0], at)[0]
            steps.append((params, -update * (trainer.batch_size / trainer.learning_rate)))
            params = params + update
        plain = build_model(experiment, run.given, run.dataset, run.randomness)
        scores = step_scores(plain, steps, data.canaries, clip_norm=trainer.clip_norm)
        delta = experiment.budget.delta
        claimed = epsilon_of(((one_step.event().event, STEPS),), delta)
        name = f"canary records, {STEPS} steps"
        return bound_verdict(name, scores, data.inside, claimed=claimed, delta=delta)

    def _canary_clients(self) -> Iterator[Verdict]:
        """The lower bound and the estimate that canaries in a probe give, where noise is central.

        A probe's cohort is everybody, sending zeros, and the canaries.
        """
        run, federation = self.run, self.run.experiment.federation
        mechanism, population = federation.mechanism, run.dataset.population
        if not isinstance(mechanism, CentralGaussian):
            return
        planted = CanaryClients(
            population,
            2 * self.canaries,
            run.model.dimension,
            mechanism.clip_norm,
            self._streams("canary clients"),
        )
        try:
            planted.check()
        except ConfigError as refusal:
            yield _not_done("canary clients", str(refusal))
            return
        cohort = (*range(population), *planted.members)
        codec = mechanism.codec(dimension=run.model.dimension, summands=len(cohort))
        randomness = Randomness(self._streams("public"), self._streams("probe"))
        host = Host(
            trainer=CanaryTraining(None, planted),
            mechanism=mechanism,
            protocol=federation.protocol,
            codec=codec,
            randomness=randomness,
        )
        probe = replace(
            run.round(LocalTransport(host)), codec=codec, randomness=randomness, charges=()
        )
        state = replace(run.first_state(), ledgers=[])
        after, trace = probe.run(state, cohort=cohort, attempt=0)
        moved = (after.params.double() - state.params.double()).numpy() * self._expected
        noise = mechanism.literal(self._expected)
        seen = SeenRound(moved / mechanism.clip_norm, trace.members, noise)
        yield from client_verdicts(planted, [seen], delta=run.experiment.budget.delta)

    def _training(self, trainer: DpSgd, dataset: FederatedDataset, name: str) -> LocalTraining:
        return LocalTraining(trainer, self.run.model, dataset, self._streams(name))


def audited(run: Assembled, canaries: int) -> list[Verdict]:
    """Every verdict on the experiment, checks first."""
    return list(Auditor(run, canaries).verdicts())


def _rounds_for(coordinates: int) -> int:
    return -(-COORDINATES // coordinates)


def _not_done(name: str, why: str) -> Verdict:
    """A line for what could not be looked at: it neither passes nor fails anything."""
    nothing = math.nan
    return Verdict(name, "estimate", nothing, nothing, nothing, nothing, True, f"{name}: {why}")


@dataclass(frozen=True)
class _Empty:
    """A data set whose clients hold nothing: what a trainer then releases is its noise."""

    inner: FederatedDataset

    @property
    def population(self) -> int:
        """As many clients as there were."""
        return self.inner.population

    def client(self, client: int) -> Records:
        """No records of the client."""
        own = self.inner.client(client)
        return Records(own.features[:0], own.labels[:0])

    def test(self) -> Records:
        """The test set."""
        return self.inner.test()
