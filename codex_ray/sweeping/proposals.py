"""What to try next: a generator of batches of settings, which is sent what the last batch scored.

A batch is a list of settings (dotted keys and values), and its scores come back in the same order:
(metric, epsilon), or None where every trial of a setting failed. A search that is replayed with
the same scores proposes the same settings: that is how an interrupted one goes on.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Generator, Sequence
from typing import Any, TypeAlias

from codex_ray.errors import ConfigError
from codex_ray.randomness import Randomness
from codex_ray.sweeping.description import OptunaSearch, Sweep

Score: TypeAlias = tuple[float, float] | None
Batches: TypeAlias = Generator[list[dict[str, Any]], Sequence[Score], None]

LARGEST_EPSILON = 1e4
"""Stands for an infinite epsilon where Optuna measures volumes."""


def check_optuna() -> None:
    """Returns when Optuna can be imported.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise ConfigError(
            "search.kind is optuna, which is not installed: pip install 'codex-ray[sweep]'"
        ) from None


def optuna_batches(description: Sweep) -> Batches:
    """Batches by TPE (Bergstra et al. 2011; multi-objective by Ozaki et al. 2022).

    Raises:
        ConfigError: Optuna is not installed.
    """
    search = description.search
    assert isinstance(search, OptunaSearch)
    check_optuna()
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    seed = int(Randomness.of(description.seed).public.stream("sweep", "optuna").words(1)[0] >> 33)
    fixed = bool(description.epsilons)
    goals = ["maximize" if description.goal == "max" else "minimize"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        study = optuna.create_study(
            sampler=sampler, directions=goals if fixed else [*goals, "minimize"]
        )
    asked = 0
    while asked < search.trials:
        batch = [study.ask() for _ in range(min(search.batch, search.trials - asked))]
        asked += len(batch)
        scores = yield [_suggested(trial, description) for trial in batch]
        for trial, score in zip(batch, scores, strict=True):
            if score is None or math.isnan(score[0]):
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
                continue
            costs = [] if fixed else [math.log(min(max(score[1], 1e-6), LARGEST_EPSILON))]
            study.tell(trial, [score[0], *costs])


def _suggested(trial: Any, description: Sweep) -> dict[str, Any]:
    """The setting of one trial of Optuna, its numbers cut to the digits of a table."""
    values: dict[str, Any] = {}
    for key, choices in description.grid.items():
        # By position: Optuna takes no lists or mappings as a choice.
        values[key] = choices[trial.suggest_categorical(key, list(range(len(choices))))]
    for key, bounds in description.space.items():
        low, high = bounds.bounds
        if bounds.integers:
            values[key] = trial.suggest_int(key, int(low), int(high))
        else:
            values[key] = float(
                f"{trial.suggest_float(key, low, high, log=bounds.logarithmic):.6g}"
            )
    return values
