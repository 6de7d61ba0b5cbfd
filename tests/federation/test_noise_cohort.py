"""Noise scaled for a larger run: two epsilons, and never one of them without the other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

import codex_ray
from codex_ray.accounting import claims
from codex_ray.api import plan
from codex_ray.assembly import assemble
from codex_ray.certifying.verify import verify
from codex_ray.config import experiment_from
from codex_ray.errors import ConfigError
from codex_ray.privacy.ledger import epsilon_of
from codex_ray.privacy.mechanisms import CentralGaussian
from codex_ray.privacy.noise_cohort import NoiseCohort
from codex_ray.privacy.quantisation import no_words
from codex_ray.randomness import Randomness
from codex_ray.records.console import closing_table, privacy_in_words
from codex_ray.types import GroupSum

LARGER = {"cohort": 100, "population": 10_000}


@pytest.fixture
def scaled(devices: dict[str, Any]) -> dict[str, Any]:
    """Twenty of forty clients a round, under the noise of a hundred of ten thousand."""
    devices["federation"]["mechanism"]["noise_cohort"] = dict(LARGER)
    return devices


def test_the_mean_has_the_noise_of_the_larger_run() -> None:
    mechanism = CentralGaussian(
        clip_norm=0.5, noise_multiplier=2.0, noise_cohort=NoiseCohort(**LARGER)
    )
    codec = mechanism.codec(dimension=20_000, summands=20)
    nothing = GroupSum((), no_words(codec.length, bits=codec.bits))
    noise = Randomness.of(5).secret.stream("release", 0)
    release = mechanism.release(nothing, codec=codec, expected=20, noise=noise)
    # Of a sum over a hundred clients, divided by a hundred.
    assert np.std(release.update.numpy()) == pytest.approx(2.0 * 0.5 / 100, rel=0.02)


def test_every_report_has_both(scaled, tmp_path) -> None:
    result = codex_ray.run(scaled, out=tmp_path / "run")
    event = assemble(experiment_from(scaled)).charges[0].event(None)
    literal = epsilon_of(((event, 3),), 1e-5)
    larger = NoiseCohort(**LARGER).spent(1.0, rounds=3, delta=1e-5)
    assert event.event.noise_multiplier == pytest.approx(0.2)
    assert result.epsilon == pytest.approx(literal, rel=1e-4) and literal > 20 * larger
    assert result.extrapolated is not None
    assert result.extrapolated["epsilon"] == pytest.approx(larger)

    words = privacy_in_words(result)
    assert f"{result.epsilon:.2f}" in words and f"{larger:.2f}, NOT of this run" in words
    console = Console(width=120, record=True, quiet=True)
    console.print(closing_table(result))
    last = [json.loads(line) for line in (tmp_path / "run" / "rounds.jsonl").open()][-1]["epsilon"]
    assert last == pytest.approx({"client": literal, "client_extrapolated": larger}, rel=1e-4)
    found = verify(tmp_path / "run")
    assert found.status == 2 and found.differences == ()
    (claim,) = found.document.certificate.claims
    assert claim.accounting.epsilon == pytest.approx(literal, rel=1e-4)
    assert claim.mechanism.noise_multiplier == pytest.approx(0.2)
    assert claim.extrapolated.epsilon == pytest.approx(larger)
    assert f"{larger:.2f}" in Path(tmp_path / "run" / "report.html").read_text()
    assert any("NOT of this run" in line for line in claims(plan(scaled, {})))


def test_auto_is_for_the_larger_run(scaled) -> None:
    scaled["federation"]["mechanism"]["noise_multiplier"] = "auto"
    with pytest.raises(ConfigError, match=r"set federation\.mechanism\.noise_cohort\.epsilon"):
        plan(scaled, {})
    scaled["federation"]["mechanism"]["noise_cohort"]["epsilon"] = 2.0
    found = plan(scaled, {}).federation.extrapolated(rounds=3, delta=1e-5)
    assert found == pytest.approx(2.0, rel=1e-3) and found <= 2.0


def test_the_published_setting_is_found() -> None:
    """CIFAR-10 as pfl-research has it: epsilon 2, 1000 of a million, 1500 rounds: .617 by PLD."""
    larger = NoiseCohort(cohort=1000, population=1_000_000)
    assert larger.spent(0.617, rounds=1500, delta=1e-6) == pytest.approx(2.0, rel=0.01)


def test_a_larger_run_is_larger(scaled) -> None:
    scaled["federation"]["mechanism"]["noise_cohort"]["cohort"] = 10
    with pytest.raises(ConfigError, match="the simulated cohorts have 20 clients: raise it"):
        assemble(experiment_from(scaled))
    scaled["federation"]["mechanism"]["noise_cohort"] = {"cohort": 10, "population": 9}
    with pytest.raises(ConfigError, match="cohort is 10, but its population is 9"):
        experiment_from(scaled)
