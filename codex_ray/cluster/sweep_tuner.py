"""The trials of a sweep on Ray Tune: what it may run next, where, and what it makes known.

Tune schedules, stops and reuses processes; which trial comes next, and what is written down, is
the book's. So Tune's own records are of no use afterwards, and go with its temporary folder.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from typing import Any, Protocol

from codex_ray.cluster.session import ray_session  # first: it sets what ray reads when imported

# isort: split

import ray
from ray import tune
from ray.tune.search import Searcher

from codex_ray.cluster.crew import share_of
from codex_ray.cluster.inherited import environment
from codex_ray.cluster.sweep_stopping import stopping_rule
from codex_ray.cluster.sweep_trial import TRIAL, this_place, trial_told
from codex_ray.errors import ClusterError
from codex_ray.sweeping.book import Book
from codex_ray.sweeping.description import Sweep
from codex_ray.sweeping.outcome import Trial
from codex_ray.sweeping.past import past_of
from codex_ray.sweeping.settings import Setting
from codex_ray.sweeping.shared_data import shared_data

OF_THE_STORE = 0.5
"""The share of the object store that data sets may take; rounds need the rest."""
QUIET = {
    # Its loggers would write every result three times more.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # A failed trial reports no metric, and its process goes on to the next one.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_MAX_PENDING_TRIALS_PG": "8",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


class Audience(Protocol):
    """Whoever is shown how the trials stand."""

    def began(self, setting: Setting) -> None:
        """A trial has been handed out."""
        ...

    def told(self, setting: Setting, report: Mapping[str, Any]) -> None:
        """A trial under way has evaluated."""
        ...

    def ended(self, setting: Setting, trial: Trial) -> None:
        """A trial has its result, or failed."""
        ...


class _NotStored:
    """What Tune would store with its own state, and never has to: the book is on disk already."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _Feed(_NotStored, Searcher):  # type: ignore[misc]  # ray ships no types
    """Hands Tune the trials of the book, one by one."""

    def __init__(self, book: Book, audience: Audience) -> None:
        super().__init__()
        self._book, self._audience = book, audience

    def suggest(self, trial_id: str) -> Any:
        """The overrides of the next trial, None while others have to end first, or the end."""
        setting = self._book.next()
        if setting is None:
            return Searcher.FINISHED if self._book.done else None
        self._audience.began(setting)
        return setting.overrides | {TRIAL: setting.number}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Nothing: the callback has told the book."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: see `_NotStored`."""

    def restore(self, checkpoint_path: str) -> None:
        """Never: a sweep goes on from its folder."""


class _Secretary(_NotStored, tune.Callback):  # type: ignore[misc]
    """Writes into the book what became of a trial."""

    def __init__(self, book: Book, audience: Audience) -> None:
        self._book, self._audience = book, audience

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial has evaluated."""
        if not result.get("finished"):
            self._audience.told(self._book.known[trial.config[TRIAL]], result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial ran to its end, or was stopped before."""
        number = trial.config[TRIAL]
        if number in self._book.under_way:
            ended = self._book.ended(number, trial.last_result)
            self._audience.ended(self._book.known[number], ended)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial's process was lost."""
        number = trial.config[TRIAL]
        said = str(trial.get_error() or "its process was lost").strip().splitlines()[-1]
        self._audience.ended(self._book.known[number], self._book.failed(number, said))


def run_trials(book: Book, audience: Audience) -> None:
    """Runs whatever the book hands out; it has every result when this returns.

    Ctrl-C ends it between two reports of the trials under way, which keep their checkpoints.

    Raises:
        ClusterError: not even one trial fits.
    """
    description = book.planner.description
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    cluster = dict(book.planner.common.get("cluster") or {})
    session = ray_session(
        cluster.get("address", "local"), insecure_local=bool(cluster.get("insecure_local"))
    )
    with environment(QUIET), session, tempfile.TemporaryDirectory() as scratch:
        resources = _resources(description)
        _check_fits(resources)
        tuner = tune.Tuner(
            tune.with_resources(_trainable(book), resources),
            tune_config=tune.TuneConfig(
                search_alg=_Feed(book, audience),
                scheduler=stopping_rule(
                    description,
                    rounds=_most_rounds(book),
                    past=past_of(book),
                    ended=frozenset(book.trials),
                ),
                num_samples=-1,
                max_concurrent_trials=description.concurrent,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: f"{trial.config[TRIAL]:03d}",
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=scratch,
                verbose=0,
                callbacks=[_Secretary(book, audience)],
            ),
        )
        tuner.fit()


def _trainable(book: Book) -> Any:
    """What a trial runs, with what all trials have in common in the object store."""
    description = book.planner.description
    data = shared_data(
        book.planner,
        book.waiting,
        most=OF_THE_STORE * _smallest_store(),
        at_least=1 if book.planned is None else 2,
    )
    return tune.with_parameters(
        trial_told,
        base=book.planner.common,
        folder=str(book.folder.trials.resolve()),
        selection=description.selection.kind.replace("_", " "),
        place=this_place(),
        data={name: ray.put(arrays) for name, arrays in data.items()},
    )


def _resources(description: Sweep) -> Any:
    """What a trial holds from its first to its last moment: all of it, or it does not start.

    The hosts of a large trial are reserved together with it, so that two trials never wait for
    each other's half.
    """
    hosts = description.hosts_per_trial
    if not hosts:
        return {"cpu": description.cpus_per_trial, "gpu": description.gpus_per_trial}
    nodes = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]
    share = share_of(nodes, hosts)  # as the trial's crew will ask
    gpus = description.gpus_per_trial / hosts
    each = {"CPU": share} | ({"GPU": gpus} if gpus else {})
    return tune.PlacementGroupFactory([{}, *[each] * hosts])


def _check_fits(resources: Any) -> None:
    """Refuses a trial that would wait for ever.

    Raises:
        ClusterError: the cluster has too few CPUs or GPUs for one.
    """
    if isinstance(resources, tune.PlacementGroupFactory):
        needed = {k.upper(): v for k, v in resources.required_resources.items()}
    else:
        needed = {k.upper(): v for k, v in resources.items()}
    held = ray.cluster_resources()
    for name, amount in needed.items():
        if amount > held.get(name, 0.0) + 1e-9:
            raise ClusterError(
                f"a trial needs {amount:g} {name}s, but the cluster has {held.get(name, 0.0):g}: "
                f"lower {'hosts' if name == 'CPU' else 'gpus'}_per_trial or cpus_per_trial"
            )


def _smallest_store() -> float:
    """Bytes of the smallest object store of any node; each that runs trials holds a copy."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    return min(float(node["Resources"].get("object_store_memory", 0.0)) for node in nodes)


def _most_rounds(book: Book) -> int:
    settings = list(book.known.values())
    rounds = [book.planner.experiment(setting).rounds for setting in settings[:1]]
    varied = [int(s.values["rounds"]) for s in settings if "rounds" in s.values]
    return max([*rounds, *varied, 1])
