"""What an experiment will cost in privacy, round by round, without running it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from codex_ray.experiment import Experiment, check_budget, privacy_events
from codex_ray.privacy.events import event_in_words, flatten
from codex_ray.privacy.ledger import EVERYONE, Ledger, Unit


@dataclass(frozen=True)
class Cost:
    """What a holder who takes part in every round has spent after `rounds` rounds.

    `affordable` is False from the first round on that the budget would stop.
    """

    rounds: int
    unit: Unit
    epsilon: float
    affordable: bool


def costs(experiment: Experiment) -> Iterator[Cost]:
    """The cost after each round, for each unit, up to the last planned round."""
    budget = experiment.budget.epsilon
    events = privacy_events(experiment)
    ledgers = {unit: Ledger(unit, experiment.budget.delta) for unit in events}
    stopped = False
    for number in range(1, experiment.rounds + 1):
        found = []
        for unit, ledger in ledgers.items():
            ledger.charge(events[unit], [EVERYONE])
            spend = ledger.spends([EVERYONE], assumptions=())[0]
            found.append((unit, spend.epsilon))
        stopped = stopped or any(budget is not None and eps > budget for _, eps in found)
        for unit, epsilon in found:
            yield Cost(number, unit, epsilon, not stopped)


def claims(experiment: Experiment) -> list[str]:
    """In words, what one round costs each unit; nothing where no noise is added.

    Raises:
        ConfigError: an epsilon is budgeted, but no noise is added.
    """
    check_budget(experiment)
    found = []
    for unit, event in privacy_events(experiment).items():
        inner, count = flatten(event)
        found.append(f"a {unit} pays {count} x ({event_in_words(inner)}) a round")
    return found
