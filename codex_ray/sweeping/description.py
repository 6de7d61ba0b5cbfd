"""The description of a sweep: what its YAML says, checked on its own before anything is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from codex_ray.config import override
from codex_ray.sweeping.selection import (
    NotAccounted,
    PublicData,
    RepeatAndSelect,
    Selection,
)
from codex_ray.sweeping.space import Range
from codex_ray.types import Component

NOISE = "noise_multiplier"
EPSILON = "budget.epsilon"
OF_THE_BASE = ("set", "grid", "space", "reference")
"""Fields of a sweep whose own keys are dotted keys of the base experiment."""


class GridSearch(Component):
    """Every combination of the grid's values."""

    kind: Literal["grid"] = "grid"


class RandomSearch(Component):
    """Settings drawn independently; the number-th depends on nothing but the sweep's seed."""

    kind: Literal["random"] = "random"
    trials: int | None = Field(
        default=None, ge=1, description="Settings to draw; left out where selection draws it."
    )


class OptunaSearch(Component):
    """Settings that Optuna proposes: a high metric against a low epsilon, or the metric alone.

    It is asked for a batch and told of all of it, in order, before the next: what it proposes
    then depends on the sweep's seed and never on which trial was faster.
    """

    kind: Literal["optuna"] = "optuna"
    trials: int = Field(ge=1, description="Settings to propose.")
    batch: int = Field(default=4, ge=1, description="Settings between two looks at results.")


class Asha(Component):
    """Asynchronous successive halving (Li et al. 2020): the lower part of each rung stops early.

    Which trials stop depends on which came first: such a table is not repeated by its seed.
    """

    kind: Literal["asha"] = "asha"
    grace: int = Field(default=1, ge=1, description="Rounds that every trial may run.")
    reduction: float = Field(default=3.0, gt=1, description="One in so many goes on at a rung.")


class MedianStopping(Component):
    """A trial stops where its best result so far is below the median of the others' means.

    Golovin et al. 2017. Which trials stop depends on which came first, as above.
    """

    kind: Literal["median"] = "median"
    grace: int = Field(default=1, ge=1, description="Rounds that every trial may run.")
    at_least: int = Field(default=3, ge=1, description="Trials that a median is taken of.")


