"""Cohorts that take turns, or have one size: runs, their claims, ledgers and certificates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import codex_ray
from codex_ray.accounting import costs
from codex_ray.api import plan
from codex_ray.assembly import assemble
from codex_ray.certifying.sampling import agreed_sampling
from codex_ray.certifying.terms import Terms
from codex_ray.certifying.verify import verify
from codex_ray.config import experiment_from
from codex_ray.errors import ConfigError, PrivacyError
from codex_ray.privacy.ledger import epsilon_of

ROUNDS = 9


@pytest.fixture
def taking_turns(devices: dict[str, Any]) -> dict[str, Any]:
    """Forty clients in four cohorts, and noise that is partly taken back."""
    federation = devices["federation"] | {
        "sampler": {"kind": "spaced", "separation": 4},
        "mechanism": {"kind": "correlated_gaussian", "clip_norm": 0.5, "noise_multiplier": 3.0},
    }
    return devices | {"rounds": ROUNDS, "evaluate_every": ROUNDS, "federation": federation}


@pytest.fixture
def of_one_size(devices: dict[str, Any]) -> dict[str, Any]:
    """Nine of forty clients in every round."""
    return devices | {
        "federation": devices["federation"] | {"sampler": {"kind": "fixed", "size": 9}}
    }


def test_each_client_pays_for_its_turns_alone(taking_turns, finished) -> None:
    result = finished(taking_turns)
    found = verify(Path(result.directory))
    assert found.status == 2 and found.differences == ()
    certificate = found.document.certificate
    (claim,) = certificate.claims
    assert claim.name == "U3" and not claim.sampling.credited
    assert "every 4th round" in claim.sampling.implemented
    most = max(spend["releases"] for spend in result.privacy)
    assert most <= 3  # Rounds 0, 4 and 8.
    event = assemble(experiment_from(taking_turns)).charges[0].event(None)
    assert claim.accounting.epsilon == pytest.approx(epsilon_of(((event, most),), 1e-5))


def test_a_forecast_counts_turns(taking_turns) -> None:
    spent = [cost.epsilon for cost in costs(plan(taking_turns, {}))]
    assert len(set(spent)) == 3 and spent[0] == spent[3] < spent[4] == spent[7] < spent[8]


def test_auto_finds_the_noise_of_as_many_turns(taking_turns) -> None:
    taking_turns["federation"]["mechanism"]["noise_multiplier"] = "auto"
    taking_turns["budget"] = {"epsilon": 2.0}
    spent = list(costs(plan(taking_turns, {})))
    assert spent[-1].epsilon == pytest.approx(2.0, rel=1e-3) and spent[-1].affordable


@pytest.mark.parametrize("kind", ["banded", "buffered"])
def test_a_resumed_run_takes_back_the_same_noise(kind, taking_turns, tmp_path) -> None:
    mechanism = taking_turns["federation"]["mechanism"]
    mechanism["correlation"] = {"kind": kind} | ({"bands": 4} if kind == "banded" else {})

    def killed(result) -> None:
        if result is not None and result.round == 5:
            raise KeyboardInterrupt

    whole = codex_ray.run(taking_turns, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        codex_ray.run(taking_turns, out=tmp_path / "killed", watch=killed)
    assert codex_ray.run(resume=tmp_path / "killed").model_sha256 == whole.model_sha256


def test_without_a_seed_a_resumed_run_begins_its_noise_anew(taking_turns, tmp_path) -> None:
    """It cannot draw the lost noise again, and goes on all the same; cohorts keep their turns."""

    def killed(result) -> None:
        if result is not None and result.round == 5:
            raise KeyboardInterrupt

    taking_turns["seed"] = None
    with pytest.raises(KeyboardInterrupt):
        codex_ray.run(taking_turns, out=tmp_path / "run", watch=killed)
    result = codex_ray.run(resume=tmp_path / "run")
    assert result.rounds == ROUNDS
    assert verify(tmp_path / "run").differences == ()


def test_noise_for_so_many_rounds_is_not_stretched_over_more(taking_turns, finished) -> None:
    with pytest.raises(ConfigError, match="is made for 9 rounds"):
        codex_ray.run(None, {"rounds": 12}, resume=finished(taking_turns).directory)


def test_a_client_that_came_again_too_soon_costs_the_certificate(taking_turns, finished) -> None:
    journal = Path(finished(taking_turns).directory, "rounds.jsonl")
    lines = [json.loads(text) for text in journal.open()]
    terms = Terms.of(assemble(experiment_from(taking_turns)))
    (charge,) = terms.charges
    assert not agreed_sampling(terms, charge, [charge.event(None)], lines=lines).credited
    early = lines[0]["charged"][0]["members"][0]
    lines[2]["charged"][0]["members"].append(early)
    with pytest.raises(PrivacyError, match=rf"client {early} is in rounds 0 and 2"):
        agreed_sampling(terms, charge, [charge.event(None)], lines=lines)


def test_bands_reach_no_further_than_a_client_s_next_turn(taking_turns) -> None:
    taking_turns["federation"]["mechanism"]["correlation"] = {"kind": "banded", "bands": 5}
    with pytest.raises(ConfigError, match="bands is 5, but the sampler lets a client"):
        assemble(experiment_from(taking_turns))


def test_hidden_cohorts_keep_no_schedule(taking_turns) -> None:
    taking_turns["federation"]["sampler"] = {"kind": "poisson", "rate": 0.25}
    with pytest.raises(ConfigError, match=r"set federation\.sampler\.kind to spaced"):
        assemble(experiment_from(taking_turns))


def test_cohorts_of_one_size_are_accounted_between_replaced_clients(of_one_size, tmp_path) -> None:
    codex_ray.run(of_one_size, out=tmp_path / "run")
    found = verify(tmp_path / "run")
    assert found.status == 2 and found.differences == ()
    (claim,) = found.document.certificate.claims
    assert (claim.name, claim.neighbours) == ("U2", "replace_one")
    assert claim.sampling.implemented == "9 of 40 clients at once" and claim.sampling.credited
    assert "RDP" in claim.accounting.accountant
    # Who replaces a client moves the sum by twice the clip norm, and knows when it was drawn.
    assert claim.accounting.epsilon < claim.accounting.unsampled.epsilon * 3
    assert list(costs(plan(of_one_size, {})))[-1].epsilon == pytest.approx(claim.accounting.epsilon)
