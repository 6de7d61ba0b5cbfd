"""The book of a running sweep: which trial comes next, which are under way, and what came out.

It knows nothing of Ray. Whoever runs the trials asks for the next one, and says what became of it;
a trial that the folder's journal knows is never handed out again.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from codex_ray.errors import ConfigError
from codex_ray.sweeping.journal import SweepFolder
from codex_ray.sweeping.outcome import Status, Trial
from codex_ray.sweeping.proposals import Batches, Score, optuna_batches
from codex_ray.sweeping.settings import Planner, Setting


class Book:
    """Which trials there are, and how they stand.

    Args:
        planner: makes trials of proposed settings.
        settings: every trial, or None where Optuna proposes them.
        folder: where each trial that ended is written down.
    """

    def __init__(
        self, planner: Planner, settings: Sequence[Setting] | None, folder: SweepFolder
    ) -> None:
        self.planner, self.folder = planner, folder
        self.trials: dict[int, Trial] = {}
        self.under_way: dict[int, Setting] = {}
        self.known: dict[int, Setting] = {}
        self._ended = folder.ended()
        self._queue: deque[Setting] = deque()
        self._batches: Batches | None = None
        self._batch: list[list[Setting]] = []
        if settings is None:
            self._batches = optuna_batches(planner.description)
            self._queue_up(planner.reference())
            self._propose(next(self._batches))
        else:
            self._queue_up(settings)

    @property
    def planned(self) -> int | None:
        """How many trials there will be, where that is known."""
        return None if self._batches is not None else len(self.known)

    @property
    def waiting(self) -> list[Setting]:
        """The trials that are known, and have not been handed out."""
        return list(self._queue)

    def _queue_up(self, settings: Sequence[Setting]) -> None:
        self._queue.extend(settings)
        self.known |= {setting.number: setting for setting in settings}

    def _propose(self, batch: Sequence[Mapping[str, Any]]) -> None:
        """Queues the trials of a batch; a setting that is no experiment has failed already."""
        self._batch = []
        for values in batch:
            try:
                settings = self.planner.trials(values)
            except ConfigError as error:
                settings = self.planner.refused(values)
                for setting in settings:
                    self.known[setting.number] = setting
                    self.failed(setting.number, str(error))
                self._batch.append(settings)
                continue
            self._queue_up(settings)
            self._batch.append(settings)

    def next(self) -> Setting | None:
        """The next trial to run; None while others have to end first, and when there is none."""
        while True:
            while self._queue:
                setting = self._queue.popleft()
                if setting.key in self._ended:
                    self.trials[setting.number] = self._ended[setting.key]
                    continue
                self.under_way[setting.number] = setting
                return setting
            if self.under_way or self._batches is None:
                return None
            try:
                self._propose(self._batches.send([self._score(s) for s in self._batch]))
            except StopIteration:
                self._batches = None
                return None

    def skip_ended(self) -> None:
        """Takes the results of what had ended before, as far as nothing new has to run for it."""
        setting = self.next()
        if setting is not None:
            del self.under_way[setting.number]
            self._queue.appendleft(setting)
        kept = deque(s for s in self._queue if s.key not in self._ended)
        for passed in self._queue:
            if passed.key in self._ended:
                self.trials[passed.number] = self._ended[passed.key]
        self._queue = kept

    @property
    def done(self) -> bool:
        """Whether nothing is left to hand out, or to wait for."""
        return not self._queue and not self.under_way and self._batches is None

    def _score(self, settings: Sequence[Setting]) -> Score:
        ended = [self.trials[setting.number] for setting in settings]
        ended = [trial for trial in ended if trial.status in ("finished", "stopped")]
        if not ended:
            return None
        mean = math.fsum(trial.metric for trial in ended) / len(ended)
        return mean, max(trial.epsilon for trial in ended)

    def ended(self, number: int, found: Mapping[str, Any]) -> Trial:
        """Writes down what a trial reported last, as `trial_report` makes it."""
        setting = self.known[number]
        if found.get("error"):
            return self.failed(number, str(found["error"]))
        name = self.planner.description.metric
        metrics = {str(k): float(v) for k, v in dict(found.get("metrics") or {}).items()}
        if name not in metrics:
            return self.failed(
                number, f"metric: it reports no {name!r}, but {', '.join(sorted(metrics))}"
            )
        status: Status = "finished" if found.get("finished") else "stopped"
        trial = Trial(
            values=setting.values,
            seed=setting.seed,
            metric=metrics[name],
            epsilon=float(found["epsilon"]),
            unit=found.get("unit"),
            rounds=int(found["round"]),
            extrapolated=found.get("extrapolated"),
            number=number,
            status=status,
            metrics=metrics,
            found=setting.found,
            reference=setting.reference,
        )
        return self._close(setting, trial)

    def failed(self, number: int, why: str) -> Trial:
        """Writes down that a trial failed, and why."""
        return self._close(self.known[number], _without_result(self.known[number], "failed", why))

    def _close(self, setting: Setting, trial: Trial) -> Trial:
        self.under_way.pop(setting.number, None)
        self.trials[setting.number] = trial
        self.folder.add(setting, trial)
        return trial

    def result(self) -> list[Trial]:
        """Every trial in order; those without a result were interrupted."""
        return [
            self.trials.get(number) or _without_result(setting, "interrupted", "interrupted")
            for number, setting in sorted(self.known.items())
        ]


def _without_result(setting: Setting, status: Status, why: str) -> Trial:
    said = " ".join(why.split()) or "no reason was given"
    return Trial(
        setting.values,
        setting.seed,
        math.nan,
        math.nan,
        None,
        0,
        error=said,
        number=setting.number,
        status=status,
        found=setting.found,
        reference=setting.reference,
    )
