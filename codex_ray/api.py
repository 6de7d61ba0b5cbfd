"""The Python door: the same run as the command line's, from a file, a mapping or an experiment."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from codex_ray.assembly import Assembled, Given, assemble
from codex_ray.config import experiment_from, load_yaml, override, resolved, to_yaml
from codex_ray.consistency import check_resumable
from codex_ray.errors import ConfigError, RunDirectoryError
from codex_ray.experiment import GIVEN, Experiment
from codex_ray.federation.state import RoundResult
from codex_ray.federation.transport import LocalTransport
from codex_ray.figures import Asking
from codex_ray.records.copied import holds_copies, newest
from codex_ray.records.elsewhere import elsewhere, place_of
from codex_ray.records.report import write_report
from codex_ray.records.restoring import restore
from codex_ray.records.result import RunResult
from codex_ray.records.run_directory import RunDirectory, unwritable
from codex_ray.running import begin, finish, last_round, rounds
from codex_ray.threads import single_thread

LOG = logging.getLogger(__name__)
RUNS = Path("runs")
ON_RESUME = ("cluster.", "rounds")
Watcher = Callable[[RoundResult | None], None]


def run(
    config: str | Path | Mapping[str, Any] | Experiment | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    out: str | Path | None = None,
    resume: str | Path | Resumed | None = None,
    model: object | None = None,
    data: object | None = None,
    watch: Watcher | None = None,
) -> RunResult:
    """The result of an experiment, which it leaves in a run directory too.

    Args:
        config: a YAML file, a mapping like one, or an `Experiment`; None with `resume`.
        overrides: dotted keys and their values, such as {"federation.protocol.kind": "ideal"}.
        out: the run directory; by default the next free one under `runs/`.
        resume: an interrupted run's directory, to go on from its last checkpoint; or the address
            of its copies, which are then brought to `out`; or what `open_run` returned.
        model: a torch.nn.Module, or a function that returns one, in place of the config's `model`.
        data: a `FederatedDataset` in place of the config's `data`.
        watch: called with each round's result, and with None when the hosts are ready.

    Raises:
        InputError: something that was given cannot be used; nothing is left half-written.
    """
    given = Given(model, data)
    if resume is not None:
        if config is not None or (out is not None and not holds_copies(resume)):
            raise ConfigError(
                "resume: a resumed run has its own config and directory: give neither"
            )
        if not isinstance(resume, Resumed):
            resume = open_run(resume, overrides or {}, out=out)
        experiment, directory = resume
    else:
        experiment, directory = plan(config, overrides or {}, given=given), None
        path = Path(out or RunDirectory.next_under(RUNS, experiment.name))
    if _is_far(experiment, new=directory is None and model is None and data is None):
        from codex_ray.cluster.through_client import run_there

        return run_there(experiment, path, watch)
    with _one_thread():
        assembled = assemble(experiment, given)
        if directory is None:
            RunDirectory.check_free(path)  # before Ray is started for nothing
        assembled.check_files()
        with _session(experiment) as (gpus, overlooked):
            if directory is None:
                assembled = assembled.settled(gpus=gpus, asking=_asking(experiment))
                directory = RunDirectory.create(path, config=to_yaml(assembled.experiment))
                begin(assembled, directory)
            with directory.locked():
                if resume is not None:
                    directory.reopen(config=to_yaml(experiment))
                last = _watched(_rounds(assembled, directory), watch)
                found = finish(assembled, directory, overlooked=overlooked, last=last)
                write_report(directory, found)
        return found


def plan(
    config: str | Path | Mapping[str, Any] | Experiment | None,
    overrides: Mapping[str, Any],
    *,
    given: Given | None = None,
) -> Experiment:
    """The experiment that `config` and `overrides` describe.

    Raises:
        ConfigError: a field is wrong; the message names it and the remedy.
    """
    if config is None:
        raise ConfigError("run: give a config, or a directory to resume")
    if isinstance(config, Experiment):
        mapping = resolved(config)
    else:
        mapping = dict(config) if isinstance(config, Mapping) else load_yaml(config)
    mapping = override(mapping, overrides)
    for field in ("model", "data"):
        value = getattr(given, field, None)
        if value is not None:
            name = getattr(value, "__qualname__", type(value).__qualname__)
            mapping[field] = {"kind": "python", "factory": GIVEN + name}
    return experiment_from(mapping)


class Resumed(NamedTuple):
    """A run that can be gone on with."""

    experiment: Experiment
    directory: RunDirectory


def open_run(
    path: str | Path, overrides: Mapping[str, Any], *, out: str | Path | None = None
) -> Resumed:
    """An interrupted run's experiment and directory.

    Args:
        path: of the directory, or the address of the run's copies, which are brought to `out`.
        overrides: dotted keys and their values, of those that a resumed run may change.
        out: where copies are brought to; by default the next free directory under `runs/`.

    Raises:
        RunDirectoryError: there is no run, or it has ended.
        ConfigError: an override would make the resumed run another one; or it noised its records
            without a seed.
    """
    for key in overrides:
        if not key.startswith(ON_RESUME):
            raise ConfigError(
                f"{key}: a resumed run keeps its configuration (only rounds and cluster.* may "
                "change): start a new run instead"
            )
    if holds_copies(path):
        place = place_of(path)
        directory = from_copies(place, out=out)
        overrides = {"cluster.checkpoints": place} | dict(overrides)
    else:
        directory = RunDirectory.open(Path(path))
    if directory.finished() and "rounds" not in overrides:
        if not directory.report.exists():  # it was killed between the one and the other
            write_report(directory, RunResult.read(directory.path))
        raise RunDirectoryError(
            f"{path}: this run has ended: read its result.json, or add rounds with --set rounds=..."
        )
    began_with = {"plan": "reference"} | load_yaml(directory.config)  # before there were plans
    experiment = experiment_from(override(began_with, overrides))
    check_resumable(experiment)
    done = last_round(directory, experiment)
    planned = experiment_from(load_yaml(directory.config)).rounds
    correlated = experiment.federation.mechanism.kind == "correlated_gaussian"
    if correlated and done and experiment.rounds != planned:
        raise ConfigError(
            f"rounds is {experiment.rounds}, but the noise of {path} is made for {planned} rounds, "
            "and takes back what was added in them: start a new run instead"
        )
    if done > experiment.rounds:
        raise ConfigError(f"rounds is {experiment.rounds}, but {path} has run {done}: raise it")
    try:
        if not directory.checkpoint.is_dir():  # gone, where what it held is elsewhere too
            directory.checkpoint.mkdir(exist_ok=True)
    except OSError as error:
        raise unwritable(directory.checkpoint, error) from error
    return Resumed(experiment, directory)


def from_copies(url: str, *, out: str | Path | None = None) -> RunDirectory:
    """A new run directory with what the copies at an address hold.

    Raises:
        RunDirectoryError: there are none that are whole, or `out` is taken.
    """
    copy = newest(elsewhere(url))
    for words in copy.said:
        LOG.warning("%s: going back to the copy before round %d", words, copy.round)
    name = url.partition("?")[0].rstrip("/").rpartition("/")[2] or "resumed"
    return restore(copy, Path(out or RunDirectory.next_under(RUNS, name)))


def _rounds(assembled: Assembled, directory: RunDirectory) -> Iterator[RoundResult | None]:
    """The rounds, in this process or on Ray; None once the hosts are ready."""
    if assembled.experiment.cluster.hosts == 0:
        yield None
        yield from rounds(assembled, directory, LocalTransport(assembled.host()))
        return
    from codex_ray.cluster.session import ray_rounds

    yield from ray_rounds(assembled.experiment, directory)


def _watched(results: Iterator[RoundResult | None], watch: Watcher | None) -> RoundResult | None:
    """The last round's result, when the watcher has been told of all; None if there is none."""
    last = None
    for result in results:
        last = result
        if watch is not None:
            watch(result)
    return last


