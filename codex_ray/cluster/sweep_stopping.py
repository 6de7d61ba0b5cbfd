"""Tune's rules of which trials end early, told of what an interrupted sweep had found out before.

A rule stops a trial by what others reported at the same round. After `--resume` those have long
ended, and Tune knows nothing of them; but their run directories have every evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeAlias

from codex_ray.cluster.session import ray_session  # first: it sets what ray reads when imported

# isort: split

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule

from codex_ray.cluster.sweep_trial import TRIAL
from codex_ray.sweeping.description import Asha, Sweep
from codex_ray.sweeping.past import ROUND, Past

__all__ = ["ray_session", "stopping_rule"]
Result: TypeAlias = Mapping[str, Any]
_CONTINUE: Final = FIFOScheduler.CONTINUE


class _Rule(Protocol):
    """One of Tune's schedulers."""

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None: ...
    def on_trial_result(self, tune_controller: Any, trial: Any, result: Result) -> str: ...
    def on_trial_complete(self, tune_controller: Any, trial: Any, result: Result) -> None: ...
    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None: ...
    def debug_string(self) -> str: ...


@dataclass(frozen=True)
class _Earlier:
    """Stands for a trial that ended before this process began."""

    trial_id: str


class StoppingRule(FIFOScheduler):  # type: ignore[misc]  # ray ships no types
    """A rule of Tune's that goes on where it was interrupted.

    Args:
        rule: Tune's.
        metric: that it looks at.
        past: what each trial had reported before, by its number.
        ended: the numbers of those that had ended.
    """

    def __init__(
        self, rule: _Rule, *, metric: str, past: Mapping[int, Past], ended: frozenset[int]
    ) -> None:
        super().__init__()
        self._rule, self._metric, self._past = rule, metric, past
        self._known: dict[str, int] = {}
        for number in sorted(ended & set(past)):
            self._recall(_Earlier(f"earlier {number}"), past[number])

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune would store its own state, and the run directories have all of it."""
        return {}

    def _recall(self, trial: Any, past: Past) -> None:
        """Tells the rule of earlier reports, whatever it would decide about them now."""
        self._rule.on_trial_add(None, trial)
        for result in past.reports:
            if isinstance(self._rule, MedianStoppingRule):
                self._rule.on_trial_complete(None, trial, result)  # this one only remembers
            else:
                self._rule.on_trial_result(None, trial, result)
        if past.last is None:
            return
        # As Tune does: one that the rule does not end is told of again when it has ended.
        if self._rule.on_trial_result(None, trial, past.last) == _CONTINUE:
            self._rule.on_trial_complete(None, trial, past.last)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A trial is to run; it may have run a while before."""
        self._recall(trial, self._past.get(trial.config[TRIAL], Past(())))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Result) -> str:
        """Whether the trial goes on."""
        if not self._says(result) or result[ROUND] <= self._known.get(trial.trial_id, 0):
            return str(_CONTINUE)  # a run that goes on tells of its last round once more
        self._known[trial.trial_id] = int(result[ROUND])
        return self._rule.on_trial_result(tune_controller, trial, result)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: Result) -> None:
        """A trial ran to its end; one that failed says nothing of its rounds."""
        if self._says(result):
            self._rule.on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """A trial is gone."""
        self._rule.on_trial_remove(tune_controller, trial)

    def debug_string(self) -> str:
        """What the rule says of itself."""
        return self._rule.debug_string()

    def _says(self, result: Result) -> bool:
        return ROUND in result and self._metric in result


def stopping_rule(
    description: Sweep, *, rounds: int, past: Mapping[int, Past], ended: frozenset[int]
) -> StoppingRule | None:
    """The rule that a sweep asks for, which knows what was reported before; None for none.

    Args:
        description: the sweep.
        rounds: of its longest trial.
        past: what each trial had reported before, by its number.
        ended: the numbers of those that had ended.
    """
    stopping, metric = description.stopping, description.metric
    if stopping is None:
        return None
    common = {"time_attr": ROUND, "metric": metric, "mode": description.goal}
    if isinstance(stopping, Asha):
        rule: _Rule = AsyncHyperBandScheduler(
            **common,
            max_t=rounds,
            grace_period=stopping.grace,
            reduction_factor=stopping.reduction,
        )
    else:
        rule = MedianStoppingRule(
            **common,
            grace_period=stopping.grace,
            min_samples_required=stopping.at_least,
            # It would pause each trial at each report until there are enough others, and a trial
            # that goes on after a pause begins its process anew.
            min_time_slice=math.inf,
        )
    return StoppingRule(rule, metric=metric, past=past, ended=ended)
