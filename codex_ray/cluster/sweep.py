"""A sweep: a grid of experiments as Ray Tune trials, to a frontier of accuracy against epsilon."""

from __future__ import annotations

import csv
import io
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from codex_ray.cluster.session import ray_session  # first: it sets what ray reads when imported

# isort: split

from pydantic import Field
from ray import tune
from rich.console import Console
from rich.table import Table

from codex_ray.api import RUNS, plan, run
from codex_ray.config import load_yaml, override, parse_number, resolved, validated
from codex_ray.errors import ClusterError, ConfigError
from codex_ray.experiment import Experiment, assemble
from codex_ray.privacy.ledger import Unit
from codex_ray.records.frontier import Point, draw_frontier, frontier_of, setting_in_words
from codex_ray.records.run_directory import RunDirectory, write_atomically
from codex_ray.types import Component

NOT_ACCOUNTED = (
    "Choosing among these trials is itself a release about the data that they were scored on. It "
    "is NOT accounted: the epsilon of a point is that of running it alone."
)


class Sweep(Component):
    """Which experiments a sweep runs: every combination of the grid's values, with every seed."""

    name: str = Field(default="sweep", pattern=r"^[\w.-]+$", description="Names the folder.")
    question: str = Field(default="", description="What the sweep is to answer, in a sentence.")
    base: str = Field(description="The experiment that every trial varies, relative to this file.")
    set: dict[str, Any] = Field(
        default_factory=dict, description="Dotted keys of the base that all trials override."
    )
    grid: dict[str, list[Any]] = Field(
        min_length=1, description="Dotted keys and the values that each takes."
    )
    seeds: tuple[int, ...] = Field(
        default=(0,), min_length=1, description="Each point is run with each of these."
    )
    metric: str = Field(default="accuracy", description="The test metric on the frontier.")
    cpus_per_trial: float = Field(default=1, gt=0, description="CPUs that a trial takes.")


@dataclass(frozen=True)
class Trial:
    """One finished trial: the grid's values, the seed and what came out, or why nothing did."""

    values: dict[str, Any]
    seed: int
    metric: float
    epsilon: float
    unit: Unit | None
    rounds: int
    error: str = ""
    extrapolated: float | None = None


def sweep(
    file: str | Path, overrides: Mapping[str, Any] | None = None, *, out: str | Path | None = None
) -> list[Trial]:
    """The trials of a sweep's YAML, in the order of the grid; sweep.csv and frontier.png in `out`.

    Raises:
        ConfigError: a point of the grid is no valid experiment; nothing has run.
        ClusterError: every trial failed.
    """
    console = Console(quiet=True, markup=False)
    return _sweep(Path(file), overrides or {}, out=out, console=console)[0]


def sweep_and_show(file: str, overrides: Mapping[str, Any], *, out: str | None) -> int:
    """Runs the sweep with a table at its end; 0, or 1 if a trial failed."""
    console = Console(markup=False)
    trials, folder, description = _sweep(Path(file), overrides, out=out, console=console)
    console.print()
    console.print(_table(description, trials))
    console.print(f"\n{NOT_ACCOUNTED}\n")
    for name in ("sweep.csv", "frontier.png"):
        console.print(f"{name:<16}{folder / name}", soft_wrap=True, highlight=False)
    return 1 if any(trial.error for trial in trials) else 0


def _sweep(
    file: Path, overrides: Mapping[str, Any], *, out: str | Path | None, console: Console
) -> tuple[list[Trial], Path, Sweep]:
    description = validated(Sweep, parse_number(override(load_yaml(file), overrides)))
    experiments = _experiments(file, description)
    folder = Path(out) if out is not None else RunDirectory.next_under(RUNS, description.name)
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder}: is not empty: choose another --out")
    folder.mkdir(parents=True, exist_ok=True)
    trials = _tune(description, experiments, folder.resolve(), console)
    write_atomically(folder / "sweep.csv", _csv(description, trials))
    points = _points(description, trials)
    if not points:
        raise ClusterError(f"every trial failed; the first said: {trials[0].error}")
    picture = draw_frontier(
        points, title=description.question, metric=description.metric, note=NOT_ACCOUNTED
    )
    write_atomically(folder / "frontier.png", picture)
    return trials, folder, description


def _experiments(file: Path, description: Sweep) -> list[tuple[dict[str, Any], Experiment]]:
    """(values, experiment) for each point and seed, each checked before any trial starts."""
    base = override(load_yaml(file.parent / description.base), description.set)
    base = override(base, {"cluster.hosts": 0, "compare": None})
    found = []
    for combination in product(*description.grid.values()):
        values = dict(zip(description.grid, combination, strict=True))
        for seed in description.seeds:
            found.append((values | {"seed": seed}, plan(base, values | {"seed": seed})))
    if not found:
        raise ConfigError("grid: a key has no values, so there is nothing to run")
    for values, experiment in found:
        if values["seed"] == description.seeds[0]:
            assemble(experiment)
    return found


