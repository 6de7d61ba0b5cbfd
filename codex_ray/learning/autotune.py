"""The plan of a run, by trying a few for two seconds and remembering what each of them took.

What is remembered is not the choice but the figures: seconds an update, and seconds before the
first. A long run and a short one may choose differently from the same figures, and no run is made
slower than the reference by what it would have had to wait for.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from pydantic import Field, TypeAdapter, ValidationError

from codex_ray.learning.kernels import lane_kernel
from codex_ray.learning.plans import REFERENCE, Plan, Precision
from codex_ray.learning.stacks import Stack
from codex_ray.learning.trainers import LocalTraining
from codex_ray.learning.vectorised import VectorisedTraining
from codex_ray.randomness import SeedTree
from codex_ray.types import Component

LOG = logging.getLogger(__name__)
BUDGET: Final = 2.0
"""CPU seconds that trying takes, but for compiling, which is tried where it may pay."""
WORTH_TRYING: Final = 2 * BUDGET
"""Seconds of work by the reference below which nothing is tried."""
COMPILING: Final = 60.0
"""Seconds that compiling may take, before it is known."""
PAYS: Final = 10
"""Compiling is tried where the work is so many times as long, and so can at most cost a tenth."""
LANES: Final = (1, 2, 4, 8, 16, 32, 64)
DEVICE_LANES: Final = (32, 128, 256, 512)
UNTRIED: Final = 8
"""Clients at a time where nothing is tried."""
ROOM: Final = 1 << 24
"""Bytes of weights and noise that a chunk may take on a CPU, so that they stay in its cache."""
DEVICE_ROOM: Final = 1 << 30
"""And elsewhere."""
NEARLY: Final = 1.03
"""Of plans that are within so little of the fastest, the one with the smallest chunk is taken."""


class Finding(Component):
    """What one plan took, in CPU seconds of this machine.

    Attributes:
        plan: which.
        seconds: of one client's update.
        before: the first update: compiling.
    """

    plan: Plan
    seconds: float = Field(gt=0)
    before: float = Field(default=0.0, ge=0)

    def work(self, updates: int) -> float:
        """Seconds that so many updates take."""
        return self.before + updates * self.seconds


_FINDINGS: Final = TypeAdapter(list[Finding])
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
        known = self._read()
        if known is None:
            first = self._measured(REFERENCE, clients=1)
            if first.work(self.updates) < WORTH_TRYING:
                return self._untried()
            known = [first, *self._tried()]
            self._write(known)
        if self._compiling_pays(known):
            known = [*known, self._compiled()]
            self._write(known)
        return self._best(known)

    def _best(self, known: Sequence[Finding]) -> Plan:
        """The plan with the least work, or nearly, and the smallest chunk."""
        fair = [one for one in known if self._is_asked_for(one.plan)] or list(known)
        least = min(one.work(self.updates) for one in fair)
        near = [one.plan for one in fair if one.work(self.updates) <= NEARLY * least]
        return min(near, key=lambda plan: plan.clients)

    def _is_asked_for(self, plan: Plan) -> bool:
        """Whether it computes where and as precisely as the run is to."""
        return (plan.device, plan.precision) == (self.device, self.precision)

    def _untried(self) -> Plan:
        """A plan for so little work that finding a better one would take longer."""
        plan = self._vectorised(min(UNTRIED, self.updates))
        if plan.device == "cpu" and not self._is_stack():
            return REFERENCE
        return plan if self._has_kernel(plan) else REFERENCE

    def _vectorised(self, clients: int) -> Plan:
        return Plan(
            kernel="vectorised",
            clients=max(1, clients),
            precision=self.precision,
            device=self.device,
        )

    def _tried(self) -> Iterator[Finding]:
        """Chunks of more and more clients, until they gain nothing or time is up."""
        began, best, worse = self.clock(), float("inf"), 0
        on_device = torch.device(self.device).type != "cpu"
        for clients in DEVICE_LANES if on_device else LANES:
            plan = self._vectorised(clients)
            memory = 2 * clients * self.training.dimension * 4
            if (
                memory > (DEVICE_ROOM if on_device else ROOM)
                or clients > self.updates
                or not self._has_kernel(plan)
            ):
                return
            found = self._measured(plan, clients=2 * clients)
            yield found
            worse = worse + 1 if found.seconds > best else 0
            best = min(best, found.seconds)
            if worse == 2 or self.clock() - began > BUDGET or not (self._is_stack() or on_device):
                return

    def _measured(self, plan: Plan, *, clients: int) -> Finding:
        """What the plan takes for some clients, the better of two times after a first."""
        population = self.training.dataset.population
        some = [at % population for at in range(clients)]
        # What is drawn here is thrown away, and must not be what a round draws.
        aside = replace(self.training, streams=SeedTree(hashlib.sha256(b"autotune").digest()))
        training = aside if plan == REFERENCE else VectorisedTraining(aside, plan)
        params = self.training.model.get()
        times = []
        for _ in range(3):
            began = self.clock()
            training.train(params, some, 0).sum().item()  # waits for a device
            times.append(self.clock() - began)
        best = max(min(times[1:]), 1e-9) / clients
        compiling = max(0.0, times[0] - best * clients) if plan.kernel == "compiled" else 0.0
        return Finding(plan=plan, seconds=best, before=compiling)

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
        clients = 1 if torch.device(self.device).type == "cpu" else DEVICE_LANES[1]
        return self._vectorised(clients).model_copy(update={"kernel": "compiled"})

    def _compiled(self) -> Finding:
        plan = self._compiled_plan()
        return self._measured(plan, clients=2 * plan.clients)

    def _shape(self) -> tuple[int, ...]:
        return self.training.dataset.client(0).features.shape[1:]

    def _is_stack(self) -> bool:
        return Stack.of(self.training.model.module, self._shape()) is not None

    def _has_kernel(self, plan: Plan) -> bool:
        training = self.training
        found = lane_kernel(training.model, training.trainer, plan, example=self._shape())
        return not isinstance(found, str)

    def _read(self) -> list[Finding] | None:
        """What is remembered; None if that is nothing, or nothing that can be read."""
        try:
            known = _FINDINGS.validate_json(self._file().read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError):
            known = []
        if not known:
            LOG.warning("%s cannot be read: plans are tried again", self._file())
        return known or None

    def _write(self, known: Sequence[Finding]) -> None:
        """Remembers the findings; a folder that cannot be written is no reason to stop."""
        file = self._file()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as beside:
                beside.write(_FINDINGS.dump_json(list(known), indent=1))
            Path(beside.name).replace(file)
        except OSError as error:
            LOG.warning("%s cannot be written (%s): plans are tried again next time", file, error)

    def _file(self) -> Path:
        """One file for whatever the figures depend on."""
        module = self.training.model.module
        what = {
            "torch": torch.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "machine": [platform.machine(), _processor(), torch.get_num_threads()],
            "model": [str(module), [list(shape) for _, shape in self.training.model.names()]],
            "record": list(self._shape()),
            "records": len(self.training.dataset.client(0)),
            "trainer": repr(self.training.trainer),
            "device": [self.device, self.precision],
        }
        key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
        return (self.folder or cache_folder()) / f"plan-{key[:32]}.json"


def cache_folder() -> Path:
    """$CODEX_RAY_CACHE, or else ~/.cache/codex_ray."""
    named = os.environ.get("CODEX_RAY_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "codex_ray"


def _processor() -> str:
    """What the processor calls itself."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()
