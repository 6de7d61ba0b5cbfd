"""How the choice of the best trial is treated: it is itself a release about the data.

A sweep says one of three things, on every artefact: the data were public; nothing was accounted;
or the number of trials was drawn at random, and publishing the best of them costs what it costs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from codex_ray.assembly import assemble
from codex_ray.errors import ConfigError
from codex_ray.experiment import Experiment
from codex_ray.privacy.events import Entries, event_to_json, flatten
from codex_ray.privacy.renyi import Floats, epsilon_from
from codex_ray.randomness import Randomness
from codex_ray.sweeping.repeat_and_select import SHAPES, Law, LawName
from codex_ray.types import Component

if TYPE_CHECKING:
    from codex_ray.privacy.events import Relation

NOT_ACCOUNTED = (
    "Choosing among these trials is itself a release about the data that they were scored on. It "
    "is NOT accounted: the epsilon of a point is that of running it alone."
)


class NotAccounted(Component):
    """The choice is not paid for, and every artefact says so."""

    kind: Literal["not_accounted"] = "not_accounted"

    @property
    def words(self) -> str:
        """What stands on every artefact."""
        return NOT_ACCOUNTED


class PublicData(Component):
    """The trials ran on public or proxy data, whoever describes the sweep says."""

    kind: Literal["public_data"] = "public_data"
    data: str = Field(
        default="the data of its base experiment", description="Which data, and why it is public."
    )

    @property
    def words(self) -> str:
        """What stands on every artefact."""
        return (
            f"Public data, by the word of whoever described this sweep: {self.data}. Choosing "
            "among its trials then costs nothing; the epsilon of a point is that of running it "
            "once on private data."
        )


class RepeatAndSelect(Component):
    """A random number of trials, each of a setting drawn anew; only the best one may be shown."""

    kind: Literal["repeat_and_select"] = "repeat_and_select"
    law: LawName = Field(default="geometric", description="The law of the number of trials.")
    mean: float = Field(default=10.0, ge=1, description="Its mean.")
    shape: float | None = Field(
        default=None, gt=0, description="Of truncated_negative_binomial only."
    )

    @model_validator(mode="after")
    def _shape_where_it_belongs(self) -> RepeatAndSelect:
        free = self.law == "truncated_negative_binomial"
        if free and self.shape is None:
            raise ValueError("selection.shape: truncated_negative_binomial needs one: give it")
        if not free and self.shape is not None:
            raise ValueError(f"selection.shape: {self.law} has a shape of its own: leave it out")
        return self

    @property
    def distribution(self) -> Law:
        """The law with its mean."""
        return Law(self.mean, SHAPES.get(self.law, self.shape or 0.0))

    def trials(self, seed: int) -> int:
        """How many trials there are: drawn from the sweep's seed, before anything runs."""
        return self.distribution.draw(Randomness.of(seed).public.stream("sweep", "trials"))

    @property
    def words(self) -> str:
        """What stands on every artefact, before what it costs."""
        return (
            f"The number of trials was drawn at random ({self.law.replace('_', ' ')}, mean "
            f"{self.mean:g}); publishing the best trial, its setting and its score alone is "
            "accounted (Papernot and Steinke 2022). Every other line, point and colour here is "
            "for the holders of the data only, and so is this file."
        )


Selection = NotAccounted | PublicData | RepeatAndSelect


@dataclass(frozen=True)
class SelectionCost:
    """What publishing the best trial costs, for one claim.

    Attributes:
        claim: the claim's label: whose data, and whether only outsiders look.
        against: who may look at what.
        single: the epsilon of one trial, whichever setting it draws, by the same accountant.
        epsilon: of publishing the best one.
        delta: at which both are stated.
        event: of the whole sweep, as plain data.
    """

    claim: str
    against: str
    single: float
    epsilon: float
    delta: float
    event: dict[str, Any]

    @property
    def words(self) -> str:
        """The cost in a line."""
        return (
            f"Publishing the best trial alone costs a {self.claim.replace('_', ' ')} epsilon "
            f"{self.epsilon:.4f} at delta {self.delta:g} (one trial alone: {self.single:.4f}; "
            "RDP, an upper bound)."
        )


@dataclass(frozen=True)
class _Try:
    """One claim of one setting: what a whole run of it costs at most."""

    claim: str
    against: str
    entries: Entries
    relation: Relation
    delta: float
    shortfall: float

    @property
    def curve(self) -> Floats:
        from codex_ray.privacy.accountants import renyi_of

        return renyi_of(self.entries, self.relation)


def _tries(experiment: Experiment) -> list[_Try]:
    """What a run costs somebody who takes part as often as anyone may, for each of its claims."""
    built = assemble(experiment)
    often = experiment.federation.sampler.schedule(experiment.rounds).participations
    found = []
    for charge in built.charges:
        event, count = flatten(charge.event(None))
        entries = ((event, count if charge.once else count * often),)
        claim, delta = charge.claim, experiment.budget.delta
        found.append(
            _Try(
                claim.label, claim.against, entries, claim.relation, delta, spare(experiment, built)
            )
        )
    return found


def spare(experiment: Experiment, built: Any) -> float:
    """The part of delta that one run sets aside for cohorts that are too small."""
    return 0.0 if experiment.federation.mechanism.kind == "none" else float(built.shortfall)


def selection_costs(
    selection: RepeatAndSelect, experiments: Sequence[Experiment]
) -> list[SelectionCost]:
    """What publishing the best trial costs, for each claim; of all settings that may be drawn.

    A try draws its setting, so that its divergence is at most the largest of any setting's. Every
    try may meet a cohort that is too small: what is set aside of delta for that counts as often
    as there are tries on average.

    Raises:
        ConfigError: nothing is claimed, settings differ in what they claim, or delta is used up.
    """
    law = selection.distribution
    by_setting = [_tries(experiment) for experiment in experiments]
    kinds = {tuple((t.claim, t.relation, t.delta) for t in tries) for tries in by_setting}
    if len(kinds) != 1:
        raise ConfigError(
            "selection: the settings make different claims (unit, neighbours or delta), so that "
            "no single epsilon covers the choice among them: sweep one claim at a time"
        )
    if not by_setting[0]:
        raise ConfigError(
            "selection: no noise is added anywhere, so that there is nothing to account: use "
            "not_accounted or public_data"
        )
    return [_cost(law, tries) for tries in zip(*by_setting, strict=True)]


def _cost(law: Law, tries: Sequence[_Try]) -> SelectionCost:
    first = tries[0]
    curve = reduce(np.maximum, [one.curve for one in {t.entries: t for t in tries}.values()])
    shortfall = max(one.shortfall for one in tries)
    left = first.delta - law.mean * shortfall
    if left <= 0:
        raise ConfigError(
            f"budget.delta is {first.delta:g}, but cohorts that are too small take "
            f"{law.mean * shortfall:.2g} of it over {law.mean:g} trials: raise it, or the cohorts"
        )
    entries = sorted({one.entries for one in tries}, key=repr)
    event = {
        "event": "repeat_and_select",
        "mean": law.mean,
        "shape": law.shape if math.isfinite(law.shape) else "inf",
        "of_any": [[[event_to_json(e), n] for e, n in each] for each in entries],
    }
    return SelectionCost(
        claim=first.claim,
        against=first.against,
        single=epsilon_from(curve, first.delta - shortfall)[0],
        epsilon=epsilon_from(law.selected(curve), left)[0],
        delta=first.delta,
        event=event,
    )
