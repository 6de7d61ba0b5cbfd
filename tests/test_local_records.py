"""Noise on records in an experiment: trained on, paid once, certified, and found if wrong."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dp_accounting as dp
import numpy as np
import pytest

import codex_ray
from codex_ray.accounting import claims, costs
from codex_ray.assembly import assemble
from codex_ray.auditing import audited
from codex_ray.calibrating import RECORDS, with_noise
from codex_ray.certifying.replay import charges_of, differences
from codex_ray.certifying.terms import Terms, delta_warnings
from codex_ray.certifying.verify import verify
from codex_ray.config import experiment_from
from codex_ray.data.dataset import Records
from codex_ray.errors import ConfigError
from codex_ray.learning.local_noise import LocalGaussianRecords, NoisedDataset
from codex_ray.privacy.ledger import EVERYONE, Ledger
from codex_ray.randomness import Stream
from codex_ray.records.certificate import read_document
from codex_ray.records.checkpoint import Checkpoints
from codex_ray.records.keys import FOLDER_VARIABLE, PUBLIC_NAME, make_keys
from codex_ray.records.run_directory import RunDirectory

NOISE = {"kind": "gaussian_records", "clip_norm": 1.0, "noise_multiplier": 8.0}


@pytest.fixture
def noised(silos: dict[str, Any]) -> dict[str, Any]:
    """Six clients whose records are noised, and who then train as if nothing were private."""
    return silos | {
        "name": "noised",
        "local_noise": dict(NOISE),
        "trainer": {"kind": "sgd", "learning_rate": 0.05},
        "federation": {"protocol": {"kind": "ideal"}, "dropouts": {"after_shares": 0.1}},
    }


def last_ledgers(run: Path) -> list[Ledger]:
    return Checkpoints(RunDirectory.open(run).checkpoint).load().ledgers


def test_a_record_pays_once_however_many_rounds_follow(noised, tmp_path) -> None:
    noised["budget"]["epsilon"] = 1.0  # Enough for once, and not for twice.
    result = codex_ray.run(noised, out=tmp_path / "run")
    (ledger,) = last_ledgers(tmp_path / "run")
    assert ledger.paid == {EVERYONE: {dp.GaussianDpEvent(8.0): 1}}
    assert (ledger.unit, ledger.relation) == ("record", "replace_one")
    lines = [json.loads(line) for line in (tmp_path / "run" / "rounds.jsonl").open()]
    assert len(lines) == 3
    assert {line["epsilon"]["record"] for line in lines} == {result.epsilon}
    assert result.epsilon == pytest.approx(0.92, abs=0.01)
    assert [cost.epsilon for cost in costs(experiment_from(noised))] == [result.epsilon] * 3


def test_an_unseeded_run_pays_once_too(noised, tmp_path) -> None:
    """There every round is paid for before it begins."""
    result = codex_ray.run(noised | {"seed": None}, out=tmp_path / "run")
    (ledger,) = last_ledgers(tmp_path / "run")
    assert result.rounds == 3 and ledger.paid == {EVERYONE: {dp.GaussianDpEvent(8.0): 1}}


def test_training_sees_noised_records_and_every_process_the_same(noised) -> None:
    first, second = (assemble(experiment_from(noised)) for _ in range(2))
    plain = assemble(experiment_from(noised | {"local_noise": None, "budget": {"epsilon": None}}))
    for client in range(first.dataset.population):
        shown, again = first.dataset.client(client), second.dataset.client(client)
        assert np.array_equal(shown.features, again.features)
        added = shown.features - plain.dataset.client(client).features
        assert 4 < added.std() < 12
    assert np.array_equal(first.dataset.test().features, plain.dataset.test().features)
    host = first.host()
    assert host._trainer.dataset is first.dataset


def test_the_baselines_stay_those_without_privacy(noised) -> None:
    asked = noised | {"compare": {"epochs": 2}, "budget": {"epsilon": None}}
    with_noise_, without = (
        assemble(experiment_from(asked | {"local_noise": noise})).compare()
        for noise in (NOISE, None)
    )
    assert with_noise_ is not None and with_noise_ == without


def test_a_run_that_goes_on_is_the_run_that_never_stopped(noised, tmp_path) -> None:
    whole = codex_ray.run(noised, out=tmp_path / "whole")
    codex_ray.run(noised, {"rounds": 1}, out=tmp_path / "part")
    resumed = codex_ray.run(resume=tmp_path / "part", overrides={"rounds": 3})
    assert resumed.model_sha256 == whole.model_sha256
    assert resumed.privacy == whole.privacy
    assert last_ledgers(tmp_path / "part") == last_ledgers(tmp_path / "whole")


def test_a_budget_below_it_shows_nothing(noised, tmp_path) -> None:
    noised["budget"]["epsilon"] = 0.5
    result = codex_ray.run(noised, out=tmp_path / "run")
    assert (result.rounds, result.stopped) == (0, "budget")
    assert last_ledgers(tmp_path / "run")[0].paid == {}
    assert not any(cost.affordable for cost in costs(experiment_from(noised)))


@pytest.mark.parametrize("epsilon", [1.0, 3.0])
def test_the_noise_can_be_found(noised, epsilon) -> None:
    noised["local_noise"]["noise_multiplier"] = "auto"
    noised["budget"]["epsilon"] = epsilon
    found = experiment_from(noised)
    assert 0.998 * epsilon <= list(costs(found))[-1].epsilon <= epsilon
    less = with_noise(found, RECORDS, found.local_noise.noise_multiplier * 0.995)
    assert list(costs(less))[-1].epsilon > epsilon


def test_beside_noise_on_updates_there_are_two_ledgers(noised, tmp_path) -> None:
    """And each of the two noises is found for its own."""
    both = noised | {
        "budget": {"epsilon": 2.0, "delta": 1e-5},
        "local_noise": NOISE | {"noise_multiplier": "auto"},
        "federation": {
            "protocol": {"kind": "ideal"},
            "mechanism": {"kind": "gaussian", "clip_norm": 0.5, "noise_multiplier": "auto"},
        },
    }
    result = codex_ray.run(both, out=tmp_path / "run")
    records, clients = last_ledgers(tmp_path / "run")
    assert (records.unit, clients.unit) == ("record", "client")
    paid = [sum(ledger.paid[EVERYONE].values()) for ledger in (records, clients)]
    assert paid == [1, 3] and result.rounds == 3
    assert all(1.99 < spend["epsilon"] <= 2 for spend in result.privacy)
    assert verify(tmp_path / "run").differences == ()


def test_what_it_costs_is_said_in_words(noised) -> None:
    (said,) = claims(experiment_from(noised))
    assert "noise multiplier 8) once, before all rounds (L3" in said
    noised["data"]["clients"] = 100
    noised["data"]["records"] = [1, 4]
    noised["budget"]["delta"] = 0.01
    assert any("100 clients, with a record" in line for line in delta_warnings_of(noised))


def delta_warnings_of(config: dict[str, Any]) -> tuple[str, ...]:
    return delta_warnings(experiment_from(config))


def test_the_certificate_says_what_is_covered_and_is_verified(noised, tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "keys"))
    make_keys(tmp_path / "keys")
    codex_ray.run(noised, out=tmp_path / "run")
    certificate = read_document(RunDirectory.open(tmp_path / "run")).certificate
    (claim,) = certificate.claims
    assert (claim.name, claim.unit, claim.neighbours) == ("L3", "record", "replace_one")
    assert "it covers the features of a record; its label is not covered" in claim.assumes
    assert any(gap.what == "uncovered part" for gap in certificate.not_covered)
    assert claim.mechanism.noise_deviation == 8.0 and claim.mechanism.sensitivity.startswith("2 ")
    assert claim.composition.releases == 1 and claim.sampling.implemented == "every record, once"
    assert "each record is noised once" in certificate.setting.noise_added
    found = verify(tmp_path / "run", trust=tmp_path / "keys" / PUBLIC_NAME)
    assert (found.status, found.differences) == (0, ())


@pytest.mark.parametrize("times", [0, 2])
def test_a_ledger_that_paid_otherwise_is_found(noised, times, tmp_path) -> None:
    codex_ray.run(noised, out=tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "rounds.jsonl").open()]
    terms = Terms.of(assemble(experiment_from(noised)))
    (ledger,) = last_ledgers(tmp_path / "run")
    assert differences(terms, charges_of(lines, []), [ledger]) == []
    paid = {EVERYONE: {dp.GaussianDpEvent(8.0): times}} if times else {}
    assert differences(terms, charges_of(lines, []), [replace(ledger, paid=paid)])


def test_hosts_without_a_common_seed_are_refused(noised) -> None:
    unseeded = noised | {"seed": None, "cluster": {"hosts": 2}}
    with pytest.raises(ConfigError, match=r"local_noise without a seed.*cluster\.hosts to 0") as no:
        assemble(experiment_from(unseeded))
    assert "\n" not in str(no.value)
    assemble(experiment_from(noised | {"cluster": {"hosts": 2}}))


@pytest.mark.parametrize("kind", ["dp_sgd"])
def test_two_claims_about_records_are_refused(noised, silos, kind) -> None:
    with pytest.raises(ConfigError, match=rf"local_noise.*trainer\.kind {kind}.*leave one out"):
        assemble(experiment_from(noised | {"trainer": silos["trainer"]}))


SOUND = LocalGaussianRecords.noised


class Quarter(LocalGaussianRecords):
    """Adds a quarter of the noise that it charges for."""

    def noised(self, records: Records, stream: Stream) -> Records:
        less = self.model_copy(update={"noise_multiplier": self.noise_multiplier / 4})
        return SOUND(less, records, stream)


class Unclipped(LocalGaussianRecords):
    """Clips nothing."""

    def noised(self, records: Records, stream: Stream) -> Records:
        noise = stream.normal(records.features.size).reshape(records.features.shape)
        shown = records.features + self.noise_multiplier * self.clip_norm * noise
        return Records(shown.astype(np.float32), records.labels)


@dataclass(frozen=True)
class OneStream(NoisedDataset):
    """Draws the noise of every client from the same stream."""

    def client(self, client: int) -> Records:
        return self.noise.noised(self.dataset.client(client), self.secret.stream("all"))


def rebuilt(run, kind: str):
    """The run with one thing broken in how its records are noised."""
    data, noise = run.dataset, run.experiment.local_noise
    match kind:
        case "quarter":
            noise = Quarter(**noise.model_dump())
        case "unclipped":
            noise = Unclipped(**noise.model_dump())
        case "forgotten":
            return replace(run, dataset=data.dataset)
        case "one stream":
            return replace(run, dataset=OneStream(data.dataset, noise, data.secret))
    return replace(
        run,
        experiment=run.experiment.model_copy(update={"local_noise": noise}),
        dataset=NoisedDataset(data.dataset, noise, data.secret),
    )


def test_an_audit_passes_a_sound_build(noised) -> None:
    verdicts = audited(assemble(experiment_from(noised)), 20)
    assert [verdict.name for verdict in verdicts] == [
        "noise streams",
        "released noise",
        "clipping of records",
        "noise on records",
    ]
    assert all(verdict.passed for verdict in verdicts)


@pytest.mark.parametrize(
    ("kind", "caught"),
    [
        ("quarter", {"released noise", "noise on records"}),
        ("unclipped", {"clipping of records"}),
        ("forgotten", {"noise on records"}),
        ("one stream", {"noise streams"}),
    ],
)
def test_an_audit_finds_a_broken_build(noised, kind, caught) -> None:
    broken = rebuilt(assemble(experiment_from(noised)), kind)
    failed = {verdict.name for verdict in audited(broken, 20) if not verdict.passed}
    assert failed == caught


def test_an_audit_that_fails_refuses_the_certificate(noised, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(LocalGaussianRecords, "noised", Quarter.noised)
    codex_ray.run(noised | {"audit": {"canaries": 20}}, out=tmp_path / "run")
    document = read_document(RunDirectory.open(tmp_path / "run"))
    assert document.certificate is None and "the audit contradicts it" in document.refused
