"""The plan of a run, by racing a few for two seconds and remembering what each of them took.

What is remembered is not the choice but the figures: seconds an update, and seconds before the
first. A long run and a short one may choose differently from the same figures. No run is made
slower by what it would have had to wait for: a race takes a fiftieth of its work at most, and a run
that is too short for one times nothing at all.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Final

import numpy as np
import torch

from codex_ray.learning.findings import (
    Finding,
    cache_folder,
    processor,
    read_findings,
    write_findings,
)
from codex_ray.learning.kernels import lane_kernel
from codex_ray.learning.plans import REFERENCE, Plan, Precision
from codex_ray.learning.stacks import Stack
from codex_ray.learning.trainers import LocalTraining
from codex_ray.learning.vectorised import VectorisedTraining
from codex_ray.randomness import SeedTree

BUDGET: Final = 2.0
"""CPU seconds that trying takes, but for compiling, which is tried where it may pay."""
SHARE: Final = 0.02
"""Of a run's work that trying may take. Where that is too little, nothing is tried or timed."""
TURNS: Final = 12
"""How often each contender that is still in the race is timed, at most."""
SURE: Final = 3
"""How often each contender is timed before any is out of the race."""
FAR: Final = 1.1
"""One that then takes so many times as long as the fastest is out."""
COMPILING: Final = 60.0
"""Seconds that compiling may take, before it is known."""
PAYS: Final = 10
"""Compiling is tried where the work is so many times as long, and so can at most cost a tenth."""
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


Clock = Callable[[], float]


@dataclass(frozen=True)
class Autotune:
    """Finds the plan of one run.

    Attributes:
        training: what is to be trained.
        updates: how many client updates the run has: rounds times cohort, on one host.
        device: where.
        precision: of products.
        folder: where findings are kept; None for `cache_folder()`.
        clock: seconds that have gone by.
    """

    training: LocalTraining
    updates: int
    device: str = "cpu"
    precision: Precision = "float32"
    folder: Path | None = None
    clock: Clock = time.process_time

    def plan(self) -> Plan:
        """The plan that does this run's work soonest, by what is known or can be found out."""
        known = read_findings(self._file())
        if known is None:
            contenders = self._contenders()
            if (1 + SURE) * _clients(contenders) > SHARE * self.updates:
                return self._or_reference(self._untried())
            if not self._has_kernel(contenders[0]):
                return REFERENCE
            known = self._raced(contenders)
            if not known:  # A single chunk takes too long.
                return self._untried()
            write_findings(self._file(), known)
        if self._compiling_pays(known):
            known = [*known, self._compiled()]
            write_findings(self._file(), known)
        return self._best(known)

    def _best(self, known: Sequence[Finding]) -> Plan:
        """The plan with the least work, or nearly, and the smallest chunk."""
        least = min(one.work(self.updates) for one in known)
        near = [one.plan for one in known if one.work(self.updates) <= NEARLY * least]
        return min(near, key=lambda plan: plan.clients)

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
        most = min(self.updates, self._room())
        return [self._vectorised(n) for n in lanes if n <= most] or [self._vectorised(most)]

    def _room(self) -> int:
        """For how many clients there is room; two, if there is hardly any."""
        room = DEVICE_ROOM if self._on_device() else ROOM
        return max(2, room // (2 * 4 * self.training.dimension))

    def _untried(self) -> Plan:
        """A plan for so little work that finding a better one would take longer."""
        if self._on_device():
            return self._vectorised(min(DEVICE_UNTRIED, self.updates, self._room()))
        if not self._is_stack():
            return (*self._reference(), self._vectorised(1))[0]
        return self._vectorised(min(UNTRIED, self.updates, self._room()))

    def _or_reference(self, plan: Plan) -> Plan:
        """The plan, if the model and the trainer have a kernel for it."""
        return plan if plan == REFERENCE or self._has_kernel(plan) else REFERENCE

    def _vectorised(self, clients: int) -> Plan:
        return Plan(
            kernel="vectorised",
            clients=max(1, clients),
            precision=self.precision,
            device=self.device,
        )

    def _raced(self, contenders: Sequence[Plan]) -> list[Finding]:
        """What each takes at best, timed in turns until one is clearly ahead or time is up.

        Whatever else the machine does falls on all of them alike, and the least time of a few is
        what a plan takes when it is left alone.
        """
        runs = {plan: self._run(plan) for plan in contenders}
        best, racing = dict.fromkeys(contenders, float("inf")), list(contenders)
        began, spent = self.clock(), 0
        for turn in range(TURNS + 1):
            for plan in racing:
                seconds = self._timed(runs[plan]) / plan.clients
                if turn:  # the first makes room, and fills caches
                    best[plan] = min(best[plan], seconds)
                if self.clock() - began > BUDGET:
                    return _timed_ones(best)
            spent += _clients(racing)
            if turn >= SURE:
                racing = [plan for plan in racing if best[plan] <= FAR * min(best.values())]
            if len(racing) == 1 or spent + _clients(racing) > SHARE * self.updates:
                break
        return _timed_ones(best)

    def _timed(self, run: Callable[[], object]) -> float:
        """Seconds that the call takes."""
        began = self.clock()
        run()
        return max(self.clock() - began, 1e-9)

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
        if not self._has_kernel(self._compiled_plan()):
            return False
        return min(one.work(self.updates) for one in known) > PAYS * COMPILING

    def _compiled_plan(self) -> Plan:
        clients = DEVICE_LANES[1] if self._on_device() else 1
        return self._vectorised(clients).model_copy(update={"kernel": "compiled"})

    def _compiled(self) -> Finding:
        """What the compiled plan takes, and how long compiling takes before it."""
        plan = self._compiled_plan()
        run = self._run(plan)
        first = self._timed(run)
        best = min(self._timed(run) for _ in range(3))
        return Finding(plan=plan, seconds=best / plan.clients, before=max(0.0, first - best))

    def _shape(self) -> tuple[int, ...]:
        return self.training.dataset.client(0).features.shape[1:]

    def _on_device(self) -> bool:
        """Whether it is elsewhere than on a CPU."""
        return torch.device(self.device).type != "cpu"

    def _is_stack(self) -> bool:
        return Stack.of(self.training.model.module, self._shape()) is not None

    def _has_kernel(self, plan: Plan) -> bool:
        training = self.training
        found = lane_kernel(training.model, training.trainer, plan, example=self._shape())
        return not isinstance(found, str)

    def _file(self) -> Path:
        """One file for whatever the figures depend on."""
        module = self.training.model.module
        what = {
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


def _clients(plans: Sequence[Plan]) -> int:
    """Client updates that it takes to time every plan once."""
    return sum(plan.clients for plan in plans)


def _timed_ones(best: Mapping[Plan, float]) -> list[Finding]:
    """What was found of those that were timed."""
    return [Finding(plan=plan, seconds=took) for plan, took in best.items() if isfinite(took)]
