"""Labels answered at random in an experiment: alone, and beside noise on the features."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import codex_ray
from codex_ray.accounting import claims, costs
from codex_ray.assembly import assemble
from codex_ray.auditing import audited
from codex_ray.certifying.verify import verify
from codex_ray.config import experiment_from
from codex_ray.data.dataset import Records
from codex_ray.errors import ConfigError
from codex_ray.learning.local_noise import RandomisedResponse
from codex_ray.randomness import Stream
from codex_ray.records.certificate import read_document
from codex_ray.records.run_directory import RunDirectory

LABELS = {"kind": "randomised_response", "epsilon": 1.5}
WHOLE = {
    "kind": "gaussian_records",
    "clip_norm": 1.0,
    "noise_multiplier": 8.0,
    "labels": {"epsilon": 0.5},
}


@pytest.fixture
def plain(silos: dict[str, Any]) -> dict[str, Any]:
    """Six clients that train as if nothing were private."""
    return silos | {
        "name": "labels",
        "trainer": {"kind": "sgd", "learning_rate": 0.05},
        "federation": {"protocol": {"kind": "ideal"}},
    }


@pytest.mark.parametrize(
    ("noise", "epsilon", "gaps", "arithmetic"),
    [(LABELS, 1.5, 1, "whole numbers"), (WHOLE, 1.3966, 0, "floating point")],
    ids=["labels", "whole"],
)
def test_a_run_pays_once_and_its_certificate_says_for_what(
    noise, epsilon, gaps, arithmetic, plain, tmp_path
) -> None:
    result = codex_ray.run(plain | {"local_noise": noise}, out=tmp_path / "run")
    assert result.epsilon == pytest.approx(epsilon, abs=1e-3)
    (spend,) = result.privacy
    assert spend["releases"] == 1
    floats = any("floating-point" in said for said in spend["assumptions"])
    assert floats == (arithmetic == "floating point")
    certificate = read_document(RunDirectory.open(tmp_path / "run")).certificate
    assert certificate is not None
    (claim,) = certificate.claims
    assert (claim.name, claim.mechanism.arithmetic) == ("L3", arithmetic)
    assert "it is kept with probability" in claim.mechanism.noise_on
    assert sum(gap.what == "uncovered part" for gap in certificate.not_covered) == gaps
    found = verify(tmp_path / "run")
    assert (found.status, found.differences) == (2, ())


def test_the_label_is_paid_for_before_the_noise_on_features_is_found(plain) -> None:
    noise = WHOLE | {"noise_multiplier": "auto", "labels": {"epsilon": 0.5}}
    config = plain | {"local_noise": noise, "budget": {"epsilon": 1.0, "delta": 1e-5}}
    found = experiment_from(config)
    assert 0.998 <= list(costs(found))[-1].epsilon <= 1.0
    (said,) = claims(found)
    assert "randomised response among 2 labels, epsilon 0.5) once, before all rounds" in said
    noise["labels"]["epsilon"] = 1.2
    with pytest.raises(ConfigError, match=r"local_noise\.noise_multiplier"):
        experiment_from(config)


def test_a_resumed_run_without_a_seed_is_refused_in_a_line(plain, tmp_path) -> None:
    """Its first draw is gone: another would show the same records again."""
    config = plain | {"local_noise": LABELS, "seed": None}
    codex_ray.run(config, {"rounds": 1}, out=tmp_path / "run")
    with pytest.raises(ConfigError, match=r"local_noise without a seed.*start a new run") as no:
        codex_ray.run(resume=tmp_path / "run", overrides={"rounds": 3})
    assert "\n" not in str(no.value)
    codex_ray.run(config | {"seed": 0}, {"rounds": 1}, out=tmp_path / "seeded")
    assert codex_ray.run(resume=tmp_path / "seeded", overrides={"rounds": 3}).rounds == 3


class Shy(RandomisedResponse):
    """Keeps more labels than it charges for."""

    def noised(self, records: Records, stream: Stream) -> Records:
        return RandomisedResponse(epsilon=4 * self.epsilon).noised(records, stream)


class Contrary(RandomisedResponse):
    """Turns about as many labels as it should keep."""

    def noised(self, records: Records, stream: Stream) -> Records:
        answered = RandomisedResponse(epsilon=self.epsilon).noised(records, stream)
        return Records(answered.features, 1 - answered.labels)


@pytest.mark.parametrize("broken", [None, Shy, Contrary])
def test_an_audit_counts_the_answers(broken, plain) -> None:
    run = assemble(experiment_from(plain | {"local_noise": LABELS}))
    if broken is not None:
        run = replace(run, dataset=replace(run.dataset, noise=broken(epsilon=1.5), _shown={}))
    (verdict,) = audited(run, 20)
    assert verdict.name == "answered labels" and verdict.passed == (broken is None)


def test_an_audit_of_whole_records_has_both(plain) -> None:
    verdicts = audited(assemble(experiment_from(plain | {"local_noise": WHOLE})), 20)
    assert [v.name for v in verdicts][-2:] == ["noise on records", "answered labels"]
    assert all(verdict.passed for verdict in verdicts)


def test_labels_alone_leave_features_as_they_are(plain) -> None:
    run = assemble(experiment_from(plain | {"local_noise": LABELS}))
    for client in range(run.dataset.population):
        shown, held = run.dataset.client(client), run.dataset.dataset.client(client)
        assert np.array_equal(shown.features, held.features)
    assert any(
        not np.array_equal(run.dataset.client(c).labels, run.dataset.dataset.client(c).labels)
        for c in range(run.dataset.population)
    )
