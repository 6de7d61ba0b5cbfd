"""A finished run becomes one version, once, with everything that vouches for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from registered_runs import CLAIMS, CLAIMS_NOTHING
from safetensors.torch import load_file

import codex_ray
from codex_ray.assembly import assemble
from codex_ray.config import experiment_from
from codex_ray.errors import DataError, InputError, RunDirectoryError
from codex_ray.records.keys import FOLDER_VARIABLE, SigningKey, make_keys
from codex_ray.registry import Registry, RegistryError, TamperError, rebuild
from codex_ray.registry.manifest import NEEDED, code_version

Runs = Callable[[str], Path]


def test_what_is_registered_comes_out_again(registry: Registry, runs: Runs) -> None:
    run = runs("claims")
    found = registry.register(run, "heart")
    assert found.new
    assert found.version.label == "heart@1"
    assert found.version.state == "registered"
    served = registry.load("heart", 1)
    assert served.model == (run / "model.safetensors").read_bytes()
    assert {*served.manifest.files} == {*NEEDED}
    assert served.config["trainer"]["kind"] == "dp_sgd"
    kept = load_file(run / "model.safetensors")
    assert {*served.params} == {*kept}
    assert all(torch.equal(served.params[name], kept[name]) for name in kept)


def test_the_manifest_says_what_the_run_came_to(registry: Registry, runs: Runs) -> None:
    run = runs("claims")
    manifest = registry.manifest(registry.register(run, "heart").version)
    result = json.loads((run / "result.json").read_text())
    assert manifest.metrics == result["metrics"]
    assert manifest.parent is None
    assert manifest.input_shape == (2,)
    assert manifest.uncertified is None
    largest = max(float(spend["epsilon"]) for spend in result["privacy"])
    assert max(float(claim.epsilon) for claim in manifest.privacy) == largest
    assert list(manifest.unsafe) == result["unsafe"] == [result["randomness"], result["protection"]]
    assert manifest.code == code_version()


def test_the_same_run_registered_twice_is_one_version(registry: Registry, runs: Runs) -> None:
    first = registry.register(runs("claims"), "heart")
    again = registry.register(runs("claims"), "heart")
    assert (again.version, again.new) == (first.version, False)
    assert len(registry.versions()) == 1


def test_the_same_experiment_run_again_is_the_same_version(
    registry: Registry, runs: Runs, tmp_path: Path
) -> None:
    registry.register(runs("claims"), "heart")
    codex_ray.run(CLAIMS, out=tmp_path / "again")  # other times, all else the same
    assert not registry.register(tmp_path / "again", "heart").new


def test_another_run_is_the_next_version_and_names_its_parent(
    registry: Registry, runs: Runs
) -> None:
    registry.register(runs("claims"), "heart")
    second = registry.register(runs("claims-more"), "heart").version
    third = registry.register(runs("claims-nothing"), "heart", parent=1).version
    assert [second.version, third.version] == [2, 3]
    assert registry.manifest(second).parent == 1
    assert registry.manifest(third).parent == 1
    assert registry.register(runs("claims"), "lung").version.label == "lung@1"


def test_a_parent_that_there_is_not_is_refused(registry: Registry, runs: Runs) -> None:
    with pytest.raises(RegistryError, match="no model of that name"):
        registry.register(runs("claims"), "heart", parent=7)
    assert registry.versions() == []


def test_a_run_that_claims_nothing_has_no_certificate(registry: Registry, runs: Runs) -> None:
    version = registry.register(runs("claims-nothing"), "heart").version
    manifest = registry.manifest(version)
    assert manifest.uncertified is not None
    assert "no noise is added" in manifest.uncertified
    assert manifest.privacy == ()


def test_a_certificate_that_nobody_signed_does_not_count(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: tuple[object, Path]
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "no-keys"))
    codex_ray.run(CLAIMS, out=tmp_path / "unsigned")
    monkeypatch.setenv(FOLDER_VARIABLE, str(keys[1].parent))
    manifest = registry.manifest(registry.register(tmp_path / "unsigned", "heart").version)
    assert manifest.uncertified is not None
    assert "not signed" in manifest.uncertified
    with pytest.raises(RegistryError, match="allow-uncertified"):
        registry.load("heart", 1)


def test_a_certificate_of_somebody_unknown_is_refused(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger, _ = make_keys(tmp_path / "stranger")
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "stranger"))
    codex_ray.run(CLAIMS, out=tmp_path / "theirs")
    with pytest.raises(TamperError, match="not trusted"):
        registry.register(tmp_path / "theirs", "heart")
    assert registry.versions() == []
    open_minded = Registry.open(registry.folder, trusted=[stranger.public], key=_key(registry))
    assert open_minded.register(tmp_path / "theirs", "heart").version.label == "heart@1"


def _key(registry: Registry) -> SigningKey:
    key = registry._log.signing()
    assert isinstance(key, SigningKey)
    return key


@pytest.mark.parametrize("file", NEEDED)
def test_a_run_that_was_changed_is_refused(registry: Registry, copied: Runs, file: str) -> None:
    run = copied("claims")
    content = (run / file).read_bytes()
    changed = {
        "config.yaml": content.replace(b"noise_multiplier: 1.0", b"noise_multiplier: 2.0"),
        "rounds.jsonl": content.partition(b"\n")[2],
        "result.json": content.replace(b'"clients": 4', b'"clients": 5'),
        "privacy.json": content.replace(b'"neighbours": "add_or_remove_one"', b'"neighbours": "x"'),
        "privacy.md": content + b"\n",
        "model.safetensors": content[:-1] + bytes([content[-1] ^ 1]),
    }[file]
    assert changed != content
    (run / file).write_bytes(changed)
    with pytest.raises((TamperError, InputError)):
        registry.register(run, "heart")
    assert registry.versions() == []


def test_a_run_that_has_not_ended_is_refused(registry: Registry, copied: Runs) -> None:
    run = copied("claims")
    (run / "result.json").unlink()
    with pytest.raises(RunDirectoryError, match="has not ended"):
        registry.register(run, "heart")


@pytest.mark.parametrize("name", ["", "../x", "a/b", "-x", "a@1", "x" * 65, "a\n", "é"])
def test_names_are_safe_everywhere(registry: Registry, runs: Runs, name: str) -> None:
    with pytest.raises(RegistryError, match="is no name"):
        registry.register(runs("claims"), name)


def test_without_a_key_nothing_is_written(registry: Registry, runs: Runs, key: SigningKey) -> None:
    reader = Registry.open(registry.folder, trusted=[key.public])
    with pytest.raises(RegistryError, match="keys init"):
        reader.register(runs("claims"), "heart")
    assert [*registry.folder.glob("objects/*")] == []


def test_a_data_card_is_kept_with_its_hash(registry: Registry, runs: Runs, tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text('{"rows": 3}')
    version = registry.register(runs("claims"), "heart", data_card=tmp_path / "card.json").version
    served = registry.load("heart", 1)
    assert served.data_card == {"rows": 3}
    assert served.manifest.data_card == served.manifest.files["data_card.json"].sha256
    assert registry.register(runs("claims"), "heart").version != version  # without it, another run


def test_prepared_data_that_are_gone_are_missed(registry: Registry, copied: Runs) -> None:
    run = copied("claims-nothing")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(
        text.replace("kind: breast_cancer", f"kind: prepared\n  path: {run}/gone")
    )
    with pytest.raises(DataError, match="gone"):
        registry.register(run, "heart")


@pytest.mark.parametrize("name", ["claims", "claims-nothing"])
def test_a_rebuilt_model_is_the_one_that_was_trained(
    registry: Registry, runs: Runs, name: str
) -> None:
    registry.register(runs(name), "heart")
    served = registry.load("heart", 1, unsafe=["allow_uncertified"])
    model = rebuild(served)
    assembled = assemble(experiment_from(CLAIMS if name == "claims" else CLAIMS_NOTHING))
    assert assembled.evaluate(model.get()) == pytest.approx(served.manifest.metrics, abs=1e-6)
    assert not model.module.training


def test_a_shape_that_does_not_fit_is_said(registry: Registry, runs: Runs) -> None:
    registry.register(runs("claims"), "heart", input_shape=[5])
    with pytest.raises(RegistryError, match="for records of shape"):
        rebuild(registry.load("heart", 1))
    with pytest.raises(RegistryError, match="sizes of one record"):
        registry.register(runs("claims-more"), "heart", input_shape=[0])
