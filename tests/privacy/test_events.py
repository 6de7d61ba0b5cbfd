"""Events group, are written and said; survivor counts never round up."""

from __future__ import annotations

import json

import dp_accounting as dp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_ray.errors import PrivacyError
from codex_ray.privacy.distributed_events import DiscreteGaussianSum, SkellamSum
from codex_ray.privacy.events import (
    event_from_json,
    event_in_words,
    event_to_json,
    has_loss_distribution,
    on_grid,
    relations,
)

GAUSSIAN = dp.GaussianDpEvent(1.5)
DISCRETE = DiscreteGaussianSum(100, 4.5, 300.0, 9e4, 2**17)
SKELLAM = SkellamSum(2025.0, 300.0, 9e4)
EVERY = [
    GAUSSIAN,
    DISCRETE,
    SKELLAM,
    dp.PoissonSampledDpEvent(0.1, GAUSSIAN),
    dp.PoissonSampledDpEvent(0.1, DISCRETE),
    dp.PoissonSampledDpEvent(0.1, SKELLAM),
    dp.SampledWithoutReplacementDpEvent(1000, 50, GAUSSIAN),
]


@pytest.mark.parametrize("event", EVERY, ids=lambda event: type(event).__name__)
def test_an_event_survives_being_written(event) -> None:
    again = event_from_json(json.loads(json.dumps(event_to_json(event))))
    assert again == event and hash(again) == hash(event)
    assert type(again) is type(event)


def test_what_is_known_of_each_event() -> None:
    both = ("add_or_remove_one", "replace_one")
    assert [relations(event) for event in EVERY] == [
        *[both] * 4,
        *[("add_or_remove_one",)] * 2,
        ("replace_one",),
    ]
    assert [has_loss_distribution(event) for event in EVERY] == [
        *[True, False, False],
        *[True, False, False],
        False,
    ]


def test_events_are_said_in_words() -> None:
    said = [event_in_words(event) for event in EVERY]
    assert said[0] == "Gaussian, noise multiplier 1.5"
    assert "100 clients, sigma 4.5 each" in said[1]
    assert "Skellam noise of variance 2025" in said[2]
    assert said[5] == f"Poisson sampling at rate 0.1 of {said[2]}"
    assert said[6] == f"50 of 1000, drawn at once, of {said[0]}"


@pytest.mark.parametrize("bad", [{"l2": 0.0}, {"l1": float("nan")}, {"variance": -1.0}])
def test_noise_that_cannot_be_is_refused(bad) -> None:
    with pytest.raises(PrivacyError, match=f"SkellamSum: {next(iter(bad))} must be positive"):
        SkellamSum(**{"variance": 1.0, "l2": 1.0, "l1": 1.0} | bad)


@given(st.integers(1, 50_000), st.integers(0, 60_000))
def test_survivors_round_down_to_a_grid_of_a_per_cent(cohort, survivors) -> None:
    found = on_grid(survivors, cohort)
    assert found <= survivors < found + cohort / 100 + 1
    assert on_grid(found, cohort) == found
    assert on_grid(survivors + 1, cohort) >= found


def test_a_grid_has_about_a_hundred_points() -> None:
    assert len({on_grid(survivors, 12_345) for survivors in range(12_346)}) == 101
    assert on_grid(12_345, 12_345) == 12_345
    with pytest.raises(PrivacyError, match="no such cohort"):
        on_grid(1, 0)
