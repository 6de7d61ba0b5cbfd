"""The plan of a run, by racing a few for two seconds and remembering what each of them took.

What is remembered is not the choice but the figures: seconds an update, and seconds before the
first. A long run and a short one may choose differently from the same figures. No run is made
slower by what it would have had to wait for: a race takes a fiftieth of its work at most, and a run
that is too short for one times nothing at all. How many hosts share the work chooses nothing that
an update's bits depend on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch

import codex_ray
from codex_ray.errors import ClusterError
from codex_ray.learning.batches import ShuffledBatches
from codex_ray.learning.compiled import reason_of, say_uncompiled
from codex_ray.learning.dp_sgd import DpSgd
from codex_ray.learning.epochs import still_to_compile
from codex_ray.learning.findings import (
    Finding,
    cache_folder,
    kernels_digest,
    processor,
    read_findings,
    write_findings,
)
from codex_ray.learning.kernels import lane_kernel, trainer_obstacle
from codex_ray.learning.plans import REFERENCE, Plan, Precision
from codex_ray.learning.race import SURE, Clock, clients, raced, timed
from codex_ray.learning.stacks import Stack
from codex_ray.learning.trainers import LocalTraining, Sgd, StepTrainer
from codex_ray.learning.vectorised import VectorisedTraining
from codex_ray.randomness import SeedTree

LOG = logging.getLogger(__name__)
SHARE: Final = 0.02
"""Of a run's work that trying may take. Where that is too little, nothing is tried or timed."""
COMPILING: Final = 60.0
"""Seconds that compiling may take, before it is known."""
PAYS: Final = 10
"""Compiling is tried where the work is so many times as long, and so can at most cost a tenth."""
NO_STACK: Final = "the model is no stack of common layers"
LANES: Final = (4, 8, 16, 32, 64)
DEVICE_LANES: Final = (32, 128, 256, 512)
UNTRIED: Final = 16
"""Clients at a time where nothing is tried."""
DEVICE_UNTRIED: Final = 256
"""And elsewhere than on a CPU."""
ROOM: Final = 1 << 23
"""Bytes of weights and noise that a chunk may take on a CPU, so that they stay in its cache."""
DEVICE_ROOM: Final = 1 << 30
"""And elsewhere."""
NEARLY: Final = 1.03
"""Of plans that are within so little of the fastest, the one with the smallest chunk is taken."""


