"""A trial: one whole run in a process that is used again, telling Ray Tune of each evaluation.

`trainable` is for everyone's own Tuner: its configuration is dotted keys of an experiment.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ray import tune

from codex_ray.api import plan, run
from codex_ray.cluster.shared_data import told_of
from codex_ray.config import forget_findings, load_yaml, override, resolved
from codex_ray.errors import RunDirectoryError
from codex_ray.experiment import Experiment
from codex_ray.federation.run import EXTRAPOLATED
from codex_ray.federation.state import RoundResult
from codex_ray.records.hparams import write_hparams
from codex_ray.records.report import write_report
from codex_ray.records.result import RunResult
from codex_ray.records.run_directory import RunDirectory
from codex_ray.threads import long_lived

TRIAL = "trial"
"""The key of a configuration that numbers the trial; it names the run directory."""
UNKNOWN = "not accounted, as far as this trial knows"
PATIENCE = 60.0
"""Seconds until the last process of a sweep that was killed has let go of its run."""


def trainable(
    base: str | Path | Mapping[str, Any],
    folder: str | Path,
    *,
    overrides: Mapping[str, Any] | None = None,
) -> Any:
    """A trainable for `ray.tune.Tuner`, whose param_space is dotted keys of the experiment `base`.

    It reports every test metric, epsilon and `round` (the number of rounds done) whenever the
    experiment evaluates, and leaves a run directory for each trial under `folder`. A trial that is
    started again goes on from its last checkpoint, if its configuration names it by `trial`.

    Args:
        base: the experiment's YAML, or a mapping like one.
        folder: for the run directories; on several nodes all of them have to see it.
        overrides: of the base, for all trials.

    Raises:
        ConfigError: the base or an override is wrong.
    """
    mapping = dict(base) if isinstance(base, Mapping) else load_yaml(base)
    fixed = dict.fromkeys(("cluster.metrics_port", "cluster.checkpoints", "compare"))
    fixed["cluster.hosts"] = 0
    mapping = override(mapping, fixed | dict(overrides or {}))
    folder = str(Path(folder).resolve())
    return tune.with_parameters(
        _trial, base=mapping, folder=folder, selection=UNKNOWN, place=this_place(), data={}
    )


def this_place() -> dict[str, Any]:
    """Where this process finds files and modules, for those that run its trials."""
    return {"folder": str(Path.cwd()), "paths": [path for path in sys.path if path]}


def _trial(
    config: dict[str, Any],
    *,
    base: dict[str, Any],
    folder: str,
    selection: str,
    place: dict[str, Any],
    data: Mapping[str, Any],
) -> None:
    # Relative names of data files start from where the sweep was begun; Tune moves elsewhere.
    if Path(place["folder"]).is_dir():
        os.chdir(place["folder"])
    paths = [place["folder"], *place["paths"]]
    sys.path += [path for path in paths if path not in sys.path]
    values = dict(config)
    number = values.pop(TRIAL, None)
    name = tune.get_context().get_trial_id() if number is None else f"{number:03d}"
    with told_of(data):
        report = run_trial(base, values, Path(folder) / name, selection=selection)
    tune.report(report)


def trial_told(config: dict[str, Any], **fixed: Any) -> None:
    """The same, but a failure is a report too: the process stays good for the next trial."""
    try:
        _trial(config, **fixed)
    except Exception as error:
        said = str(error).strip() or type(error).__name__
        tune.report({"error": said.splitlines()[-1], "finished": True})


def run_trial(
    base: Mapping[str, Any], values: Mapping[str, Any], path: Path, *, selection: str
) -> dict[str, Any]:
    """What the run at `path` came to, which is begun, gone on with, or only read.

    Args:
        base: the experiment, as a mapping.
        values: dotted keys of it that this trial sets.
        path: its run directory.
        selection: how choosing among the trials is treated, to stand beside their figures.

    Raises:
        InputError: the values make no experiment, or `path` holds another run.
    """
    long_lived()
    experiment = plan(base, values)
    result = _result(experiment, path)
    unit = max(result.privacy, key=lambda spend: float(spend["epsilon"]), default={}).get("unit")
    report = {
        **result.metrics,
        "metrics": result.metrics,
        "epsilon": result.epsilon,
        "unit": unit,
        "round": result.rounds,
        "extrapolated": (result.extrapolated or {}).get("epsilon"),
        "finished": True,
    }
    outcome = result.metrics | {"epsilon": result.epsilon}
    folder = RunDirectory(path).tensorboard
    if not any(folder.glob("*.hparams")):
        noted = {**values, "selection": selection}
        write_hparams(folder, values=noted, outcome=outcome)
    return report


def _result(experiment: Experiment, path: Path) -> RunResult:
    directory, watch = RunDirectory(path), partial(_tell, rounds=experiment.rounds)
    if not directory.config.exists():
        if path.is_dir() and not any(path.rglob("*.*")):
            shutil.rmtree(path)  # it was made, and the sweep was killed before its first file
        return run(experiment, out=path, watch=watch)
    _check_same(experiment, directory)
    _await_free(directory)
    if directory.finished():
        result = RunResult.read(path)
        if not directory.report.exists():
            write_report(directory, result)
        return result
    if any(directory.checkpoint.glob("round-*")):
        return run(resume=path, watch=watch)
    shutil.rmtree(path)  # of this very experiment, and nothing has been computed in it
    return run(experiment, out=path, watch=watch)


def _check_same(experiment: Experiment, directory: RunDirectory) -> None:
    """Refuses a run directory of another experiment.

    Raises:
        RunDirectoryError: it is one.
    """
    asked, held = resolved(experiment), load_yaml(directory.config)
    for mapping in (asked, held):
        forget_findings(mapping)
    if differing := sorted(k for k in asked if k != "plan" and held.get(k) != asked[k]):
        raise RunDirectoryError(
            f"{directory.path}: holds a run that differs in {', '.join(differing)}: choose "
            "another folder"
        )


def _await_free(directory: RunDirectory) -> None:
    """Returns when no other process is at the run.

    Raises:
        RunDirectoryError: one still is after a minute.
    """
    until = time.monotonic() + PATIENCE
    while True:
        try:
            with directory.locked():
                return
        except RunDirectoryError:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


def _tell(result: RoundResult | None, *, rounds: int) -> None:
    """Tells Ray Tune of a round that was evaluated; it may then end the trial by SystemExit.

    The last round is told of with the result: a trial that has got there is not stopped.
    """
    if result is None or "evaluate" not in result.seconds or result.round + 1 >= rounds:
        return
    spent = [value for name, value in result.epsilon.items() if name != EXTRAPOLATED]
    report = {
        **result.metrics,
        "metrics": result.metrics,
        "epsilon": max(spent, default=math.inf),
        "round": result.round + 1,
        "finished": False,
    }
    tune.report(report)