@contextmanager
def _session(experiment: Experiment) -> Iterator[tuple[float, list[str]]]:
    """Ray, if the experiment wants it: the GPUs that its hosts can have, and what is open."""
    if experiment.cluster.hosts == 0:
        yield torch.cuda.device_count(), []
        return
    # Ray takes a third of a second to import, and a local run does not need it.
    from codex_ray.cluster.session import cluster_gpus, ray_session

    cluster = experiment.cluster
    with ray_session(cluster.address, insecure_local=cluster.insecure_local) as overlooked:
        yield cluster_gpus(), overlooked


def _asking(experiment: Experiment) -> Asking | None:
    """Where clients are asked for figures of their records: on Ray hosts, if the run has some."""
    if experiment.cluster.hosts == 0:
        return None
    from codex_ray.cluster.figure_hosts import figure_hosts

    return figure_hosts


def _is_far(experiment: Experiment, *, new: bool) -> bool:
    """Whether it runs on a cluster that is reached through its server for clients.

    Raises:
        ConfigError: it does, and it is not a new run of what its YAML names.
    """
    address = experiment.cluster.address
    if not experiment.cluster.hosts or not address.startswith("ray://"):
        return False
    if not new:
        raise ConfigError(
            f"cluster.address is {address}, where only a new run of what its YAML names can be "
            "started: use auto, from one of its nodes"
        )
    return True


@contextmanager
def _one_thread() -> Iterator[None]:
    """Torch on one thread for the block, as on every host."""
    before = torch.get_num_threads()
    single_thread()
    try:
        yield
    finally:
        torch.set_num_threads(before)
