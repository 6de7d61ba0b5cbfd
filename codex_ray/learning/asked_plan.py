"""What an experiment says of its plan, and how what it leaves open is settled before round 0."""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field, field_validator, model_validator

from codex_ray.errors import ConfigError
from codex_ray.learning.autotune import DEVICE_UNTRIED, UNTRIED, Autotune
from codex_ray.learning.compiled import say_uncompiled
from codex_ray.learning.kernels import compiler_obstacle
from codex_ray.learning.plans import REFERENCE, KernelName, Plan, Precision
from codex_ray.learning.trainers import LocalTraining
from codex_ray.types import Component

_SHORT = {"bf16": "bfloat16", "fp32": "float32"}


class AskedPlan(Component):
    """How local training is computed: what is open is chosen before round 0, and written down."""

    kernel: Literal["auto"] | KernelName = Field(
        default="auto",
        description="reference: one client at a time; vectorised: many in one program; compiled: "
        "local epochs through torch.compile; auto: the fastest of them for this run.",
    )
    clients: int | None = Field(
        default=None, ge=1, description="Clients trained at a time; null: as many as is fastest."
    )
    precision: Precision = Field(
        default="float32",
        description="In what type matrices are multiplied; parameters and sums are float32.",
    )
    device: str = Field(
        default="auto", description="cpu, cuda or cuda:1; auto: a GPU, where hosts have one."
    )

    @field_validator("precision", mode="before")
    @classmethod
    def _in_full(cls, value: Any) -> Any:
        """`bf16` is short for `bfloat16`."""
        return _SHORT.get(value, value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> AskedPlan:
        if self.kernel == "auto":
            if self.clients is not None:
                raise ValueError(
                    f"plan.clients is {self.clients}, but plan.kernel is auto, which chooses both: "
                    "set plan.kernel too, or leave plan.clients out"
                )
            self._as("vectorised", 1, self._device("cpu"))
        else:
            self._as(self.kernel, self.clients or 1, self._device("cpu"))
        return self

    def _device(self, otherwise: str) -> str:
        return otherwise if self.device == "auto" else self.device

    def _as(self, kernel: KernelName, clients: int, device: str) -> Plan:
        return Plan(kernel=kernel, clients=clients, precision=self.precision, device=device)

    @property
    def plan(self) -> Plan:
        """The plan that is meant; the reference, as long as something is open."""
        if self.kernel == "auto" or self.clients is None or self.device == "auto":
            return REFERENCE
        return self._as(self.kernel, self.clients, self.device)

    def settled(
        self, training: LocalTraining, *, updates: int, gpus: float, hosts: int = 1
    ) -> AskedPlan:
        """The same with nothing open: what is fastest for a run of so many client updates.

        Where steps were to be compiled and cannot be, they are not, and the log says so.

        Args:
            training: by the reference.
            updates: of the whole run, on all hosts.
            gpus: that the hosts have.
            hosts: how many there are.

        Raises:
            ConfigError: the plan names a GPU, and there is none.
        """
        device = self._device("cuda" if gpus else "cpu")
        on_gpu = Plan(device=device).on_gpu
        if on_gpu and not gpus:
            raise ConfigError(f"plan.device is {device}, but there is no GPU: set it to auto")
        if self.kernel == "auto":
            found = Autotune(training, updates, device, self.precision, hosts).plan()
        elif self.kernel == "reference":
            found = self._as("reference", 1, device)
        else:
            # Two lanes at least on a CPU: a lone one has other bits than one among others.
            least, most = (1, DEVICE_UNTRIED) if on_gpu else (2, UNTRIED)
            found = self._as(self.kernel, self.clients or max(least, min(most, updates)), device)
        return AskedPlan(**_possible(found, training).model_dump())


def _possible(plan: Plan, training: LocalTraining) -> Plan:
    """The plan, without compiling where this machine cannot."""
    if plan.kernel != "compiled" or (plan.on_gpu and not torch.cuda.is_available()):
        return plan
    reason = compiler_obstacle(training, plan)
    if reason is None:
        return plan
    say_uncompiled(reason)
    return plan.model_copy(update={"kernel": "vectorised"})


def plan_of(value: Any) -> Any:
    """`plan: auto` and `plan: reference` are short for a plan with that kernel."""
    return {"kernel": value} if isinstance(value, str) else value
