"""An experiment put together: its components, built and checked against each other."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from codex_ray.consistency import (
    check_budget,
    check_generalised_features,
    check_given,
    check_local_noise,
    check_preparation,
    check_shared_step,
    check_side_data,
)
from codex_ray.data.dataset import FederatedDataset
from codex_ray.data.kept import opened
from codex_ray.data.prepared import PreparedData
from codex_ray.data.prepared_clients import PreparedClients
from codex_ray.data.python_factory import CheckedDataset
from codex_ray.data.stand_in import stand_in
from codex_ray.data.tables import CsvFiles
from codex_ray.errors import ConfigError
from codex_ray.experiment import Experiment
from codex_ray.federation.charges import Charge
from codex_ray.federation.client import Host, LocalTrainer
from codex_ray.federation.faults import FaultyTransport
from codex_ray.federation.field import FieldClock, Load
from codex_ray.federation.round import Round
from codex_ray.federation.state import ServerState
from codex_ray.federation.transport import Answered, Transport
from codex_ray.figures import Asking, asked_here, figures_event, release_of
from codex_ray.learning.comparison import Baselines
from codex_ray.learning.distributed_dp_sgd import DistributedDpSgd
from codex_ray.learning.evaluation import evaluate
from codex_ray.learning.local_noise import LocalNoise, NoisedDataset
from codex_ray.learning.models import Model, given_model
from codex_ray.learning.plans import REFERENCE
from codex_ray.learning.trainers import LocalTraining, check_labels
from codex_ray.learning.vectorised import VectorisedTraining
from codex_ray.privacy.claims import LOCAL, LOCAL_STEPS
from codex_ray.privacy.codec import Codec
from codex_ray.privacy.correlated_gaussian import CorrelatedGaussian
from codex_ray.privacy.correlated_noise import RELEASE
from codex_ray.privacy.ledger import Ledger
from codex_ray.privacy.noise_inside import NoiseInside
from codex_ray.randomness import Randomness, Stream, fresh_secret
from codex_ray.types import word_type

CHECKED_CLIENTS = 100


@dataclass(frozen=True)
class Given:
    """A model or a data set that a caller handed over as a Python object instead of by name."""

    model: object | None = None
    data: object | None = None


@dataclass(frozen=True)
class Assembled:
    """An experiment's components, built and checked against each other."""

    experiment: Experiment
    given: Given
    randomness: Randomness
    dataset: FederatedDataset
    model: Model
    initial: torch.Tensor
    codec: Codec

    def host(self, *, fold: bool = True) -> Host:
        """A host that can carry any of the clients; it folds what is only ever added up.

        Raises:
            ConfigError: by what features are scaled is not settled.
        """
        experiment = self.experiment
        if experiment.preparation.unsettled:
            raise ConfigError(
                "data.prepare: the figures of all clients are found before round 0, by codex-ray "
                "run, and this run has none: begin it anew"
            )
        return Host(
            trainer=self.training(),
            mechanism=experiment.federation.mechanism,
            protocol=experiment.federation.protocol_for(self.dataset.population),
            codec=self.codec,
            randomness=self.randomness,
            by_record=isinstance(experiment.trainer, DistributedDpSgd),
            debug=experiment.debug,
            fold=fold,
            together=experiment.plan.plan.clients,
        )

    def training(self) -> LocalTrainer:
        """What a host trains its clients by: the reference, as long as the plan is not settled."""
        plan = self.experiment.plan.plan
        reference = self._reference
        return reference if plan == REFERENCE else VectorisedTraining(reference, plan)

    @property
    def _reference(self) -> LocalTraining:
        return LocalTraining(
            self.experiment.trainer, self.model, self.dataset, self.randomness.secret
        )

    def check_files(self) -> None:
        """Refuses files of records that a run would stumble over, before it begins.

        Raises:
            DataError: one is not what its manifest says; no record is read to find that out.
        """
        if isinstance(self._held, PreparedClients):
            self._held.check()

    @property
    def _held(self) -> FederatedDataset:
        """The records without local noise."""
        return self.dataset.dataset if isinstance(self.dataset, NoisedDataset) else self.dataset

    def settled(self, *, gpus: float, asking: Asking | None = None) -> Assembled:
        """The same with everything found out that every host, and a resumed run, goes by.

        That is the plan, the card of prepared data, and the figures by which features are scaled.
        All of it is in the configuration afterwards, so that nothing is released twice.

        Args:
            gpus: that the hosts have.
            asking: where clients are asked for figures of their records; here, if it is left out.

        Raises:
            ConfigError: the plan's device is not there; figures cost more than the budget.
            SumAborted: a client is not in a sum of figures.
        """
        return self._with_figures(asking or asked_here).with_plan(gpus=gpus)

    def with_plan(self, *, gpus: float) -> Assembled:
        """The same with a plan that leaves nothing open.

        Raises:
            ConfigError: the plan's device is not there.
        """
        experiment = self.experiment
        if experiment.cluster.hosts and experiment.plan.device.startswith("cuda:"):
            raise ConfigError(
                f"plan.device is {experiment.plan.device}, but Ray hosts get their GPUs from Ray: "
                "set it to cuda"
            )
        cohort = experiment.federation.sampler.expected(self.dataset.population)
        # How fast a kernel is depends on no value, so nobody's records are looked at for it.
        plan = experiment.plan.settled(
            replace(self._reference, dataset=stand_in(self.dataset)),
            updates=max(1, math.ceil(experiment.rounds * cohort)),
            gpus=gpus,
            hosts=max(1, experiment.cluster.hosts),
        )
        return replace(self, experiment=experiment.model_copy(update={"plan": plan}))

    def _with_figures(self, asking: Asking) -> Assembled:
        """The same with the card of prepared data, and the figures that features are scaled by."""
        experiment, data = self.experiment, self.experiment.data
        if isinstance(data, PreparedData):
            data = data.settled()
            experiment = experiment.model_copy(update={"data": data})
        if not experiment.preparation.unsettled:
            return replace(self, experiment=experiment)
        assert isinstance(data, CsvFiles | PreparedData) and data.prepare is not None
        self._check_figures()
        release = release_of(experiment, self.dataset.population)
        with asking(experiment, self.dataset.population, self.randomness) as asked:
            statistics = release.statistics(data.columns, asked, self.randomness)
        prepare = data.prepare.model_copy(update={"statistics": statistics})
        data = data.model_copy(update={"prepare": prepare})
        return assemble(experiment.model_copy(update={"data": data}), self.given)

    def _check_figures(self) -> None:
        """Refuses to release figures that leave no budget to train with.

        Raises:
            ConfigError: they cost more than it.
        """
        budget = self.experiment.budget.epsilon
        for ledger in self.fresh_ledgers():
            if budget is not None and ledger.largest() > budget:
                raise ConfigError(
                    f"data.prepare.noise_multiplier: the figures alone cost epsilon "
                    f"{ledger.largest():.4g}, and budget.epsilon is {budget:g}: raise it"
                )

    def round(self, transport: Transport) -> Round:
        """The server's side of every round, over `transport` with the scenario's dropouts."""
        experiment, public = self.experiment, self.randomness.public
        dropouts, faults = experiment.federation.dropouts, experiment.federation.faults
        clock = None if faults.devices is None else FieldClock(faults.devices, public)
        standing = experiment.federation.protocol.standing
        if standing is not None:
            transport = Answered(transport, standing)
        if dropouts.any or faults.any:
            transport = FaultyTransport(
                transport, dropouts, public, faults=faults, load=self.load, clock=clock
            )
        return Round(
            federation=experiment.federation,
            codec=self.codec,
            population=self.dataset.population,
            charges=self.charges,
            budget=experiment.budget.epsilon,
            delta=experiment.budget.delta,
            randomness=self.randomness,
            transport=transport,
            divisor=self._divisor,
            noise_of=self._noise_of_releases(),
            clock=clock,
        )

    @property
    def load(self) -> Load:
        """What every client has to move in a round, whatever the protocol adds."""
        return _load(self.initial, self.codec)

    def _noise_of_releases(self) -> Callable[[int], Stream]:
        """Where the release of each round draws its noise from.

        Correlated noise is that of a whole run. Without a seed what came before this process is
        lost, and it begins with the first round that is released here.
        """
        experiment, secret = self.experiment, self.randomness.secret
        mechanism = experiment.federation.mechanism
        if not isinstance(mechanism, CorrelatedGaussian):
            return partial(secret.stream, RELEASE)
        return mechanism.noise(
            experiment.federation.sampler.schedule(experiment.rounds),
            secret=secret,
            dimension=len(self.initial),
            first=None if experiment.seed is None else 0,
        ).stream

    @property
    def _divisor(self) -> float:
        """What a released sum is divided by."""
        experiment = self.experiment
        if isinstance(experiment.trainer, DistributedDpSgd):
            return experiment.trainer.divisor
        return experiment.federation.sampler.expected(self.dataset.population)

    @property
    def charges(self) -> list[Charge]:
        """What one round costs, for each claim."""
        return charges(self.experiment, codec=self.codec, population=self.dataset.population)

    @property
    def shortfall(self) -> float:
        """The part of delta that is the chance of a cohort too small for its sum."""
        experiment = self.experiment
        return experiment.federation.shortfall(self.dataset.population, rounds=experiment.rounds)

    @property
    def ledger_delta(self) -> float:
        """What is left of delta for what the rounds themselves cost."""
        return self.experiment.budget.delta - self.shortfall

    def fresh_ledgers(self) -> list[Ledger]:
        """The ledgers before round 0, in which figures that were released are paid for."""
        return fresh_ledgers(
            self.experiment,
            self.charges,
            delta=self.ledger_delta,
            population=self.dataset.population,
        )

    def first_state(self) -> ServerState:
        """The state before round 0."""
        seed = self.experiment.seed
        run = (
            fresh_secret(16)
            if seed is None
            else hashlib.sha256(f"run {seed}".encode()).digest()[:16]
        )
        return ServerState(
            run=run,
            round=0,
            params=self.initial,
            optimiser=self.experiment.federation.algorithm.init(len(self.initial)),
            ledgers=self.fresh_ledgers(),
            mechanism=self.experiment.federation.mechanism.init(),
            plan=str(self.experiment.plan.plan),
        )

    def evaluate(self, params: torch.Tensor) -> dict[str, float]:
        """Metrics of `params` [d] on the pooled test set."""
        return evaluate(self.model, params, self.dataset.test())

    def compare(self) -> Baselines | None:
        """The baselines that the experiment asks for; none in an unseeded run."""
        if self.experiment.compare is None or self.experiment.seed is None:
            return None
        fresh = build_model(self.experiment, self.given, self.dataset, self.randomness)
        # Baselines are without privacy: on the records as they are.
        return self.experiment.compare.measure(fresh, self._held, public=self.randomness.public)