def overridden(mapping: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping of a sweep with each key replaced; in `set.rounds` all after `set` is one key.

    Raises:
        ConfigError: a key goes through something that is no mapping.
    """
    found, rest = dict(mapping), {}
    for key, value in overrides.items():
        section, _, inner = key.partition(".")
        if inner and section in OF_THE_BASE:
            found[section] = dict(found.get(section) or {}) | {inner: value}
        else:
            rest[key] = value
    return override(found, rest)


def _by_kind(value: Any) -> Any:
    """`selection: public_data` is short for `selection: {kind: public_data}`."""
    return {"kind": value} if isinstance(value, str) else value


class Sweep(Component):
    """Which experiments a sweep runs, and how what comes out is to be read."""

    name: str = Field(default="sweep", pattern=r"^[\w.-]+$", description="Names the folder.")
    question: str = Field(default="", description="What the sweep is to answer, in a sentence.")
    base: str | dict[str, Any] = Field(
        description="The experiment that every trial varies: a file, relative to this one, or keys."
    )
    set: dict[str, Any] = Field(
        default_factory=dict, description="Dotted keys of the base that all trials override."
    )
    grid: dict[str, list[Any]] = Field(
        default_factory=dict, description="Dotted keys and the values that each takes."
    )
    space: dict[str, Range] = Field(
        default_factory=dict, description="Dotted keys and ranges, for random and optuna searches."
    )
    search: Annotated[
        GridSearch | RandomSearch | OptunaSearch,
        Field(discriminator="kind", description="How settings are chosen."),
        BeforeValidator(_by_kind),
    ] = GridSearch()
    epsilons: tuple[float, ...] = Field(
        default=(),
        description="Fixed epsilon: the noise of each setting is found for each of these.",
    )
    noise: str | None = Field(
        default=None,
        description="The noise multiplier that is found for `epsilons`; by default the base's one.",
    )
    reference: dict[str, Any] = Field(
        default_factory=dict,
        description="Overrides of one more setting to draw beside the others: one without noise.",
    )
    seeds: tuple[int, ...] = Field(
        default=(0,), min_length=1, description="Each setting is run with each of these."
    )
    seed: int = Field(default=0, ge=0, description="Of what the search itself draws.")
    metric: str = Field(default="accuracy", description="The test metric on the frontier.")
    goal: Literal["max", "min"] = Field(default="max", description="Whether more of it is better.")
    stopping: Annotated[
        Asha | MedianStopping | None,
        Field(discriminator="kind", description="Which trials end before their last round."),
        BeforeValidator(_by_kind),
    ] = None
    selection: Annotated[
        Selection,
        Field(discriminator="kind", description="How choosing the best trial is treated."),
        BeforeValidator(_by_kind),
    ] = NotAccounted()
    plan: str | dict[str, Any] | None = Field(
        default=None,
        description="How training is computed, as in an experiment: one plan for all trials, which "
        "is settled when the sweep begins.",
    )
    cpus_per_trial: float = Field(default=1, gt=0, description="CPUs that a trial takes.")
    gpus_per_trial: float = Field(default=0, ge=0, description="GPUs, or a share of one.")
    hosts_per_trial: int = Field(
        default=0, ge=0, description="Ray hosts of a trial, reserved together; 0: one process."
    )
    concurrent: int | None = Field(
        default=None, ge=1, description="Trials at a time; by default as many as fit."
    )

    @model_validator(mode="after")
    def _searchable(self) -> Sweep:
        """Refuses a search that has nothing to choose, or something that it cannot choose."""
        if not self.grid and not self.space and not self.epsilons:
            raise ValueError("grid: there is nothing to vary: give a key and its values")
        for key, values in self.grid.items():
            if not values:
                raise ValueError(f"grid: {key} has no values, so there is nothing to run")
        if both := sorted(set(self.grid) & set(self.space)):
            raise ValueError(f"space: {both[0]} is in grid too: leave one out")
        if self.space and self.search.kind == "grid":
            raise ValueError(
                f"space: a grid search cannot take {min(self.space)} from a range: list its values "
                "under grid, or set search to {kind: random, trials: 20}"
            )
        if "seed" in {*self.grid, *self.space, *self.set}:
            raise ValueError("seed: list seeds under seeds, which makes error bars of them")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: one of them is listed twice: a copy makes no error bar")
        return self

    @model_validator(mode="after")
    def _fixed_epsilon(self) -> Sweep:
        """Refuses a noise or a budget that is given and asked for at once."""
        if any(not epsilon > 0 for epsilon in self.epsilons):
            raise ValueError("epsilons: an epsilon must be positive")
        if len(set(self.epsilons)) < len(self.epsilons):
            raise ValueError("epsilons: one of them is listed twice: leave one out")
        varied = {*self.grid, *self.space}
        if self.epsilons and EPSILON in varied:
            raise ValueError(f"epsilons: {EPSILON} is varied too: leave one out")
        if self.epsilons and (given := sorted(k for k in varied if k.endswith("." + NOISE))):
            raise ValueError(
                f"epsilons: the noise is found for each, so {given[0]} cannot be given"
            )
        if self.epsilons and self.search.kind == "optuna" and len(self.epsilons) > 1:
            raise ValueError("epsilons: optuna improves the metric at one epsilon: give one")
        if self.noise is not None and not self.epsilons:
            raise ValueError("noise: it is found for epsilons: give them, or leave it out")
        return self

    @model_validator(mode="after")
    def _accountable(self) -> Sweep:
        """Refuses what the accounting of a random number of trials does not cover."""
        if not isinstance(self.selection, RepeatAndSelect):
            if isinstance(self.search, RandomSearch) and self.search.trials is None:
                raise ValueError("search.trials: is missing: say how many settings to draw")
            return self
        if not isinstance(self.search, RandomSearch) or self.search.trials is not None:
            raise ValueError(
                "selection: repeat_and_select draws each trial's setting, and how many there are: "
                "set search to {kind: random}, without trials"
            )
        for field, wrong in (
            ("stopping", self.stopping is not None),
            ("reference", bool(self.reference)),
            ("seeds", len(self.seeds) > 1),
        ):
            if wrong:
                raise ValueError(
                    f"selection: repeat_and_select covers whole trials of one run each, chosen "
                    f"blindly: leave {field} out (one seed is enough: each trial gets its own)"
                )
        return self

    @property
    def public(self) -> bool:
        """Whether the trials are said to have run on public data."""
        return isinstance(self.selection, PublicData)

    @property
    def keys(self) -> list[str]:
        """What varies, in the order of the columns."""
        return [*([EPSILON] if self.epsilons else []), *self.grid, *self.space]