@dataclass(frozen=True)
class Autotune:
    """Finds the plan of one run.

    Attributes:
        training: what is to be trained.
        updates: how many client updates the run has, on all hosts: rounds times cohort.
        device: where.
        precision: of products.
        hosts: how many share the updates.
        cores: of this machine, which all wait where something is compiled.
        folder: where findings are kept; None for `cache_folder()`.
        clock: CPU seconds that have gone by in this process.
        wall: seconds that have gone by: compilers are processes of their own.
    """

    training: LocalTraining
    updates: int
    device: str = "cpu"
    precision: Precision = "float32"
    hosts: int = 1
    cores: int = field(default_factory=lambda: os.cpu_count() or 1)
    folder: Path | None = None
    clock: Clock = time.process_time
    wall: Clock = time.perf_counter

    def plan(self) -> Plan:
        """The plan that does this run's work soonest, by what is known or can be found out.

        Where clients cannot be trained together the log says why.
        """
        found = trainer_obstacle(self.training.trainer) or self._chosen()
        if isinstance(found, str):
            return alone(self.training, self._vectorised(1), found)
        if not self._on_device() and not self._is_stack():
            LOG.warning("clients are trained one at a time: %s", NO_STACK)
        return found

    def _chosen(self) -> Plan | str:
        """The plan, or why nothing but the reference can train the model."""
        if not self._is_there():
            return self._if_possible(self._untried())
        known = read_findings(self._file())
        if known is None:
            contenders = self._contenders()
            if (1 + SURE) * clients(contenders) > SHARE * self._share:
                return self._if_possible(self._untried())
            obstacle = self._obstacle(contenders[0])
            if obstacle is not None:
                return obstacle
            known = self._raced(contenders)
            if not known:  # A single chunk takes too long, or finds no memory on the device.
                return contenders[0] if self._on_device() else self._untried()
            write_findings(self._file(), known)
        if self._compiling_pays(known):
            known = [*known, *self._compiled()]
            write_findings(self._file(), known)
        return self._best(known)

    @property
    def _share(self) -> int:
        """The updates of whose work trying may take a part: one host's, as far as bits allow.

        What a stack on a CPU is timed for changes none. Elsewhere the same must be tried, and so
        chosen, on every number of hosts.
        """
        bits_are_equal = not self._on_device() and self._is_stack()
        return math.ceil(self.updates / self.hosts) if bits_are_equal else self.updates

    def _best(self, known: Sequence[Finding]) -> Plan:
        """The plan with the least work, or nearly, and the smallest chunk."""
        work = {one.plan: one.work(self.updates, self._waiting) for one in known}
        near = [plan for plan, took in work.items() if took <= NEARLY * min(work.values())]
        return min(near, key=lambda plan: plan.clients)

    @property
    def _waiting(self) -> int:
        """How many cores wait while one compiles.

        Not how many hosts: that may choose nothing that bits depend on. On one machine there are
        hardly more of them than cores.
        """
        return 1 if self._on_device() else self.cores

    def _contenders(self) -> list[Plan]:
        """The plans that there are to choose from, but for compiling; first one with a kernel.

        A stack on a CPU is always vectorised. Its chunk is nothing to the bits of an update, so
        whatever is timed, and on whatever machine, its results are the same.
        """
        if self._on_device():
            return self._sizes(DEVICE_LANES)
        return self._sizes(LANES) if self._is_stack() else [self._vectorised(1), *self._reference()]

    def _reference(self) -> list[Plan]:
        """The reference, if it is as precise as is asked for."""
        return [REFERENCE] if self.precision == "float32" else []

    def _sizes(self, lanes: Sequence[int]) -> list[Plan]:
        """Plans with so many lanes, as far as there is room and there are clients for them."""
        most = self._at_most(max(lanes))
        return [self._vectorised(n) for n in lanes if n <= most] or [self._vectorised(most)]

    def _at_most(self, clients: int) -> int:
        """So many clients at a time, or as many as there are and have room.

        On a CPU two lanes at least: a lone one has other bits than one among others.
        """
        most = min(clients, self.updates, self._room())
        return most if self._on_device() else max(2, most)

    def _room(self) -> int:
        """For how many clients there is room; two, if there is hardly any."""
        floats = 2 * self.training.dimension
        if self._on_device():
            floats += self._held()
        room = DEVICE_ROOM if self._on_device() else ROOM
        return max(2, room // (4 * floats))

    def _held(self) -> int:
        """How many floats of gradients a client's clipped step holds, one gradient for each row."""
        trainer = self.training.trainer
        if not isinstance(trainer, DpSgd):
            return 0
        stack = Stack.of(self.training.model.module, self._shape())
        each = self.training.dimension if stack is None else stack.held
        if isinstance(trainer.batches, ShuffledBatches):
            return trainer.batches.batch_size * each
        records = len(self.training.dataset.client(0))
        mean = trainer.batches.sampling_rate * records
        return min(records, math.ceil(mean + 3 * math.sqrt(mean))) * each

    def _untried(self) -> Plan:
        """A plan for so little work that finding a better one would take longer."""
        if self._on_device():
            return self._vectorised(self._at_most(DEVICE_UNTRIED))
        if not self._is_stack():
            return (*self._reference(), self._vectorised(1))[0]
        return self._vectorised(self._at_most(UNTRIED))

    def _if_possible(self, plan: Plan) -> Plan | str:
        """The plan, or why the model has no kernel for it."""
        return plan if plan == REFERENCE else self._obstacle(plan) or plan

    def _vectorised(self, clients: int) -> Plan:
        return Plan(
            kernel="vectorised",
            clients=max(1, clients),
            precision=self.precision,
            device=self.device,
        )

    def _raced(self, contenders: Sequence[Plan]) -> list[Finding]:
        """What each takes at best; nothing is left on a device, whose hosts need its memory."""
        runs = {plan: self._run(plan) for plan in contenders}
        found = raced(runs, clock=self._clock, most=SHARE * self._share)
        runs.clear()
        torch.cuda.empty_cache()
        return found

    @property
    def _clock(self) -> Clock:
        """What times a run: CPU seconds, but for a device, that the CPU only waits for."""
        return self.wall if self._on_device() else self.clock

    def _run(self, plan: Plan) -> Callable[[], object]:
        """Trains one chunk by the plan, and throws its updates away."""
        population = self.training.dataset.population
        some = [at % population for at in range(plan.clients)]
        # What is drawn here must not be what a round draws.
        aside = replace(self.training, streams=SeedTree(hashlib.sha256(b"autotune").digest()))
        training = aside if plan == REFERENCE else VectorisedTraining(aside, plan)
        params = self.training.model.get()
        return lambda: training.train(params, some, 0).sum().item()  # waits for a device

    def _compiling_pays(self, known: Sequence[Finding]) -> bool:
        """Whether there is work enough that compiling may gain, and it has not been tried.

        Stacks are never compiled: done by hand they are faster than compiled.
        """
        if self._is_stack() or any(one.plan.kernel == "compiled" for one in known):
            return False
        if min(one.work(self.updates) for one in known) <= PAYS * COMPILING * self._waiting:
            return False
        return self._obstacle(self._compiled_plan()) is None

    def _compiled_plan(self) -> Plan:
        clients = DEVICE_LANES[1] if self._on_device() else 1
        return self._vectorised(clients).model_copy(update={"kernel": "compiled"})

    def _compiled(self) -> list[Finding]:
        """What the compiled plan takes, and how long compiling takes before it, for all clients.

        Nothing where it cannot be compiled: that is no finding, and the log says so.
        """
        plan = self._compiled_plan()
        run = self._run(plan)
        try:
            with _nothing_compiled():
                first = timed(run, self.wall)
            best = min(timed(run, self._clock) for _ in range(3))
        except ClusterError as error:
            say_uncompiled(reason_of(error))
            return []
        if math.isinf(max(first, best)):
            return []
        trainer = self.training.trainer
        assert isinstance(trainer, Sgd | DpSgd)  # There is a kernel for no other.
        records = len(self.training.dataset.client(0))
        before = max(0.0, first - best) * still_to_compile(trainer.batches, records)
        return [Finding(plan=plan, seconds=best / plan.clients, before=before)]

    def _shape(self) -> tuple[int, ...]:
        return self.training.dataset.client(0).features.shape[1:]

    def _on_device(self) -> bool:
        """Whether it is elsewhere than on a CPU."""
        return torch.device(self.device).type != "cpu"

    def _is_stack(self) -> bool:
        return Stack.of(self.training.model.module, self._shape()) is not None

    def _is_there(self) -> bool:
        """Whether this process has the device: a driver may settle for hosts that alone have it."""
        return torch.device(self.device).type != "cuda" or torch.cuda.is_available()

    def _obstacle(self, plan: Plan) -> str | None:
        """Why the model has no kernel for the plan; None if it has."""
        training = self.training
        if not self._is_there():
            plan = plan.model_copy(update={"device": "cpu"})
        found = lane_kernel(training.model, training.trainer, plan, example=self._shape())
        return found if isinstance(found, str) else None

    def _file(self) -> Path:
        """One file for whatever the figures depend on."""
        module = self.training.model.module
        what = {
            "codex_ray": [codex_ray.__version__, kernels_digest()],
            "torch": torch.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "machine": [platform.machine(), processor(), torch.get_num_threads()],
            "model": [str(module), [list(shape) for _, shape in self.training.model.names()]],
            "record": list(self._shape()),
            "records": len(self.training.dataset.client(0)),
            "trainer": repr(self.training.trainer),
            "device": [self.device, self.precision],
        }
        key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
        return (self.folder or cache_folder()) / f"plan-{key[:32]}.json"


def alone(training: LocalTraining, plan: Plan, reason: str) -> Plan:
    """The reference, in the place of a plan that has no kernel for the training: the log says why.

    It does not where each client sends what many records' steps add up to: that is never together.
    """
    lost = "" if plan.precision == "float32" else ", and in float32"
    lost += ", on the CPU" if torch.device(plan.device).type != "cpu" else ""
    if lost or not isinstance(training.trainer, StepTrainer):
        LOG.warning("clients are trained one at a time%s: %s", lost, reason)
    return REFERENCE


def _nothing_compiled() -> AbstractContextManager[None]:
    """In the block nothing is found that was compiled before: findings are kept for longer."""
    from torch._inductor.utils import fresh_cache  # torch has no public name for it

    found: AbstractContextManager[None] = fresh_cache()
    return found
