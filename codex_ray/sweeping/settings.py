"""Settings and trials: each a checked experiment, with its noise found, before anything runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from codex_ray.assembly import assemble
from codex_ray.calibrating import PLACES
from codex_ray.config import experiment_from, override, resolved
from codex_ray.errors import ConfigError
from codex_ray.experiment import Experiment
from codex_ray.privacy.noise_multiplier import AUTO
from codex_ray.sweeping.description import EPSILON, NOISE, GridSearch, RandomSearch, Sweep
from codex_ray.sweeping.selection import RepeatAndSelect, SelectionCost, selection_costs
from codex_ray.sweeping.space import Range, combinations, corners, drawn

REFERENCE = "reference"


@dataclass(frozen=True)
class Setting:
    """One trial to be: a setting and a seed.

    Attributes:
        number: of the trial, from 0; it names the trial's folder.
        values: what the search chose, by dotted key.
        seed: the run's.
        found: the noise multiplier that was found for an epsilon, by dotted key.
        reference: whether it is the setting that the others are compared with.
    """

    number: int
    values: dict[str, Any]
    seed: int
    found: dict[str, float] = field(default_factory=dict)
    reference: bool = False

    @property
    def overrides(self) -> dict[str, Any]:
        """What makes this trial's experiment of the sweep's base."""
        return self.values | self.found | {"seed": self.seed}

    @property
    def key(self) -> str:
        """Names the trial whatever its number: its values and its seed."""
        return json.dumps([self.values, self.seed, self.reference], sort_keys=True)


class Planner:
    """Makes checked trials of settings.

    Attributes:
        description: the sweep.
        base: the mapping of the base experiment, as its file has it.
    """

    def __init__(self, description: Sweep, base: Mapping[str, Any]) -> None:
        self.description = description
        self.base = override(base, {})
        placed: dict[str, Any] = {"cluster.hosts": description.hosts_per_trial, "compare": None}
        if description.plan is not None:
            placed["plan"] = description.plan
        self.common = override(override(base, description.set), placed)
        self._noise = self._noise_key()
        self._made = 0

    def _noise_key(self) -> str | None:
        """The noise multiplier that is found for each epsilon.

        Raises:
            ConfigError: the base has none, or several and nobody says which.
        """
        if not self.description.epsilons:
            return None
        if self.description.noise is not None:
            return self.description.noise
        places = [".".join(place) for place in PLACES if self._has_noise(place)]
        if len(places) != 1:
            said = "adds no noise" if not places else f"adds noise in {' and '.join(places)}"
            raise ConfigError(f"epsilons: the base experiment {said}: say which under noise")
        return f"{places[0]}.{NOISE}"

    def _has_noise(self, place: tuple[str, ...]) -> bool:
        inner: Any = self.common
        for name in place:
            inner = inner.get(name) if isinstance(inner, Mapping) else None
        return isinstance(inner, Mapping) and (NOISE in inner or inner.get("kind") == "gaussian")

    def experiment(self, setting: Setting) -> Experiment:
        """The setting's experiment.

        Raises:
            ConfigError: a key or a value of the setting is wrong.
        """
        return experiment_from(override(self.common, setting.overrides))

    def all(self) -> list[Setting] | None:
        """Every trial, checked; None where the search decides as it goes.

        Raises:
            ConfigError: a setting is no valid experiment, no noise reaches an epsilon, or the
                metric is none of the base's.
        """
        description = self.description
        found = self.reference()
        if isinstance(description.search, GridSearch):
            chosen = combinations(description.grid)
        elif isinstance(description.search, RandomSearch):
            chosen = [
                drawn(description.grid, description.space, seed=description.seed, number=number)
                for number in range(self._drawn_trials())
            ]
        else:
            for values in corners(description.grid, description.space):
                self._checked(values, number=0)
            self._check_metric(self._checked(values, number=0)[0])
            return None
        for values in chosen:
            found += self.trials(values)
        if found:
            self._check_metric(found[0])
        return found

    def settled(self) -> tuple[Planner, list[Setting] | None]:
        """The planner whose description names the plan of all trials, and its checked trials.

        Raises:
            ConfigError: as `all` does.
        """
        planner = Planner(self.description.model_copy(update={"plan": self.plan()}), self.base)
        return planner, planner.all()

    def plan(self) -> Any:
        """The one plan that all trials are computed by, chosen on the first setting.

        What is fastest is measured, and two plans differ in their last bits: were each trial to
        choose, the same sweep would not always give the same table.
        """
        description = self.description
        keys = {*description.grid, *description.space}
        if any(key.startswith(("model", "plan", "trainer.kind")) for key in keys):
            return self.common.get("plan", "reference")
        values = {key: choices[0] for key, choices in description.grid.items()}
        values |= {key: bounds.at(0.0) for key, bounds in description.space.items()}
        experiment = self.experiment(self._checked(values, number=0)[0])
        planned = assemble(experiment).with_plan(gpus=description.gpus_per_trial).experiment
        return resolved(planned)["plan"]

    def reference(self) -> list[Setting]:
        """The trials of the setting that all are compared with; none where there is none."""
        if not self.description.reference:
            return []
        found = [
            Setting(self._made + i, dict(self.description.reference), seed, reference=True)
            for i, seed in enumerate(self.description.seeds)
        ]
        assemble(self.experiment(found[0]))
        self._made += len(found)
        return found

    def trials(self, values: Mapping[str, Any]) -> list[Setting]:
        """A setting's trials, one for each epsilon and seed, numbered on from the last ones.

        Raises:
            ConfigError: it is no valid experiment, or no noise reaches an epsilon.
        """
        found = self._checked(values, number=self._made)
        self._made += len(found)
        return found

    def refused(self, values: Mapping[str, Any]) -> list[Setting]:
        """What `trials` would have made of a setting that is no valid experiment."""
        found: list[Setting] = []
        for chosen in self._for_each_epsilon(values):
            for seed in self.description.seeds:
                found.append(Setting(self._made + len(found), chosen, seed))
        self._made += len(found)
        return found

    def _for_each_epsilon(self, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The setting with each epsilon that is asked for; as it is, where none is."""
        epsilons = self.description.epsilons
        return [{EPSILON: epsilon} | dict(values) for epsilon in epsilons] or [dict(values)]

    def _checked(self, values: Mapping[str, Any], *, number: int) -> list[Setting]:
        found: list[Setting] = []
        for chosen in self._for_each_epsilon(values):
            seeds = self._seeds(number)
            noise = self._calibrated(chosen)
            for seed in seeds:
                found.append(Setting(number + len(found), chosen, seed, noise))
            try:
                assemble(self.experiment(found[-len(seeds)]))
            except ConfigError as error:
                raise ConfigError(f"{in_words(chosen)}: {error}") from None
        return found

    def _seeds(self, number: int) -> Sequence[int]:
        """One seed for all settings, or, where the choice is accounted, each trial's own."""
        seeds = self.description.seeds
        if isinstance(self.description.selection, RepeatAndSelect):
            return (seeds[0] + number,)
        return seeds

    def _calibrated(self, values: Mapping[str, Any]) -> dict[str, float]:
        """The noise multiplier that keeps the setting's epsilon; nothing where none is asked."""
        if self._noise is None:
            return {}
        asked = override(self.common, dict(values) | {self._noise: AUTO})
        try:
            experiment: Any = experiment_from(asked)
        except ConfigError as error:
            raise ConfigError(f"{in_words(values)}: {error}") from None
        for name in self._noise.split("."):
            experiment = getattr(experiment, name)
        return {self._noise: float(experiment)}

    def _drawn_trials(self) -> int:
        description = self.description
        if isinstance(description.selection, RepeatAndSelect):
            return description.selection.trials(description.seed)
        assert isinstance(description.search, RandomSearch)
        return description.search.trials or 0

    def _check_metric(self, setting: Setting) -> None:
        built = assemble(self.experiment(setting))
        known = sorted(built.evaluate(built.initial))
        if self.description.metric not in known:
            raise ConfigError(
                f"metric: no trial reports {self.description.metric!r}: it is one of "
                f"{', '.join(known)}"
            )

    def selection_costs(self) -> list[SelectionCost]:
        """What publishing the best trial costs, where that is accounted: of all of the space.

        Raises:
            ConfigError: a range changes what a trial costs, so that not all of it can be covered.
        """
        selection, description = self.description.selection, self.description
        if not isinstance(selection, RepeatAndSelect):
            return []
        middle = {key: bounds.at(0.5) for key, bounds in description.space.items()}
        settings = [
            setting
            for values in combinations(description.grid)
            for setting in self._checked(values | middle, number=0)
        ]
        for key, bounds in description.space.items():
            self._check_same_cost(selection, settings[0], key, bounds)
        return selection_costs(selection, [self.experiment(setting) for setting in settings])

    def _check_same_cost(
        self, selection: RepeatAndSelect, setting: Setting, key: str, bounds: Range
    ) -> None:
        costs = []
        for share in (0.0, 0.5, 1.0):
            values = setting.values | {key: bounds.at(share)}
            values.pop(EPSILON, None)
            again = self._checked(values, number=0)[0]
            costs.append(selection_costs(selection, [self.experiment(again)]))
        if any(cost != costs[0] for cost in costs):
            raise ConfigError(
                f"space: {key} changes what a trial costs, and repeat_and_select has to cover all "
                "that may be drawn: list its values under grid"
            )


def in_words(values: Mapping[str, Any]) -> str:
    """The last part of each dotted key, and its value."""
    return ", ".join(f"{key.rpartition('.')[2]} {value}" for key, value in values.items())
