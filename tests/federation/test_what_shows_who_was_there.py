"""Cohorts without a sum, and sizes of cohorts, tell of who was there: what claims make of it."""

from __future__ import annotations

import json
from typing import Any

import dp_accounting as dp
import pytest

import codex_ray
from codex_ray.accounting import costs
from codex_ray.api import plan
from codex_ray.assembly import assemble
from codex_ray.certifying.verify import verify
from codex_ray.config import experiment_from
from codex_ray.errors import ConfigError
from codex_ray.federation.federation import Federation
from codex_ray.privacy.claims import DISTRIBUTED_OUTSIDE, KNOWN, SPACED
from codex_ray.privacy.distributed_events import DiscreteGaussianSum
from codex_ray.privacy.renyi import EVERY_ORDER, any_without_replacement, gaussian
from codex_ray.records.console import privacy_in_words

CENTRAL = {"kind": "gaussian", "clip_norm": 1.0, "noise_multiplier": 100.0}


def federation(protocol: dict[str, Any], **others: Any) -> Federation:
    fields = {"sampler": {"kind": "poisson", "rate": 0.5}, "mechanism": CENTRAL} | others
    return Federation.model_validate(fields | {"protocol": protocol})


@pytest.mark.parametrize(
    "protocol",
    [
        {"kind": "secagg_plus", "smallest_cohort": 50},
        {"kind": "one_shot", "smallest_cohort": 50},
        {"kind": "ideal", "fewest_survivors": 50},
        {"kind": "secagg", "threshold": 40},
    ],
    ids=["smallest", "one-shot", "fewest", "threshold"],
)
def test_cohorts_below_a_protocol_s_own_minimum_count_as_a_shortfall(protocol) -> None:
    """Half of all cohorts of a hundred coins are below 50: no delta covers that."""
    asked = federation(protocol)
    assert asked.shortfall(100, rounds=60) > 0.5
    with pytest.raises(ConfigError, match="a cohort is too small with probability 1"):
        asked.check(100, rounds=60, delta=1e-5)


def test_a_minimum_out_of_reach_costs_little() -> None:
    asked = federation({"kind": "secagg_plus", "smallest_cohort": 10})
    assert 0 < asked.shortfall(100, rounds=60) < 1e-12


def test_where_cohorts_are_known_a_missing_sum_is_missing_in_both_worlds(devices) -> None:
    everyone = devices["federation"] | {"sampler": {"kind": "all"}}
    (charge,) = assemble(experiment_from(devices | {"federation": everyone})).charges
    assert charge.claim is KNOWN and KNOWN.neighbours == SPACED.neighbours == "zero_out"


def test_outsiders_are_credited_no_secret_that_the_noise_tells(devices, tmp_path) -> None:
    """Noise that clients bring shows how many they were: the cohort counts as drawn at once."""
    devices["federation"] |= {
        "sampler": {"kind": "poisson", "rate": 0.5},
        "protocol": {"kind": "ideal"},
        "mechanism": {"kind": "skellam", "clip_norm": 0.5, "noise_multiplier": 4.0,
                      "assumed_dropout": 0.9, "assumed_corrupt": 0.05},
        "dropouts": {},
    }  # fmt: skip
    charges = assemble(experiment_from(devices)).charges
    outside = next(charge for charge in charges if charge.claim is DISTRIBUTED_OUTSIDE)
    event = outside.event(17)
    assert isinstance(event, dp.SampledWithoutReplacementDpEvent)
    assert (event.sample_size, event.source_dataset_size) == (17, 40)
    assert outside.event(None).sample_size == 40 and outside.claim.neighbours == "replace_one"
    result = codex_ray.run(devices, out=tmp_path / "run")
    assert all(f"claim {name} covers" in privacy_in_words(result) for name in ("U1", "U4"))
    found = verify(tmp_path / "run")
    assert found.differences == () and found.document.certificate is not None
    assert [claim.name for claim in found.document.certificate.claims] == ["U4", "U1"]


def test_any_mechanism_without_replacement_is_bounded_from_its_own_curve() -> None:
    """Looser than what is known of a Gaussian, never below it, and nothing without sampling."""
    from codex_ray.privacy.renyi import INTEGERS, without_replacement

    inner = gaussian(4.0, EVERY_ORDER)
    ours, special = any_without_replacement(0.05, inner), without_replacement(0.05, 4.0)
    few = INTEGERS <= 64
    assert (ours[few] >= special[few] * (1 - 1e-9)).all()
    assert ours[0] < 0.02 * inner[0]
    assert any_without_replacement(1.0, inner)[0] == inner[0]
    event = dp.SampledWithoutReplacementDpEvent(
        1000, 50, DiscreteGaussianSum(local_sigma=8.0, summands=40, l2=10.0, l1=50.0, dimension=64)
    )
    from codex_ray.privacy.accountants import account

    assert account(((event, 10),), 1e-5, relation="replace_one").epsilon < 2


def test_a_forecast_refuses_what_a_run_refuses(devices) -> None:
    devices["federation"]["mechanism"] = {
        "kind": "correlated_gaussian", "clip_norm": 1.0, "noise_multiplier": 2.0,
    }  # fmt: skip
    with pytest.raises(ConfigError, match=r"set federation\.sampler\.kind to spaced"):
        list(costs(plan(devices, {})))


@pytest.mark.parametrize(
    ("field", "value"),
    [("clients", 41), ("randomness", "noise was drawn"), ("extrapolated", {"epsilon": 1e-9})],
)
def test_a_result_that_says_otherwise_is_found(field, value, devices, tmp_path) -> None:
    codex_ray.run(devices | {"rounds": 1}, out=tmp_path / "run")
    file = tmp_path / "run" / "result.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    found = verify(tmp_path / "run")
    assert found.status == 1 and any("result.json" in line for line in found.differences)
