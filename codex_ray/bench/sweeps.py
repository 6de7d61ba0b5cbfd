"""`codex-ray bench sweep`: what a sweep costs beyond its runs, in CPU seconds of everybody.

The sweep is the command as a person gives it, with all that it starts: Ray's own processes, Tune,
trial processes, tables and pictures. Against it stand the same runs one after the other in one
process of its own, from its first import on. Both must end with the same models, to the bit.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any, Final

from codex_ray.api import run
from codex_ray.bench.bars import Figure, Row, at_least, at_most
from codex_ray.bench.parts import Part
from codex_ray.bench.processes import cpu_by_role, family, machine_seconds, taken_by_others
from codex_ray.cluster.processes import words_of
from codex_ray.config import override
from codex_ray.errors import ClusterError
from codex_ray.sweeping.journal import SweepFolder
from codex_ray.sweeping.settings import Planner
from codex_ray.threads import long_lived

NOISE: Final = "federation.mechanism.noise_multiplier"
CLIP: Final = "federation.mechanism.clip_norm"
NOISES: Final = (0.9, 1.3, 1.8, 2.6, 3.6, 7.2)
CLIPS: Final = (0.25, 0.5, 1.0, 2.0)
SEEDS: Final = (0, 1)
RUN_SECONDS: Final = 15.0
"""CPU seconds that a run takes at least: a shorter one is no measure of what a trial costs."""
SPARE: Final = 1.15
"""Runs are made longer by this much than a first look says that they have to be."""
FIRST_LOOK: Final = (5, 45)
"""Rounds of two short runs, whose difference tells what a round takes."""
BAR: Final = 1.25
COMMAND: Final = (sys.executable, "-m", "codex_ray.cli")
LOOKS: Final = 0.2
"""Seconds between two looks at who has used how much."""
PATIENCE: Final = 20.0
"""Seconds that processes may take to be gone after the command."""
SET_CHILD_SUBREAPER: Final = 36
"""Of prctl(2), Linux."""
DEVICES: Final[dict[str, Any]] = {
    "name": "cross_device",
    "rounds": 50,
    "seed": 0,
    "data": {"kind": "synthetic_images", "clients": 1000},
    "model": {"kind": "mlp", "hidden": [32], "outputs": 10},
    "trainer": {
        "kind": "sgd",
        "learning_rate": 1.0,
        "batches": {"kind": "shuffled", "batch_size": 20, "epochs": 1},
    },
    "federation": {
        "sampler": {"kind": "poisson", "rate": 0.1},
        "protocol": {"kind": "ideal"},
        "mechanism": {"kind": "gaussian", "clip_norm": 1.0, "noise_multiplier": 1.8},
        "algorithm": {"kind": "fedavg", "learning_rate": 1.0, "momentum": 0.5},
        "dropouts": {"after_shares": 0.03, "after_masked_input": 0.02},
    },
    "evaluate_every": 5,
}
"""The experiment cross_device, as the sweep of noise and clip norm changes it."""


@dataclass(frozen=True)
class Spent:
    """What a command and all that it started have used.

    Attributes:
        cpu: CPU seconds, by what a process is called.
        wall: seconds, until the last process was gone.
        others: the share of the machine that other processes took meanwhile.
    """

    cpu: dict[str, float]
    wall: float
    others: float

    @property
    def total(self) -> float:
        """CPU seconds of everybody."""
        return sum(self.cpu.values())


def noise_and_clip(scale: float) -> Iterator[Row]:
    """A grid of 24 points with two seeds against the same 48 runs one after the other."""
    share = math.sqrt(scale)
    noises = NOISES[: max(2, round(share * len(NOISES)))]
    clips = CLIPS[: max(1, round(share * len(CLIPS)))]
    rounds = rounds_for(RUN_SECONDS)
    yield compared(
        {NOISE: list(noises), CLIP: list(clips)}, DEVICES | {"rounds": rounds}, least=RUN_SECONDS
    )


PARTS: Final[Mapping[str, Part]] = {"noise-and-clip": noise_and_clip}


def rounds_for(seconds: float) -> int:
    """Rounds with which a run takes so many CPU seconds, and a little more."""
    took = []
    for rounds in FIRST_LOOK:
        with TemporaryDirectory(prefix="codex-ray-bench-") as folder:
            began = time.process_time()
            run(DEVICES | {"rounds": rounds}, out=Path(folder) / "run")
            took.append(time.process_time() - began)
    each = max(took[1] - took[0], 1e-3) / (FIRST_LOOK[1] - FIRST_LOOK[0])
    return max(1, math.ceil(SPARE * seconds / each))


def compared(grid: Mapping[str, Sequence[Any]], base: Mapping[str, Any], *, least: float) -> Row:
    """The sweep over `grid`, and then its runs one after the other.

    Args:
        grid: dotted keys and their values.
        base: the experiment that they change.
        least: CPU seconds that a run has to take for the comparison to count.

    Raises:
        ClusterError: one of the two failed.
    """
    with TemporaryDirectory(prefix="codex-ray-bench-") as folder:
        path = Path(folder)
        description = {"base": dict(base), "grid": dict(grid), "seeds": list(SEEDS)}
        (path / "sweep.yaml").write_text(json.dumps(description))  # JSON is YAML
        environment = {"CODEX_RAY_CACHE": str(path / "cache")}  # nothing is known beforehand
        words = [*COMMAND, "sweep", str(path / "sweep.yaml"), "--out", str(path / "sweep")]
        swept = spent_by(words, environment)
        _write_runs(path)
        code = f"from {__name__} import one_after_the_other; one_after_the_other({str(path)!r})"
        single = spent_by([sys.executable, "-c", code], environment)
        ours, theirs = _models(path / "sweep" / "trials"), _models(path / "runs")
    return _row(swept, single, runs=len(theirs), same=ours == theirs, least=least)


def _write_runs(path: Path) -> None:
    """Writes down what each trial of the sweep ran, its plan included."""
    planner = Planner(*SweepFolder.open(path / "sweep").read())
    settings = planner.all() or []
    experiments = [override(planner.common, setting.overrides) for setting in settings]
    (path / "runs.json").write_text(json.dumps(experiments))


def one_after_the_other(folder: str) -> None:
    """Runs what `runs.json` lists, in this process, which is set up as a trial's is."""
    long_lived()
    path = Path(folder)
    for number, experiment in enumerate(json.loads((path / "runs.json").read_text())):
        run(experiment, out=path / "runs" / f"{number:03d}")


