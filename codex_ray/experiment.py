"""An experiment: one YAML file as one frozen object, and the machinery that it describes."""

from __future__ import annotations

import gc
import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, Field, model_validator

from codex_ray.data.breast_cancer import BreastCancer
from codex_ray.data.dataset import FederatedDataset
from codex_ray.data.python_factory import CheckedDataset, PythonData
from codex_ray.data.synthetic_images import SyntheticImages
from codex_ray.data.tables import CsvFiles
from codex_ray.errors import ConfigError
from codex_ray.federation.charges import Charge
from codex_ray.federation.client import Host, LocalTrainer
from codex_ray.federation.faults import FaultyTransport
from codex_ray.federation.federation import Federation
from codex_ray.federation.round import Round
from codex_ray.federation.state import ServerState
from codex_ray.federation.transport import Transport
from codex_ray.learning.asked_plan import AskedPlan, plan_of
from codex_ray.learning.comparison import Baselines, Comparison
from codex_ray.learning.distributed_dp_sgd import DistributedDpSgd
from codex_ray.learning.dp_sgd import DpSgd
from codex_ray.learning.local_noise import (
    LocalGaussianRecords,
    LocalNoise,
    NoisedDataset,
    RandomisedResponse,
)
from codex_ray.learning.models import Linear, Mlp, Model, PythonModel, given_model
from codex_ray.learning.plans import REFERENCE
from codex_ray.learning.trainers import LocalTraining, Sgd, check_labels
from codex_ray.learning.vectorised import VectorisedTraining
from codex_ray.privacy.claims import LOCAL, LOCAL_STEPS
from codex_ray.privacy.codec import Codec
from codex_ray.privacy.correlated_gaussian import CorrelatedGaussian
from codex_ray.privacy.correlated_noise import RELEASE
from codex_ray.privacy.noise_inside import NoiseInside
from codex_ray.randomness import Randomness, Stream, fresh_secret
from codex_ray.types import Component

GIVEN = "object:"
CHECKED_CLIENTS = 100


class Budget(Component):
    """How much privacy the run may spend, for each unit that it makes a claim for."""

    epsilon: float | None = Field(
        default=None, gt=0, description="The run stops before a round that could exceed it."
    )
    delta: float = Field(default=1e-5, gt=0, lt=1, description="The delta epsilon is stated at.")


class Audit(Component):
    """What is tried, when a run ends, against what its ledger says."""

    canaries: int = Field(
        default=500,
        ge=20,
        description="Canaries that take part in a probe; a model needs 100 parameters for each.",
    )


class Cluster(Component):
    """Where the experiment runs. Nothing in here ever changes a result."""

    hosts: int = Field(
        default=0, ge=0, description="Ray actors that carry the clients; 0: this process, no Ray."
    )
    address: str = Field(
        default="local",
        pattern="^(local|auto|[^/]+:[0-9]+)$",
        description='"local" starts a Ray of its own; "auto" or "host:port" joins a running one, '
        "from one of its nodes.",
    )
    deadline: float = Field(
        default=600.0, gt=0, description="Seconds after which a silent host counts as lost."
    )


def _by_dotted_name(value: Any) -> Any:
    """`model: my_module:build` is short for `model: {kind: python, factory: my_module:build}`."""
    return {"kind": "python", "factory": value} if isinstance(value, str) else value


