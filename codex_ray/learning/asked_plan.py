"""What an experiment says of its plan, and how what it leaves open is settled before round 0."""

from __future__ import annotations

import logging
from typing import Any, Literal

import torch
from pydantic import Field, field_validator, model_validator

from codex_ray.errors import ConfigError
from codex_ray.learning.autotune import DEVICE_UNTRIED, NO_STACK, UNTRIED, Autotune, alone
from codex_ray.learning.compiled import say_uncompiled
from codex_ray.learning.kernels import compiler_obstacle, lane_kernel
from codex_ray.learning.plans import REFERENCE, KernelName, Plan, Precision
from codex_ray.learning.trainers import LocalTraining
from codex_ray.types import Component

LOG = logging.getLogger(__name__)
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
        """The plan that is meant; the reference, as long as something is open that bits hang on."""
        if self.kernel == "auto" or self.clients is None or self.device == "auto":
            return REFERENCE
        return self._as(self.kernel, self.clients, self.device)

    def settled(
        self, training: LocalTraining, *, updates: int, gpus: float, hosts: int = 1
    ) -> AskedPlan:
        """The same with nothing open: what is fastest for a run of so many client updates.

        Where clients cannot be trained by what is asked for the log says so, once and here: hosts
        have no log that anybody reads.

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
            found = _trainable(found, training)
        found = _possible(found, training)
        if found.product == torch.bfloat16 and not _has_bfloat16(found.device):
            LOG.warning(
                "plan.precision is bfloat16, for which this CPU has no instructions: training is "
                "as precise as it says, but slower than with float32"
            )
        return AskedPlan(**found.model_dump())


def _trainable(plan: Plan, training: LocalTraining) -> Plan:
    """The plan with as many lanes as its kernel has, or the reference where it has no kernel."""
    here = plan if _is_here(plan) else plan.model_copy(update={"device": "cpu"})
    example = training.dataset.client(0).features.shape[1:]
    kernel = lane_kernel(training.model, training.trainer, here, example=example)
    if isinstance(kernel, str):
        return alone(training, plan, kernel)
    lanes = kernel.lanes(plan)
    if lanes < plan.clients and plan.kernel == "vectorised":
        LOG.warning("clients are trained one at a time: %s", NO_STACK)
    return plan.model_copy(update={"clients": lanes})


def _possible(plan: Plan, training: LocalTraining) -> Plan:
    """The plan, without compiling where this machine cannot."""
    if plan.kernel != "compiled" or not _is_here(plan):
        return plan
    reason = compiler_obstacle(training, plan)
    if reason is None:
        return plan
    say_uncompiled(reason)
    return plan.model_copy(update={"kernel": "vectorised"})


def _is_here(plan: Plan) -> bool:
    """Whether this process has the plan's device; a driver may have none of its hosts' GPUs."""
    return not plan.on_gpu or torch.cuda.is_available()


def _has_bfloat16(device: str) -> bool:
    """Whether there are instructions for it: every GPU that torch supports has, and some CPUs."""
    if torch.device(device).type != "cpu":
        return True
    known = torch.cpu.get_capabilities()
    return any(known.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def plan_of(value: Any) -> Any:
    """`plan: auto` and `plan: reference` are short for a plan with that kernel."""
    return {"kernel": value} if isinstance(value, str) else value
