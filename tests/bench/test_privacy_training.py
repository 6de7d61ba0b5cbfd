"""What noise does to a model: arms share everything but the noise, and bars can be missed."""

from __future__ import annotations

import numpy as np
import pytest

from codex_ray.assembly import assemble
from codex_ray.bench import privacy_training
from codex_ray.bench.parts import measured
from codex_ray.bench.privacy import PARTS
from codex_ray.bench.privacy_training import Arm, _central, _compared, _inside, _run
from codex_ray.config import experiment_from

PLAIN = Arm(np.array([0.95, 0.96, 0.94]), 0.0)
CENTRAL = Arm(np.array([0.80, 0.82, 0.84]), 4.0)


@pytest.mark.slow
def test_the_arms_have_one_epsilon_by_one_accountant_and_16_bits() -> None:
    rows = measured(PARTS, ["noise-inside"], scale=0.1)
    assert [row.name.split(" against")[0] for row in rows] == [
        "16-bit discrete Gaussian",
        "16-bit Skellam",
    ]
    for row in rows:
        figures = {one.what: one for one in row.figures}
        assert figures["epsilon by RDP"].holds
        assert figures["epsilon by RDP"].value == pytest.approx(4, rel=2e-3)
        central = figures["epsilon of central noise by RDP"].value
        assert central == pytest.approx(4, rel=2e-3)
        assert figures["|mean difference|"].high == figures["its standard error"].value
    codec = assemble(experiment_from(_inside("skellam", 2))).codec
    assert codec.bits == 16 and codec.noise > 0


def test_everything_but_the_noise_is_shared() -> None:
    arms = [experiment_from(one) for one in (_central(2), _inside("skellam", 2))]
    quiet = {"noise_multiplier": 0.1}
    for at, arm in enumerate(arms):
        mechanism = arm.federation.mechanism.model_copy(update=quiet)
        federation = arm.federation.model_copy(update={"mechanism": mechanism})
        without = arm.budget.model_copy(update={"epsilon": None})
        arms[at] = arm.model_copy(update={"federation": federation, "budget": without})
    one, other = (arm.model_dump() for arm in arms)
    assert one["federation"].pop("mechanism") != other["federation"].pop("mechanism")
    assert one == other
    assert _run(arms[0])[0] == pytest.approx(_run(arms[1])[0], abs=0.01)


def test_a_difference_is_held_against_its_own_standard_error() -> None:
    near = Arm(CENTRAL.accuracies + np.array([0.01, -0.01, 0.002]), 4.0)
    off = Arm(CENTRAL.accuracies - np.array([0.01, 0.012, 0.011]), 4.0)
    dear = Arm(near.accuracies, 4.09)
    held = [_compared("x", arm, CENTRAL, PLAIN).holds for arm in (near, off, dear)]
    assert held == [True, False, False]
    row = _compared("x", off, CENTRAL, PLAIN)
    figures = {one.what: one.value for one in row.figures}
    assert figures["mean difference"] == pytest.approx(-0.011)
    assert figures["its standard error"] == pytest.approx(0.001 / 3**0.5)


def test_correlated_noise_is_held_against_the_published_gain(monkeypatch) -> None:
    (row,) = measured(PARTS, ["correlated"], scale=0.1)
    assert "against" in row.found and len(row.figures) == 9
    found = {
        "accuracy": {"none": 0.90, "independent": 0.80, "correlated": 0.86},
        "sum_errors": {"independent": 10.0, "banded": 3.0, "buffered": 3.1},
        "gain": 0.06,
        "gain_standard_error": 0.01,
        "seeds_won": 5,
    }
    for changes, holds in (
        ({}, True),
        ({"gain": 0.04}, False),  # less than half of what noise costs
        ({"gain_standard_error": 0.03}, False),
        ({"seeds_won": 4}, False),
        ({"sum_errors": found["sum_errors"] | {"banded": 4.0}}, False),
    ):
        changed = found | changes
        monkeypatch.setattr(
            privacy_training, "compare_training", lambda *_, changed=changed, **__: changed
        )
        assert measured(PARTS, ["correlated"])[0].holds == holds