class Experiment(Component):
    """Everything that decides a result, and where to compute it."""

    name: str = Field(
        default="experiment", pattern=r"^[\w.-]+$", description="Names the run folder."
    )
    question: str = Field(
        default="", description="What the experiment is to answer, in a sentence."
    )
    rounds: int = Field(ge=1, description="Rounds of training, unless the budget ends it earlier.")
    seed: int | None = Field(
        default=0,
        ge=0,
        strict=True,
        description=(
            "Root of all randomness; null draws noise from the OS and never writes it down."
        ),
    )
    budget: Budget = Field(default=Budget(), description="The most privacy that may be spent.")
    data: Annotated[
        BreastCancer | SyntheticImages | CsvFiles | PythonData,
        Field(discriminator="kind", description="Who holds which records."),
        BeforeValidator(
            _by_dotted_name,
            json_schema_input_type=str | BreastCancer | SyntheticImages | CsvFiles | PythonData,
        ),
    ]
    local_noise: RandomisedResponse | LocalGaussianRecords | None = Field(
        default=None,
        discriminator="kind",
        description="Noise on the records themselves, once, before anything is trained on them.",
    )
    model: Annotated[
        Linear | Mlp | PythonModel,
        Field(discriminator="kind", description="What is trained."),
        BeforeValidator(_by_dotted_name, json_schema_input_type=str | Linear | Mlp | PythonModel),
    ]
    trainer: Sgd | DpSgd | DistributedDpSgd = Field(
        discriminator="kind", description="How a client trains."
    )
    plan: Annotated[
        AskedPlan,
        Field(description="How training is computed; no plan changes more than the last bits."),
        BeforeValidator(plan_of, json_schema_input_type=str | AskedPlan),
    ] = AskedPlan()
    federation: Federation = Field(default=Federation(), description="What happens to updates.")
    evaluate_every: int = Field(default=1, ge=1, description="Rounds between two evaluations.")
    compare: Comparison | None = Field(
        default=None, description="Baselines without federation or privacy, for the closing table."
    )
    audit: Audit | None = Field(
        default=None, description="Checks of noise and sampling, and canaries, when the run ends."
    )
    debug: bool = Field(
        default=False, description="Log norms that no real server sees, outside the guarantee."
    )
    cluster: Cluster = Field(default=Cluster(), description="Where it runs.")

    @model_validator(mode="before")
    @classmethod
    def _one_clip_norm(cls, data: Any) -> Any:
        """The trainer's clip norm is the mechanism's too, where it clips records for it."""
        try:
            mechanism = data["federation"]["mechanism"]
            brings = mechanism["kind"] in ("discrete_gaussian", "skellam")
            if data["trainer"]["kind"] != "distributed_dp_sgd" or not brings:
                return data
            if "clip_norm" in mechanism:
                return data
            shared = dict(mechanism) | {"clip_norm": data["trainer"]["clip_norm"]}
        except (KeyError, TypeError):
            return data
        return data | {"federation": data["federation"] | {"mechanism": shared}}


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
        """A host that can carry any of the clients; it folds what is only ever added up."""
        experiment = self.experiment
        return Host(
            trainer=self.training(),
            mechanism=experiment.federation.mechanism,
            protocol=experiment.federation.protocol_for(self.dataset.population),
            codec=self.codec,
            randomness=self.randomness,
            by_record=isinstance(experiment.trainer, DistributedDpSgd),
            debug=experiment.debug,
            fold=fold,
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

    def settled(self, *, gpus: float) -> Assembled:
        """The same with the plan chosen that every host, and a run that is resumed, goes by.

        Args:
            gpus: that the hosts have.

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
        updates = math.ceil(experiment.rounds * cohort / max(1, experiment.cluster.hosts))
        plan = experiment.plan.settled(self._reference, updates=updates, gpus=gpus)
        return replace(self, experiment=experiment.model_copy(update={"plan": plan}))

    def round(self, transport: Transport) -> Round:
        """The server's side of every round, over `transport` with the scenario's dropouts."""
        experiment = self.experiment
        dropouts = experiment.federation.dropouts
        if dropouts.any:
            transport = FaultyTransport(transport, dropouts, self.randomness.public)
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
        )

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
            ledgers=[charge.ledger(self.ledger_delta) for charge in self.charges],
            mechanism=self.experiment.federation.mechanism.init(),
            plan=str(self.experiment.plan.plan),
        )

    def evaluate(self, params: torch.Tensor) -> dict[str, float]:
        """Metrics of `params` [d] on the pooled test set."""
        from codex_ray.learning.evaluation import (
            evaluate,
        )  # imports sklearn, which hosts do without

        return evaluate(self.model, params, self.dataset.test())

    def compare(self) -> Baselines | None:
        """The baselines that the experiment asks for; none in an unseeded run."""
        if self.experiment.compare is None or self.experiment.seed is None:
            return None
        fresh = build_model(self.experiment, self.given, self.dataset, self.randomness)
        # Baselines are without privacy: on the records as they are.
        held = self.dataset.dataset if isinstance(self.dataset, NoisedDataset) else self.dataset
        return self.experiment.compare.measure(fresh, held, public=self.randomness.public)


def build_model(
    experiment: Experiment, given: Given, dataset: FederatedDataset, randomness: Randomness
) -> Model:
    """The experiment's model with its initial weights."""
    example = torch.from_numpy(dataset.test().features[:1].copy())
    if given.model is not None:
        return given_model(given.model, randomness.public, example=example)
    return experiment.model.build(randomness.public, example=example)


def assemble(experiment: Experiment, given: Given | None = None) -> Assembled:
    """The experiment's components, checked against each other before anything runs.

    Raises:
        InputError: something does not fit; the message names the field and the remedy.
    """
    given = given or Given()
    _check_given(experiment, given)
    check_shared_step(experiment)
    check_budget(experiment)
    check_side_data(experiment)
    check_local_noise(experiment)
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
    if len(dataset.test()) == 0:
        raise ConfigError("data: the test set is empty, so nothing could be measured")
    if experiment.debug and experiment.seed is None:
        raise ConfigError(
            "debug is on, but figures outside the guarantee are for seeded simulations only: set "
            "debug: false or give a seed"
        )
    model = build_model(experiment, given, dataset, randomness)
    check_labels(dataset.test(), model.outputs, where="the test set")
    for client in range(min(dataset.population, CHECKED_CLIENTS)):
        check_labels(dataset.client(client), model.outputs, where=f"client {client}")
    initial = model.get()
    experiment.trainer.check(model, dataset.test())
    codec = experiment.federation.codec(
        population=dataset.population,
        dimension=len(initial),
        records=getattr(experiment.trainer, "summands", None),
    )
    return Assembled(
        experiment=experiment,
        given=given,
        randomness=randomness,
        dataset=dataset,
        model=model,
        initial=initial,
        codec=codec,
    )


def _opened(experiment: Experiment, given: Given, randomness: Randomness) -> FederatedDataset:
    """The data set as it is trained on: where there is local noise, nobody sees it without."""
    dataset: FederatedDataset
    if given.data is not None:
        dataset = CheckedDataset(given.data, "the given data set")
    else:
        dataset = experiment.data.open(randomness.public)
    if experiment.local_noise is None:
        return dataset
    return NoisedDataset(dataset, experiment.local_noise, randomness.secret)


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


def check_budget(experiment: Experiment) -> None:
    """Refuses a budget for a claim that nothing backs.

    Raises:
        ConfigError: an epsilon is set, but no noise is added anywhere.
    """
    private = experiment.trainer.kind != "sgd" or experiment.federation.mechanism.kind != "none"
    private = private or experiment.local_noise is not None
    if experiment.budget.epsilon is not None and not private:
        raise ConfigError(
            f"budget.epsilon is {experiment.budget.epsilon:g}, but nothing adds noise: set it to "
            "null, or use trainer.kind: dp_sgd or federation.mechanism.kind: gaussian"
        )


def check_shared_step(experiment: Experiment) -> None:
    """Refuses distributed DP-SGD without what makes it private.

    Raises:
        ConfigError: nobody would add noise, cohorts are sampled, or there are two clip norms.
    """
    trainer, federation = experiment.trainer, experiment.federation
    if not isinstance(trainer, DistributedDpSgd):
        return
    if not isinstance(federation.mechanism, NoiseInside):
        raise ConfigError(
            "trainer.kind is distributed_dp_sgd, whose clients send sums without noise: set "
            "federation.mechanism.kind to discrete_gaussian or skellam"
        )
    if federation.sampler.kind != "all":
        raise ConfigError(
            "federation.sampler: distributed_dp_sgd takes a batch of everybody's records each "
            "round: set kind to all, and trainer.sampling_rate for how many"
        )
    if federation.mechanism.clip_norm != trainer.clip_norm:
        raise ConfigError(
            f"federation.mechanism.clip_norm is {federation.mechanism.clip_norm:g}, but records "
            f"are clipped to trainer.clip_norm, {trainer.clip_norm:g}: leave it out"
        )
    if experiment.debug:
        raise ConfigError("debug: distributed_dp_sgd has no update of one client to tell of")


def check_local_noise(experiment: Experiment) -> None:
    """Refuses noised records where they would be drawn twice, or have two claims.

    Raises:
        ConfigError: there is no seed and several processes; or training makes a claim about
            records too.
    """
    noise = experiment.local_noise
    if noise is None:
        return
    if experiment.trainer.kind != "sgd":
        raise ConfigError(
            f"local_noise.kind is {noise.kind}, and trainer.kind {experiment.trainer.kind} makes "
            "a record-level claim of its own: leave one out (trainer.kind: sgd, or no local_noise)"
        )
    if experiment.seed is None and experiment.cluster.hosts:
        raise ConfigError(
            "local_noise without a seed: each host would draw noise of its own for the same "
            "records, which shows them twice: set cluster.hosts to 0, or give a seed"
        )


def check_resumable(experiment: Experiment) -> None:
    """Refuses to go on where that would show records under a second draw of local noise.

    Raises:
        ConfigError: the noise of the first one is lost, because there is no seed.
    """
    if experiment.local_noise is not None and experiment.seed is None:
        raise ConfigError(
            "local_noise without a seed: the noise on the records was kept in memory only, and "
            "another draw would show them a second time: start a new run, and count both"
        )


def check_side_data(experiment: Experiment) -> None:
    """Refuses exact figures of records that the trainer promises to protect.

    An update of DP-SGD may be published, and everything that follows from it. The number of records
    and the loss on them do not follow from it, and the ledger has no event for them.

    Raises:
        ConfigError: the mechanism asks for figures of the records under a record-level claim.
    """
    asked = sorted(experiment.federation.mechanism.asks)
    if asked and experiment.trainer.kind == "dp_sgd":
        field = "weights" if "records" in asked else "metrics"
        raise ConfigError(
            f"federation.mechanism.{field} sums exact figures of the clients' records "
            f"({', '.join(asked)}), which the record-level claim of trainer.kind dp_sgd does not "
            "cover: leave weights uniform and metrics out, or use trainer.kind: sgd"
        )


def _check_given(experiment: Experiment, given: Given) -> None:
    """Refuses what cannot reach where it is needed."""
    if experiment.cluster.hosts and (given.model is not None or given.data is not None):
        raise ConfigError(
            "cluster.hosts: Python objects cannot be sent to Ray hosts (nothing is pickled): name "
            "them as module:function, or set cluster.hosts to 0"
        )
    for field, component, value in (
        ("model", experiment.model, given.model),
        ("data", experiment.data, given.data),
    ):
        factory = getattr(component, "factory", "")
        if factory.startswith(GIVEN) and value is None:
            raise ConfigError(
                f"{field}: this run was given a Python object ({factory.removeprefix(GIVEN)}): "
                f"pass it again, as codex_ray.run(..., {field}=...)"
            )


def single_thread() -> None:
    """One thread for torch: the same arithmetic, in the same order, on every host."""
    torch.set_num_threads(1)


def long_lived() -> None:
    """For a process that lives as long as a run: one thread, and few searches for garbage.

    A round holds a few hundred thousand small objects until its end, all of which reference
    counting frees. The default collector walks through all of them dozens of times meanwhile.
    """
    single_thread()
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)