def build_model(
    experiment: Experiment, given: Given, dataset: FederatedDataset, randomness: Randomness
) -> Model:
    """The experiment's model with its initial weights."""
    example = torch.from_numpy(stand_in(dataset).test().features[:1].copy())
    if given.model is not None:
        return given_model(given.model, randomness.public, example=example)
    return experiment.model.build(randomness.public, example=example)


def assemble(experiment: Experiment, given: Given | None = None) -> Assembled:
    """The experiment's components, checked against each other before anything runs.

    Raises:
        InputError: something does not fit; the message names the field and the remedy.
    """
    given = given or Given()
    check_given(experiment, model=given.model, data=given.data)
    check_shared_step(experiment)
    check_budget(experiment)
    check_side_data(experiment)
    check_local_noise(experiment)
    check_preparation(experiment)
    check_generalised_features(experiment)
    randomness = Randomness.of(experiment.seed)
    dataset = _opened(experiment, given, randomness)
    experiment.federation.check(
        dataset.population, rounds=experiment.rounds, delta=experiment.budget.delta
    )
    if experiment.cluster.hosts > dataset.population:
        raise ConfigError(
            f"cluster.hosts is {experiment.cluster.hosts}, but there are only {dataset.population} "
            "clients to carry: lower it"
        )
    shown = stand_in(dataset)
    if len(shown.test()) == 0:
        raise ConfigError("data: the test set is empty, so nothing could be measured")
    if experiment.debug and experiment.seed is None:
        raise ConfigError(
            "debug is on, but figures outside the guarantee are for seeded simulations only: set "
            "debug: false or give a seed"
        )
    model = build_model(experiment, given, dataset, randomness)
    check_labels(shown.test(), model.outputs, where="the test set")
    for client in range(min(dataset.population, CHECKED_CLIENTS)):
        check_labels(shown.client(client), model.outputs, where=f"client {client}")
    initial = model.get()
    experiment.trainer.check(model, shown.test())
    codec = experiment.federation.codec(
        population=dataset.population,
        dimension=len(initial),
        records=getattr(experiment.trainer, "summands", None),
    )
    experiment.federation.check_losses(dataset.population, _load(initial, codec))
    return Assembled(
        experiment=experiment,
        given=given,
        randomness=randomness,
        dataset=dataset,
        model=model,
        initial=initial,
        codec=codec,
    )


