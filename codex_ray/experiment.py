"""An experiment: one YAML file as one frozen object."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator, model_validator

from codex_ray.data.breast_cancer import BreastCancer
from codex_ray.data.image_files import ImageFiles
from codex_ray.data.prepared import PreparedData
from codex_ray.data.preparing import FIXED, Prepare
from codex_ray.data.python_factory import PythonData
from codex_ray.data.synthetic_images import SyntheticImages
from codex_ray.data.tables import CsvFiles
from codex_ray.errors import RunDirectoryError
from codex_ray.federation.federation import Federation
from codex_ray.learning.asked_plan import AskedPlan, plan_of
from codex_ray.learning.comparison import Comparison
from codex_ray.learning.distributed_dp_sgd import DistributedDpSgd
from codex_ray.learning.dp_sgd import DpSgd
from codex_ray.learning.local_noise import (
    LocalGaussianRecords,
    RandomisedResponse,
)
from codex_ray.learning.models import Linear, Mlp, PythonModel
from codex_ray.learning.trainers import Sgd
from codex_ray.records.elsewhere import check_address
from codex_ray.types import Component

GIVEN = "object:"
"""How the config of a run names an object that a caller handed over."""


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
    hosts_at_least: int | None = Field(
        default=None,
        ge=1,
        description="Hosts to begin with, whose places are reserved together; the others join the "
        "run whenever the cluster has room for them. Left out: all of them.",
    )
    address: str = Field(
        default="local",
        pattern="^(local|auto|(ray://)?[^/]+:[0-9]+)$",
        description='"local" starts a Ray of its own; "auto" or "host:port" joins a running one, '
        'from one of its nodes; "ray://host:port" has it run on one from anywhere.',
    )
    deadline: float = Field(
        default=600.0, gt=0, description="Seconds after which a silent host counts as lost."
    )
    metrics_port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="Port of a page for Prometheus, on loopback of the coordinator's node.",
    )
    checkpoints: str | None = Field(
        default=None,
        description="Where checkpoints are copied to: a path, or an address (s3://bucket/prefix).",
    )
    standby: bool = Field(
        default=True,
        description="A run whose rounds have gone on for five seconds has a second coordinator "
        "wait, built already, so that a lost one is replaced at once.",
    )
    insecure_local: bool = Field(
        default=False,
        description="Start or join a Ray that strangers could get into; the result says so.",
    )

    @field_validator("checkpoints")
    @classmethod
    def _without_secrets(cls, place: str | None) -> str | None:
        """Refused here, before it is written down anywhere."""
        if place is not None:
            try:
                check_address(place)
            except RunDirectoryError as error:
                raise ValueError(f"cluster.checkpoints: {error}") from None
        return place

    @model_validator(mode="after")
    def _check_at_least(self) -> Cluster:
        if self.hosts_at_least is not None and self.hosts_at_least > self.hosts:
            raise ValueError(
                f"hosts_at_least is {self.hosts_at_least}, but there are only {self.hosts} hosts"
            )
        return self

    @property
    def at_least(self) -> int:
        """How many hosts the run begins with."""
        return self.hosts if self.hosts_at_least is None else self.hosts_at_least


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
        BreastCancer | SyntheticImages | ImageFiles | CsvFiles | PreparedData | PythonData,
        Field(discriminator="kind", description="Who holds which records."),
        BeforeValidator(
            _by_dotted_name,
            json_schema_input_type=str
            | BreastCancer
            | SyntheticImages
            | ImageFiles
            | CsvFiles
            | PreparedData
            | PythonData,
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

    @property
    def preparation(self) -> Prepare:
        """By whose figures numbers are scaled; public ranges where the data say nothing of it."""
        return self.data.preparation if isinstance(self.data, CsvFiles | PreparedData) else FIXED

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
