"""`noise_multiplier: auto`: the least noise that keeps the budget, by the ledger itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import codex_ray
from codex_ray.accounting import costs
from codex_ray.calibrating import with_noise
from codex_ray.config import experiment_from, schema
from codex_ray.errors import ConfigError

MECHANISM = ("federation", "mechanism")


def asking(config, place, *, epsilon=2.0, rounds=20):
    """The experiment with `auto` at the place, and a budget to keep."""
    section = config
    for name in place:
        section = section[name]
    section["noise_multiplier"] = "auto"
    return config | {"rounds": rounds, "budget": {"epsilon": epsilon, "delta": 1e-5}}


def last_epsilon(experiment) -> float:
    return list(costs(experiment))[-1].epsilon


@pytest.mark.parametrize("epsilon", [0.5, 3.0])
@pytest.mark.parametrize(
    ("name", "place"), [("silos", ("trainer",)), ("devices", MECHANISM), ("adaptive", MECHANISM)]
)
def test_the_last_round_is_the_last_that_the_budget_allows(name, place, epsilon, request) -> None:
    config = asking(request.getfixturevalue(name), place, epsilon=epsilon)
    if name == "adaptive":
        config["federation"]["mechanism"]["count_noise"] = 50.0
    config["data"]["clients"] = 200 if name != "silos" else 6
    experiment = experiment_from(config)
    section = experiment.trainer if place == ("trainer",) else experiment.federation.mechanism
    assert 0.998 * epsilon <= last_epsilon(experiment) <= epsilon
    less = with_noise(experiment, place, section.noise_multiplier * 0.995)
    assert last_epsilon(less) > epsilon


def test_a_run_with_it_spends_its_budget_and_writes_down_the_number(silos, tmp_path) -> None:
    config = asking(silos, ("trainer",), epsilon=8.0, rounds=3)
    result = codex_ray.run(config, out=tmp_path / "run")
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    noise = written["trainer"]["noise_multiplier"]
    assert isinstance(noise, float) and result.rounds == 3
    assert 0.95 * 8 <= result.epsilon <= 8  # Whoever dropped in a round has paid less.


def test_it_needs_a_target(silos) -> None:
    silos["trainer"]["noise_multiplier"] = "auto"
    silos["budget"] = {"epsilon": None}
    with pytest.raises(ConfigError, match=r"trainer\.noise_multiplier is auto.* budget\.epsilon"):
        experiment_from(silos)


def test_a_target_out_of_reach_is_one_line(silos) -> None:
    with pytest.raises(ConfigError, match=r"^trainer\.noise_multiplier: \w+ "):
        config = asking(silos, ("trainer",))
        experiment_from(config | {"budget": {"epsilon": 1e-9, "delta": 1e-30}})


@pytest.mark.parametrize("word", ["Auto", "none", "-1"])
def test_no_other_word_is_taken(silos, word) -> None:
    silos["trainer"]["noise_multiplier"] = word
    with pytest.raises(ConfigError, match=r"trainer\.noise_multiplier"):
        experiment_from(silos)


def test_the_schema_takes_it() -> None:
    import jsonschema

    config = yaml.safe_load(Path("experiments/quickstart.yaml").read_text())
    config["trainer"]["noise_multiplier"] = "auto"
    jsonschema.validate(config, schema())