def _tune(
    description: Sweep,
    experiments: list[tuple[dict[str, Any], Experiment]],
    folder: Path,
    console: Console,
) -> list[Trial]:
    """Every experiment as a trial in a process of its own."""
    numbered = {"number": tune.grid_search(list(range(len(experiments))))}
    runs = [resolved(experiment) for _, experiment in experiments]
    labels = [setting_in_words(values) for values, _ in experiments]
    console.print(f"{description.name}: {len(runs)} trials, into {folder}", soft_wrap=True)
    logging.getLogger("ray.tune").setLevel(logging.WARNING)
    with ray_session("local"):
        trainable = tune.with_resources(
            tune.with_parameters(_trial, experiments=runs, folder=str(folder)),
            {"cpu": description.cpus_per_trial},
        )
        tuner = tune.Tuner(
            trainable,
            param_space=numbered,
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(folder),
                verbose=0,
                callbacks=[_Told(labels, metric=description.metric, quiet=console.quiet)],
            ),
        )
        grid = tuner.fit()
    # A trial that Ctrl-C kept from starting has no configuration, and no result either.
    ended = {result.config["number"]: result for result in grid if result.config}
    return [
        _read_trial(description, values, ended[number].metrics or {}, ended[number].error)
        if number in ended
        else _read_trial(description, values, {}, InterruptedError("did not run"))
        for number, (values, _) in enumerate(experiments)
    ]


def _trial(config: dict[str, Any], *, experiments: list[dict[str, Any]], folder: str) -> None:
    """One trial: a whole run in this process, reported once."""
    number = config["number"]
    result = run(experiments[number], out=Path(folder) / "trials" / f"{number:03d}")
    unit = result.privacy[0]["unit"] if result.privacy else None
    tune.report(
        {
            **{f"metric_{name}": value for name, value in result.metrics.items()},
            "epsilon": result.epsilon,
            "unit": unit,
            "rounds": result.rounds,
            "extrapolated": (result.extrapolated or {}).get("epsilon"),
        }
    )


class _Told(tune.Callback):  # type: ignore[misc]  # ray ships no types
    """Says a line for each trial that ends. Tune stores it, so it holds plain values only."""

    def __init__(self, labels: list[str], *, metric: str, quiet: bool) -> None:
        self._labels, self._metric, self._quiet, self._done = labels, metric, quiet, 0

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has its result."""
        found = trial.last_result
        score = found.get(f"metric_{self._metric}", math.nan)
        self._say(
            trial, f"epsilon {found.get('epsilon', math.nan):.3f}, {self._metric} {score:.3f}"
        )

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial failed; the table at the end says why."""
        self._say(trial, "failed")

    def _say(self, trial: Any, words: str) -> None:
        self._done += 1
        label = self._labels[trial.config["number"]]
        Console(quiet=self._quiet, markup=False).print(
            f"trial {self._done}/{len(self._labels)}: {label}: {words}", soft_wrap=True
        )


def _read_trial(
    description: Sweep, values: dict[str, Any], metrics: dict[str, Any], error: Exception | None
) -> Trial:
    seed = int(values["seed"])
    swept = {key: value for key, value in values.items() if key != "seed"}
    name = f"metric_{description.metric}"
    if error is None and name not in metrics:
        known = sorted(key.removeprefix("metric_") for key in metrics if key.startswith("metric_"))
        error = ConfigError(f"metric: no trial reports {description.metric!r}; it has {known}")
    if error is not None:
        said = str(error).strip().splitlines()[-1]
        return Trial(swept, seed, math.nan, math.nan, None, 0, said)
    return Trial(
        swept,
        seed,
        float(metrics[name]),
        float(metrics["epsilon"]),
        metrics["unit"],
        int(metrics["rounds"]),
        extrapolated=metrics.get("extrapolated"),
    )


def _points(description: Sweep, trials: list[Trial]) -> list[Point]:
    """The mean over the seeds of each combination, with its standard error."""
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        if not trial.error:
            groups.setdefault(repr(trial.values), []).append(trial)
    return [
        Point.of(
            values=same[0].values,
            epsilon=max(trial.epsilon for trial in same),
            scores=[trial.metric for trial in same],
        )
        for same in groups.values()
    ]


def _csv(description: Sweep, trials: list[Trial]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [*description.grid, "seed", description.metric, "epsilon", "unit", "rounds", "error"]
    writer.writerow([*columns, "selection_accounted", "extrapolated_epsilon"])
    for trial in trials:
        writer.writerow(
            [
                *trial.values.values(),
                trial.seed,
                trial.metric,
                trial.epsilon,
                trial.unit,
                trial.rounds,
                trial.error,
                "no",
                trial.extrapolated,
            ]
        )
    return text.getvalue().encode()


def _table(description: Sweep, trials: list[Trial]) -> Table:
    table = Table(title=description.question or description.name, title_justify="left")
    for key in description.grid:
        table.add_column(key.rpartition(".")[2], justify="right")
    for heading in ("epsilon", description.metric, "+/- s.e.", "frontier"):
        table.add_column(heading, justify="right")
    points = _points(description, trials)
    best = frontier_of(points)
    presumed = {repr(trial.values): trial.extrapolated for trial in trials if not trial.error}
    for point in sorted(points, key=lambda p: p.epsilon):
        values = [str(value) for value in point.values.values()]
        error = f"{point.error:.3f}" if point.error is not None else "-"
        mark = "*" if point in best else ""
        if (larger := presumed.get(repr(point.values))) is not None:
            mark += f" (extrapolated epsilon {larger:.3f})"
        table.add_row(*values, f"{point.epsilon:.3f}", f"{point.score:.3f}", error, mark)
    for trial in trials:
        if trial.error:
            table.add_row(*map(str, trial.values.values()), "-", "-", "-", trial.error[:60])
    return table
