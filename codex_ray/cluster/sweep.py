"""A sweep: many experiments as Ray Tune trials, to a frontier of accuracy against epsilon.

`sweep` is the Python door, `sweep_and_show` the command line's; `trainable` is for a Tuner of
one's own. A sweep that was killed goes on from its folder, and ends with the same table.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from codex_ray.cluster.session import ray_session  # first: it sets what ray reads when imported

# isort: split

from rich.console import Console

from codex_ray.api import RUNS
from codex_ray.certifying.terms import delta_warnings
from codex_ray.cluster.sweep_table import LiveTrials, best_table, closing_table, winner_in_words
from codex_ray.cluster.sweep_trial import trainable
from codex_ray.cluster.sweep_tuner import run_trials
from codex_ray.config import load_yaml, parse_number, validated
from codex_ray.data.kept import keeping
from codex_ray.errors import ClusterError, ConfigError
from codex_ray.records.run_directory import RunDirectory
from codex_ray.sweeping.artefacts import write_artefacts
from codex_ray.sweeping.book import Book
from codex_ray.sweeping.description import OptunaSearch, Sweep, overridden
from codex_ray.sweeping.journal import SweepFolder
from codex_ray.sweeping.outcome import SweepResult, Trial
from codex_ray.sweeping.proposals import check_optuna
from codex_ray.sweeping.selection import NOT_ACCOUNTED
from codex_ray.sweeping.settings import Planner

__all__ = [
    "NOT_ACCOUNTED",
    "Sweep",
    "SweepResult",
    "Trial",
    "ray_session",
    "sweep",
    "sweep_and_show",
    "trainable",
]


def sweep(
    config: str | Path | Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    out: str | Path | None = None,
    resume: str | Path | None = None,
) -> SweepResult:
    """The trials of a sweep: a sequence of them, and a table with named columns.

    Args:
        config: the sweep's YAML, or a mapping like one; None with `resume`.
        overrides: keys of the sweep and their values, such as {"seeds": [0, 1, 2]}.
        out: the folder; by default the next free one under `runs/`.
        resume: the folder of a sweep that was killed: what ended is not run again.

    Raises:
        InputError: a setting is no valid experiment, no noise reaches an epsilon, no trial reports
            the metric, or the folder cannot be used; nothing has run.
        ClusterError: every trial failed.
        KeyboardInterrupt: it was interrupted; `resume` goes on.
    """
    console = Console(quiet=True, markup=False)
    result, _ = _sweep(config, overrides or {}, out=out, resume=resume, console=console)
    if result.interrupted:
        raise KeyboardInterrupt(f"interrupted: go on with resume={str(result.directory)!r}")
    return result


def sweep_and_show(
    file: str | None,
    overrides: Mapping[str, Any],
    *,
    out: str | None,
    resume: str | None = None,
) -> SweepResult:
    """The same with a live table, and tables at the end; it is told if it was interrupted."""
    console = Console(markup=False)
    result, written = _sweep(file, overrides, out=out, resume=resume, console=console)
    console.print()
    console.print(closing_table(result))
    if result.points:
        console.print(best_table(result))
    console.print(f"\n{result.statement}\n", highlight=False)
    if result.interrupted:
        console.print(f"interrupted: codex-ray sweep --resume {result.directory}", soft_wrap=True)
        return result
    console.print(winner_in_words(result) + "\n", soft_wrap=True, highlight=False)
    for name in written:
        console.print(f"{name:<16}{result.directory / name}", soft_wrap=True, highlight=False)
    logs = f"tensorboard --logdir {result.directory / 'trials'}"
    console.print(f"{'TensorBoard':<16}{logs}", soft_wrap=True, highlight=False)
    return result


def _sweep(
    config: str | Path | Mapping[str, Any] | None,
    overrides: Mapping[str, Any],
    *,
    out: str | Path | None,
    resume: str | Path | None,
    console: Console,
) -> tuple[SweepResult, list[str]]:
    with ExitStack() as stack:
        stack.enter_context(keeping())  # checking every setting opens each data set once
        if resume is not None:
            if config is not None or out is not None or overrides:
                raise ConfigError(
                    "resume: the sweep has its own description and folder: give nothing else"
                )
            folder = SweepFolder.open(Path(resume))
            stack.enter_context(folder.locked())
            planner = Planner(*folder.read())
            settings, costs = planner.all(), planner.selection_costs()
        else:
            description, base = read_sweep(config, overrides)
            path = Path(out or RunDirectory.next_under(RUNS, description.name))
            SweepFolder.check_free(path)  # before every setting is checked for nothing
            planner, settings = Planner(description, base).settled()
            costs = planner.selection_costs()
            folder = SweepFolder.create(path, description=planner.description, base=base)
            stack.enter_context(folder.locked())
        book = Book(planner, settings, folder)
        interrupted = _run(book, console)
        result = SweepResult(planner.description, tuple(book.result()), folder.path, tuple(costs))
        written = write_artefacts(result)
    if not interrupted and result.trials and all(t.status == "failed" for t in result):
        raise ClusterError(f"every trial failed; the first said: {result[0].error}")
    return result, written


def _run(book: Book, console: Console) -> bool:
    """Runs the trials; whether that was interrupted."""
    description = book.planner.description
    live = LiveTrials(console, metric=description.metric, planned=book.planned)
    total = "" if book.planned is None else f"{book.planned} trials, "
    console.print(f"{description.name}: {total}into {book.folder.path}", soft_wrap=True)
    for warning in _warnings(book):
        console.print(f"warning: {warning}", soft_wrap=True, highlight=False)
    book.skip_ended()
    live.already(len(book.trials))
    if book.done:
        return False
    with suppress(KeyboardInterrupt), live.shown():
        run_trials(book, live)
        return not book.done
    return True


def _warnings(book: Book) -> list[str]:
    """What is to be said of the deltas of all trials that are known, each line once."""
    experiments = map(book.planner.experiment, book.known.values())
    return list(dict.fromkeys(line for one in experiments for line in delta_warnings(one)))


def read_sweep(
    config: str | Path | Mapping[str, Any] | None, overrides: Mapping[str, Any]
) -> tuple[Sweep, dict[str, Any]]:
    """The description, and the mapping of its base experiment.

    Raises:
        ConfigError: one of them is wrong; the message names the field.
    """
    if config is None:
        raise ConfigError("sweep: give a description, or a folder to resume")
    beside = Path() if isinstance(config, Mapping) else Path(config).parent
    mapping = dict(config) if isinstance(config, Mapping) else load_yaml(config)
    description = validated(Sweep, parse_number(overridden(mapping, overrides)))
    if isinstance(description.search, OptunaSearch):
        check_optuna()
    if isinstance(description.base, str):
        return description, load_yaml(beside / description.base)
    return description, dict(description.base)
