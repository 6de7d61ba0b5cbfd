"""A wrong sweep is one line before any trial; a range and a random search are what they say."""

from __future__ import annotations

import numpy as np
import pytest

from codex_ray.config import validated
from codex_ray.errors import ConfigError
from codex_ray.sweeping.description import Sweep, overridden
from codex_ray.sweeping.space import Range, combinations, drawn

NOISE = "federation.mechanism.noise_multiplier"
CLIP = "federation.mechanism.clip_norm"
UNREACHED = {"budget.delta": 1e-7, "federation.sampler.kind": "all", "plan": "reference"}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"gird": {}}, "did you mean 'grid'?"),
        ({"grid": {}}, "grid: there is nothing to vary"),
        ({"grid": {CLIP: []}}, f"grid: {CLIP} has no values"),
        ({"space": {CLIP: {"log_uniform": [0.1, 1]}}}, "a grid search cannot take"),
        ({"space": {CLIP: {"uniform": [2, 1]}}, "search": "grid"}, "is no range"),
        ({"space": {CLIP: {"log_uniform": [0, 1]}}}, "both bounds must be positive"),
        ({"space": {CLIP: {}}}, "a range is one of uniform"),
        ({"search": "random"}, "search.trials: is missing"),
        ({"search": {"kind": "bayes"}}, "no kind of search"),
        ({"grid": {"seed": [1, 2]}}, "list seeds under seeds"),
        ({"seeds": [1, 1]}, "listed twice"),
        ({"epsilons": [1.0], "grid": {NOISE: [1.0]}}, "noise is found for each"),
        ({"epsilons": [1.0], "grid": {"budget.epsilon": [1.0]}}, "is varied too"),
        ({"epsilons": [-1.0], "grid": {CLIP: [1.0]}}, "must be positive"),
        ({"selection": "repeat_and_select"}, "set search to {kind: random}, without trials"),
        (
            {"selection": "repeat_and_select", "search": {"kind": "random", "trials": 3}},
            "without trials",
        ),
        (
            {"selection": "repeat_and_select", "search": "random", "stopping": "asha"},
            "leave stopping out",
        ),
        (
            {"selection": "repeat_and_select", "search": "random", "seeds": [0, 1]},
            "leave seeds out",
        ),
        ({"selection": {"kind": "repeat_and_select", "shape": 2.0}, "search": "random"}, "shape"),
    ],
)
def test_what_cannot_be_swept_is_refused_in_a_line(described, fields, said) -> None:
    with pytest.raises(ConfigError) as error:
        described(**fields)
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"grid": {"federation.mechanism.noise": [1]}}, "federation.mechanism.noise: unknown key"),
        ({"grid": {CLIP: [1, -1]}}, "clip_norm: -1 cannot be used"),
        ({"grid": {CLIP: [1.0]}, "metric": "f1"}, "no trial reports 'f1': it is one of accuracy"),
        ({"reference": {"federation.mechanism.kind": "nose"}}, "did you mean 'none'?"),
        (
            {"grid": {CLIP: [1.0]}, "epsilons": [1.0], "noise": "trainer.noise_multiplier"},
            "trainer.noise_multiplier",
        ),
        (
            {"grid": {CLIP: [0.5]}, "epsilons": [1e-9], "set": UNREACHED},
            "epsilon 1e-09, clip_norm 0.5: federation.mechanism.noise_multiplier: no noise reaches",
        ),
        (
            {
                "space": {CLIP: {"uniform": [-1.0, 1.0]}},
                "search": {"kind": "random", "trials": 20},
            },
            "clip_norm",
        ),
    ],
)
def test_a_setting_that_is_no_experiment_is_refused_before_any_trial(planned, fields, said) -> None:
    with pytest.raises(ConfigError) as error:
        planned(**fields).all()
    assert said in str(error.value)


def test_an_override_reaches_a_dotted_key_of_the_base(devices) -> None:
    mapping = {"base": devices, "set": {"rounds": 2, CLIP: 1.0}, "grid": {NOISE: [1]}}
    overrides = {f"set.{CLIP}": 2.0, "grid.trainer.learning_rate": [0.1], "search.kind": "grid"}
    found = validated(Sweep, overridden(mapping, overrides))
    assert found.set == {"rounds": 2, CLIP: 2.0}
    assert found.grid == {NOISE: [1], "trainer.learning_rate": [0.1]}
    assert mapping["set"] == {"rounds": 2, CLIP: 1.0}


def test_what_adds_no_noise_has_no_epsilon_to_fix(described, devices) -> None:
    from codex_ray.sweeping.settings import Planner

    with pytest.raises(ConfigError, match="the base experiment adds no noise"):
        Planner(
            described(
                epsilons=[1.0],
                grid={"rounds": [1]},
                set={"federation.mechanism.kind": "none"},
            ),
            devices,
        )


def test_a_range_is_spread_as_it_says() -> None:
    shares = (np.arange(2000) + 0.5) / 2000
    even = [Range(uniform=(1, 3)).at(s) for s in shares]
    assert min(even) >= 1 and max(even) <= 3 and np.mean(even) == pytest.approx(2, rel=1e-3)
    log = [Range(log_uniform=(0.01, 1)).at(s) for s in shares]
    assert np.median(log) == pytest.approx(0.1, rel=1e-2)
    whole = [Range(integers=(1, 4)).at(s) for s in shares]
    assert {whole.count(i) for i in (1, 2, 3, 4)} == {500}
    assert Range(integers=(1, 4)).at(1.0) == 4


def test_a_drawn_setting_depends_on_the_seed_and_its_number_alone() -> None:
    grid, space = {"a": [1, 2, 3]}, {"b": Range(log_uniform=(0.01, 1))}
    ten = [drawn(grid, space, seed=1, number=n) for n in range(10)]
    assert ten[7] == drawn(grid, space, seed=1, number=7)
    assert ten != [drawn(grid, space, seed=2, number=n) for n in range(10)]
    assert {values["a"] for values in ten} == {1, 2, 3} and len({v["b"] for v in ten}) == 10


def test_a_grid_is_every_combination_in_order() -> None:
    found = combinations({"a": [1, 2], "b": [3, 4]})
    assert [tuple(v.values()) for v in found] == [(1, 3), (1, 4), (2, 3), (2, 4)]
