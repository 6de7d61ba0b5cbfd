"""What an experiment will cost in privacy, round by round, without running it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from codex_ray.assembly import assemble, charges
from codex_ray.consistency import check_budget
from codex_ray.experiment import Experiment
from codex_ray.figures import figures_event
from codex_ray.privacy.events import event_in_words, flatten
from codex_ray.privacy.ledger import EVERYONE


@dataclass(frozen=True)
class Cost:
    """What a holder who takes part whenever anyone may has spent after `rounds` rounds.

    `affordable` is False from the first round on that the budget would stop; `accountant` says in
    words how epsilon was found, and between which neighbours.
    """

    rounds: int
    unit: str
    epsilon: float
    affordable: bool
    accountant: str


def costs(experiment: Experiment) -> Iterator[Cost]:
    """The cost after each round, for each unit, up to the last planned round."""
    budget = experiment.budget.epsilon
    built = assemble(experiment)
    priced = built.charges
    ledgers = [ledger.worst() for ledger in built.fresh_ledgers()]
    stopped, taken = False, 0
    for number in range(1, experiment.rounds + 1):
        found, over = [], False
        often = experiment.federation.sampler.schedule(number).participations
        takes_part, taken = often > taken, often
        for charge, ledger in zip(priced, ledgers, strict=True):
            if takes_part and charge.owed(ledger):
                ledger.charge(charge.event(None), [EVERYONE])
            spend = ledger.spends([EVERYONE], assumptions=())[0]
            neighbours = charge.claim.neighbours.replace("_", " ")
            if budget is not None and not charge.claim.outside:
                over = over or spend.epsilon > budget
            found.append((charge.claim.label, spend.epsilon, f"{spend.accountant}, {neighbours}"))
        stopped = stopped or over
        for label, epsilon, accountant in found:
            yield Cost(number, label, epsilon, not stopped, accountant)


def claims(experiment: Experiment) -> list[str]:
    """In words, what one round costs each unit; nothing where no noise is added.

    Raises:
        ConfigError: an epsilon is budgeted, but no noise is added.
    """
    check_budget(experiment)
    found = []
    if experiment.preparation.noise_multiplier is not None:
        event = figures_event(experiment, assemble(experiment).dataset.population)
        assert event is not None  # Noise makes a claim.
        found.append(f"figures of the records cost {event_in_words(event)} once, before all rounds")
    for charge in charges(experiment):
        inner, count = flatten(charge.event(None))
        words = f"{count} x ({event_in_words(inner)})"
        claim = charge.claim
        often = "once, before all rounds" if charge.once else "a round"
        found.append(f"a {claim.unit} pays {words} {often} ({claim.name}: {claim.against})")
    federation, rounds = experiment.federation, experiment.rounds
    epsilon = federation.extrapolated(rounds=rounds, delta=experiment.budget.delta)
    if federation.presumed is not None:
        words = federation.presumed.words(rounds)
        found.append(f"extrapolated: a client pays epsilon {epsilon:.4f}, {words}")
    return found
