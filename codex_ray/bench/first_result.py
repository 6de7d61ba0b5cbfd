"""How long somebody waits for the first round of a run: the command itself, from its start."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import codex_ray
from codex_ray.api import plan
from codex_ray.bench.bars import Figure, Row, at_most
from codex_ray.bench.processes import cpu_seconds, machine_seconds, taken_by_others
from codex_ray.bench.trust import QUICKSTART
from codex_ray.config import to_yaml
from codex_ray.errors import ClusterError

TEN_ACTORS: Final = 30.0
TWO_HOSTS: Final = 12.0
LOOKS: Final = 0.02
"""Seconds between two looks for the first line."""
PATIENCE: Final = 300.0

HOSPITALS: Final[dict[str, Any]] = QUICKSTART | {
    "rounds": 3,
    "trainer": {
        "kind": "dp_sgd",
        "clip_norm": 0.25,
        "noise_multiplier": 5.6,
        "learning_rate": 8.0,
        "batch_size": 25,
        "batches": {"kind": "poisson", "sampling_rate": 0.5, "steps": 2},
    },
    "federation": {
        "protocol": {"kind": "secagg"},
        "mechanism": {"kind": "none", "bound": 16},
        "dropouts": {"after_shares": 0.06, "after_masked_input": 0.04},
    },
}
"""The quickstart, for three rounds."""
DEVICES: Final[dict[str, Any]] = {
    "rounds": 3,
    "data": {"kind": "synthetic_images", "clients": 1000},
    "model": {"kind": "mlp", "hidden": [32], "outputs": 10},
    "trainer": {"kind": "sgd", "learning_rate": 1.0},
    "federation": {
        "sampler": {"kind": "poisson", "rate": 0.1},
        "mechanism": {"kind": "gaussian", "clip_norm": 1.0, "noise_multiplier": 1.8},
    },
}
"""The experiment cross_device, for three rounds."""


@dataclass(frozen=True)
class Waited:
    """Seconds from the command to the first round's line on disk, and to the command's end.

    Attributes:
        first, whole: wall seconds.
        cpu: CPU seconds of everybody up to the first round.
        others: the share of the machine that other processes took until then.
    """

    first: float
    whole: float
    cpu: float = 0.0
    others: float = 0.0


def first_result(scale: float) -> Iterator[Row]:
    """The quickstart with its ten actors, and a thousand devices on two hosts."""
    for words, settings, count, bar in (
        ("the quickstart's ten actors", HOSPITALS, 10, TEN_ACTORS),
        ("a thousand devices on two hosts", DEVICES, 2, TWO_HOSTS),
    ):
        waited = run_and_wait(settings | {"cluster": {"hosts": count if scale >= 1 else 0}})
        yield Row(
            f"first result, {words}",
            f"{waited.first:.1f} s, {waited.cpu:.1f} CPU s; others took {waited.others:.0%} of the "
            f"machine; the whole command with three rounds {waited.whole:.1f} s",
            f"first round at most {bar:g} s after the command",
            (
                at_most("seconds to the first round", waited.first, bar),
                Figure("CPU seconds to the first round", waited.cpu),
                Figure("share of the machine that others took", waited.others),
                Figure("seconds of the whole command", waited.whole),
            ),
        )


def run_and_wait(settings: dict[str, Any]) -> Waited:
    """What `codex-ray run` of these settings took, in a process of its own.

    Raises:
        ClusterError: the command failed.
    """
    with TemporaryDirectory(prefix="codex-ray-bench-") as folder:
        file, out = Path(folder) / "experiment.yaml", Path(folder) / "run"
        file.write_text(to_yaml(plan(settings, {})))
        command = [*_command(), "run", str(file), "--out", str(out)]
        before, machine = cpu_seconds(), machine_seconds()
        began, found = time.perf_counter(), None
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as running:
            while running.poll() is None and time.perf_counter() - began < PATIENCE:
                if found is None and _has_a_line(out / "rounds.jsonl"):
                    first, ours = time.perf_counter() - began, cpu_seconds() - before
                    machine = machine_seconds() - machine
                    others = taken_by_others(machine=machine, ours=ours, wall=first)
                    found = Waited(first, first, ours, others)
                time.sleep(LOOKS)
            whole = time.perf_counter() - began
            if running.poll() is None:
                running.terminate()
            _, said = running.communicate()
        if running.returncode or found is None:
            last = (said.strip().splitlines() or ["it said nothing"])[-1]
            raise ClusterError(f"{' '.join(command[-5:])} failed: {last}")
    return replace(found, whole=whole)


def _has_a_line(file: Path) -> bool:
    try:
        return file.stat().st_size > 0
    except OSError:
        return False


def _command() -> Sequence[str]:
    """The command as it is installed beside this Python, or this package as a module."""
    installed = shutil.which("codex-ray", path=str(Path(sys.executable).parent))
    return [installed] if installed else [sys.executable, "-m", f"{codex_ray.__name__}.cli"]