def _models(folder: Path) -> list[str]:
    """The hash of each run's model, in the order of the runs."""
    results = sorted(folder.glob("*/result.json"))
    return [str(json.loads(file.read_text())["model_sha256"]) for file in results]


def _row(swept: Spent, single: Spent, *, runs: int, same: bool, least: float) -> Row:
    ratio = swept.total / single.total
    names = sorted(swept.cpu, key=lambda name: -swept.cpu[name])
    roles = ", ".join(f"{name} {swept.cpu[name]:.0f}" for name in names if swept.cpu[name] >= 0.5)
    return Row(
        f"{runs} runs, noise x clip norm x {len(SEEDS)} seeds",
        f"{ratio:.2f}x: {swept.total:.0f} CPU s ({roles}), one after the other "
        f"{single.total:.0f} CPU s, {single.total / runs:.1f} a run; wall {swept.wall:.0f} s and "
        f"{single.wall:.0f} s; others took {swept.others:.0%} and {single.others:.0%}",
        f"at most {BAR:g}x the CPU time of the same runs one after the other",
        (
            at_most("sweep / one after the other, CPU seconds", ratio, BAR),
            at_least("CPU seconds of a run, one after the other", single.total / runs, least),
            at_least("the same models, to the bit (1: yes)", float(same), 1.0),
            Figure("CPU seconds of the sweep", swept.total),
            *(Figure(f"of these, {name}", swept.cpu[name]) for name in names),
            Figure("CPU seconds one after the other", single.total),
            Figure("seconds of the sweep", swept.wall),
            Figure("seconds one after the other", single.wall),
            Figure("share of the machine that others took, sweep", swept.others),
            Figure("share of the machine that others took, one after the other", single.others),
        ),
    )


def spent_by(words: Sequence[str], environment: Mapping[str, str]) -> Spent:
    """What a command and whatever it started used until the last of them was gone.

    Some of Ray's processes are reaped by nobody who would count them, so every process is looked
    at again and again, and counts with what it had used when it was last seen.

    Raises:
        ClusterError: the command failed.
    """
    before, used, names = family(), dict[int, float](), dict[int, str]()
    machine, began = machine_seconds(), time.perf_counter()
    with TemporaryFile("w+") as told, _adopting_orphans():
        command = subprocess.Popen(
            list(words), stdout=told, stderr=told, env={**os.environ, **environment}
        )
        until = math.inf
        # What it has left behind, such as Ray's own processes, is still putting things away.
        while time.perf_counter() < until:
            there = _look(used, names, (family() | set(used)) - before)
            _bury(set(used) - {command.pid})
            if command.poll() is not None:
                if not there:
                    break
                until = min(until, time.perf_counter() + PATIENCE)
            time.sleep(LOOKS)
        took = time.perf_counter() - began
        machine = machine_seconds() - machine
        told.seek(0)
        said = told.read()
    if command.wait():
        last = (said.strip().splitlines() or ["it said nothing"])[-1]
        raise ClusterError(f"{' '.join(map(str, words))} failed: {last}")
    by_name: dict[str, float] = {}
    for pid, seconds in used.items():
        by_name[names[pid]] = by_name.get(names[pid], 0.0) + seconds
    others = taken_by_others(machine=machine, ours=sum(used.values()), wall=took)
    return Spent(by_name, took, others)


@contextmanager
def _adopting_orphans() -> Iterator[None]:
    """Whatever a command leaves behind becomes a child of this process, and so of its family."""
    prctl = ctypes.CDLL(None).prctl
    prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        prctl(SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _look(used: dict[int, float], names: dict[int, str], pids: set[int]) -> bool:
    """Notes what each process has used by now; whether any of them is still there."""
    now = cpu_by_role({str(pid): [pid] for pid in pids})
    for pid in pids:
        used[pid] = max(used.get(pid, 0.0), now[str(pid)])
        names[pid] = _called(pid) or names.get(pid, "gone")
    return any(now.values())


def _bury(pids: set[int]) -> None:
    """Lets adopted processes that have ended go, which would else stay as zombies."""
    for pid in pids:
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def _called(pid: int) -> str:
    """What a process does, in a word or two; nothing if it is gone."""
    title = next(iter(words_of(pid)), "")
    if title.startswith("ray::"):
        return title[5:].partition(".")[0].strip() or "ray::"
    return "".join(title.rpartition("/")[2]) if title else ""
