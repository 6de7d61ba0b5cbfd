"""The audit of whole experiments: sound ones pass, and each way of breaking one is found."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import codex_ray
from codex_ray.assembly import assemble
from codex_ray.auditing import audited
from codex_ray.cli import main
from codex_ray.config import experiment_from, to_yaml
from codex_ray.errors import ConfigError
from codex_ray.learning.batches import PoissonBatches
from codex_ray.privacy import mechanisms
from codex_ray.privacy.noise_inside import SkellamNoise
from codex_ray.randomness import SeedTree, Stream

CANARIES = 100
ENOUGH = 500
"""The fewest canary clients that an estimate is made of."""


def verdicts(config):
    wide = config["model"]["kind"] == "mlp"
    return audited(assemble(experiment_from(config)), ENOUGH if wide else CANARIES)


def failed(config) -> list[str]:
    return [one.words for one in verdicts(config) if not one.passed]


@pytest.fixture
def wide(devices):
    """A model with 100 parameters for each canary, and noise worth one.

    What is released is that of a real protocol to the bit, without the masks of 560 clients.
    """
    devices["federation"]["protocol"] = {"kind": "ideal"}
    devices["model"] = {"kind": "mlp", "hidden": [700], "outputs": 10}
    devices["federation"]["sampler"] = {"kind": "all"}
    devices["federation"]["mechanism"]["noise_multiplier"] = 1.4
    return devices


@pytest.fixture
def masked(wide):
    """The same, over the masks of 560 clients."""
    wide["federation"]["protocol"] = {"kind": "secagg_plus"}
    return wide


@pytest.mark.parametrize(
    "name",
    [
        "silos",
        "devices",
        pytest.param("adaptive", marks=pytest.mark.slow),
        "inside",
        pytest.param("shared", marks=pytest.mark.slow),
        pytest.param("masked", marks=pytest.mark.slow),
    ],
)
def test_sound_experiments_pass_and_say_what_was_looked_at(name, request) -> None:
    found = verdicts(request.getfixturevalue(name))
    assert all(one.passed for one in found)
    names = {one.name for one in found}
    assert "released noise" in names and "noise streams" in names
    assert ("sampling of batches" in names) == (name == "silos")
    assert ("sampling of cohorts" in names) == (name in ("devices", "adaptive"))


def test_an_audit_is_the_same_again_with_the_same_seed(silos) -> None:
    first, again = verdicts(silos), verdicts(silos)
    assert [one.words for one in first] == [one.words for one in again]


def test_a_quarter_of_the_clients_noise_is_found(silos, monkeypatch) -> None:
    honest = Stream.normal
    monkeypatch.setattr(Stream, "normal", lambda self, count: honest(self, count) / 4)
    (words,) = failed(silos)
    assert "released noise: 6" in words and "the claim is false" in words


@pytest.mark.parametrize(
    "name", ["devices", "adaptive", pytest.param("wide", marks=pytest.mark.slow)]
)
def test_a_quarter_of_the_central_noise_is_found(name, request, monkeypatch) -> None:
    honest = Stream.normal
    monkeypatch.setattr(Stream, "normal", lambda self, count: honest(self, count) / 4)
    found = failed(request.getfixturevalue(name))
    assert "released noise" in found[0]
    if name == "wide":
        assert any("REFUTES" in words for words in found)


@pytest.mark.slow
def test_clients_without_their_noise_are_found(inside, monkeypatch) -> None:
    honest = SkellamNoise._draw

    def lazy(self, noise, count, deviation):
        return honest(self, noise, count, deviation) // 2

    monkeypatch.setattr(SkellamNoise, "_draw", lazy)
    (words,) = failed(inside)
    assert "of the noise is lost" in words


def test_a_missing_clip_is_found(wide, monkeypatch) -> None:
    monkeypatch.setattr(
        mechanisms.CentralGaussian,
        "codec",
        lambda self, **sizes: mechanisms.NoMechanism(bound=8).codec(**sizes),
    )
    monkeypatch.setattr(
        mechanisms.CentralGaussian,
        "_encode",
        mechanisms.NoMechanism._encode,
    )
    assert any("REFUTES" in words for words in failed(wide))


@pytest.mark.parametrize("name", ["silos", pytest.param("inside", marks=pytest.mark.slow)])
def test_equal_seeds_are_found(name, request, monkeypatch) -> None:
    honest = SeedTree.key

    def forgetful(self, *path):
        """Streams that do not know their client."""
        known = path[:2] if path[0] == "train" else path[:1] if path[0] == "noise share" else path
        return honest(self, *known)

    monkeypatch.setattr(SeedTree, "key", forgetful)
    found = failed(request.getfixturevalue(name))
    assert any("they share a seed" in words for words in found)


def test_batches_of_one_size_are_found(silos, monkeypatch) -> None:
    def shuffled(self, records, stream):
        half = round(records * self.sampling_rate)
        return [np.sort(stream.permutation(records)[:half]) for _ in range(self.steps)]

    monkeypatch.setattr(PoissonBatches, "draw", shuffled)
    assert any("another sampling than is implemented" in words for words in failed(silos))


def test_too_many_canaries_for_the_model_are_one_line(devices) -> None:
    devices["federation"]["sampler"] = {"kind": "all"}
    found = audited(assemble(experiment_from(devices)), ENOUGH)
    assert found[-1].passed and "an estimate needs 100 parameters" in found[-1].words


def test_nothing_to_audit_is_one_line(silos) -> None:
    silos["trainer"] = {"kind": "sgd", "learning_rate": 0.1}
    silos["budget"] = {"epsilon": None}
    with pytest.raises(ConfigError, match="nothing adds noise"):
        verdicts(silos)


def test_a_run_that_asks_for_it_has_the_verdicts_in_its_result(silos, tmp_path) -> None:
    result = codex_ray.run(silos | {"audit": {"canaries": 50}}, out=tmp_path / "run")
    written = json.loads((tmp_path / "run" / "result.json").read_text())["audit"]
    assert written == json.loads(json.dumps(result.audit)) and len(written) >= 4
    plain = codex_ray.run(silos, out=tmp_path / "plain")
    assert plain.audit == [] and plain.model_sha256 == result.model_sha256


def test_the_command_prints_each_verdict_and_fails_with_one(
    silos, tmp_path, capsys, monkeypatch
) -> None:
    file, out = tmp_path / "silos.yaml", tmp_path / "verdicts.json"
    file.write_text(to_yaml(experiment_from(silos)))
    assert main(["audit", str(file), "--canaries", "50", "--json", str(out)]) == 0
    assert "passed  released noise" in capsys.readouterr().out
    assert all(verdict["passed"] for verdict in json.loads(out.read_text())["verdicts"])
    honest = Stream.normal
    monkeypatch.setattr(Stream, "normal", lambda self, count: honest(self, count) / 4)
    assert main(["audit", str(file), "--canaries", "50"]) == 1
    assert "FAILED  released noise" in capsys.readouterr().out


def test_the_audit_leaves_the_runs_streams_alone(silos) -> None:
    """Its releases must not repeat the run's noise: with the same parameters they would."""
    from codex_ray.auditing import Auditor

    auditor = Auditor(assemble(experiment_from(silos)), CANARIES)
    mine = auditor._streams("record noise").child("train", 0, 0).key("noise")
    theirs = auditor.run.randomness.secret.child("train", 0, 0).key("noise")
    assert mine != theirs
    assert torch.equal(auditor.run.initial, assemble(experiment_from(silos)).initial)