def _load(initial: torch.Tensor, codec: Codec) -> Load:
    """Bytes of the parameters [d] and of a summand."""
    words = codec.length * word_type(codec.bits).itemsize
    return Load(down=initial.numel() * initial.element_size(), up=words)


def _opened(experiment: Experiment, given: Given, randomness: Randomness) -> FederatedDataset:
    """The data set as it is trained on: where there is local noise, nobody sees it without."""
    dataset: FederatedDataset
    if given.data is not None:
        dataset = CheckedDataset(given.data, "the given data set")
    else:
        dataset = opened(experiment.data, randomness.public, seed=experiment.seed)
    if experiment.local_noise is None:
        return dataset
    return NoisedDataset(dataset, experiment.local_noise, randomness.secret)


def fresh_ledgers(
    experiment: Experiment, charged: Sequence[Charge], *, delta: float, population: int
) -> list[Ledger]:
    """The ledgers of these charges before round 0: every client has paid for released figures."""
    ledgers = [charge.ledger(delta) for charge in charged]
    event = figures_event(experiment, population)
    if event is not None:
        everyone = tuple(range(population))
        for charge, ledger in zip(charged, ledgers, strict=True):
            ledger.charge(event, charge.holders(everyone))
    return ledgers


def charges(
    experiment: Experiment, *, codec: Codec | None = None, population: int | None = None
) -> list[Charge]:
    """What one round costs, for each claim that the experiment makes.

    Without `codec` and `population` the data and the model are opened for them, where a claim
    depends on those.
    """
    federation = experiment.federation
    sized = (
        isinstance(federation.mechanism, NoiseInside)
        or federation.sampler.kind == "fixed"
        or federation.presumed is not None
    )
    if sized and codec is None:
        built = assemble(experiment)
        codec, population = built.codec, built.dataset.population
    trainer, people = experiment.trainer, population or 1
    if isinstance(trainer, DistributedDpSgd):
        return [federation.shared_step(trainer.sampled, codec=codec, population=people)]
    found = []
    record = trainer.event()
    if record is not None:
        found.append(Charge(LOCAL_STEPS, lambda _: record, hidden=False))
    if experiment.local_noise is not None:
        found.append(_records_shown(experiment.local_noise))
    return found + federation.charges(codec=codec, population=people)


def _records_shown(noise: LocalNoise) -> Charge:
    """What a record pays for being shown noised: once, and every record of every client."""
    event = noise.event()
    said = (
        f"it covers {noise.covers}",
        "how many records each client holds is public",
        "a record is noised once, and nothing is computed from it without its noise",
    )
    claim = replace(LOCAL, assumes=(*LOCAL.assumes, *said))
    return Charge(claim, lambda _: event, hidden=True, once=True)
