"""A run on prepared records: held to them to the byte, and to what it claims about them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from prepared_runs import (
    HOSPITALS_NAMED,
    config,
    people,
    prepared,
    with_other_names,
    with_other_records,
)

import codex_ray
from codex_ray.assembly import assemble
from codex_ray.certifying.verify import verify
from codex_ray.cli import main
from codex_ray.config import experiment_from, load_yaml, to_yaml
from codex_ray.errors import ConfigError, DataError
from codex_ray.records.keys import PUBLIC_NAME, SigningKey
from codex_ray.records.result import RunResult
from codex_ray.registry import Registry, RegistryError, TamperError
from codex_ray.registry.card import card
from codex_ray.registry.certified import checked
from codex_ray.registry.manifest import DATA_MANIFEST
from codex_ray.registry.snapshot import snapshot

Change = Callable[[Path], None]
CHANGES = pytest.mark.parametrize("change", [with_other_records, with_other_names])


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepared(tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def trained(signing: None, original: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; nobody may change it."""
    run = tmp_path_factory.mktemp("trained") / "run"
    codex_ray.run(config(original), out=run)
    return run


@pytest.fixture
def held(trained: Path, original: Path, tmp_path: Path) -> tuple[Path, Path]:
    """(a copy of the run, the records that it names), both to be changed at will."""
    folder = Path(shutil.copytree(original, tmp_path / "prepared"))
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace(str(original), str(folder)))
    return run, folder


@CHANGES
def test_a_run_goes_on_with_no_other_shards_and_manifest(
    held: tuple[Path, Path], change: Change
) -> None:
    run, folder = held
    change(folder)
    with pytest.raises(
        DataError, match=r"its manifest is .* data\.manifest names .* other records"
    ):
        codex_ray.run(resume=run, overrides={"rounds": 2})
    with pytest.raises(DataError, match=r"data\.manifest"):  # as every host does
        assemble(experiment_from(load_yaml(run / "config.yaml")))


@CHANGES
def test_a_run_is_registered_with_no_other_shards_and_manifest(
    held: tuple[Path, Path], registry: Registry, change: Change
) -> None:
    run, folder = held
    change(folder)
    with pytest.raises(RegistryError, match=r"its manifest is .* put the data back"):
        registry.register(run, "two")
    assert registry.versions() == []


def test_a_run_from_before_the_pin_goes_on_as_it_did(held: tuple[Path, Path]) -> None:
    run, folder = held
    experiment = experiment_from(load_yaml(run / "config.yaml"))
    unpinned = experiment.data.model_copy(update={"manifest": None})
    (run / "config.yaml").write_text(to_yaml(experiment.model_copy(update={"data": unpinned})))
    with_other_names(folder)
    result = codex_ray.run(resume=run, overrides={"rounds": 2})
    assert result.rounds == 2 and "data_manifest" not in (result.preparation or {})


def test_the_certificate_names_the_manifest_and_a_version_with_another_is_refused(
    trained: Path, key: SigningKey, keys: tuple[SigningKey, Path], tmp_path: Path
) -> None:
    found = snapshot(trained)
    verified = verify(trained, trust=keys[1].parent / PUBLIC_NAME)
    assert verified.differences == () and verified.document is not None
    assert verified.document.certificate is not None
    part = verified.document.certificate.preparation
    assert part is not None and part.data_manifest == found.hashes[DATA_MANIFEST]
    assert "Manifest of the records" in (trained / "privacy.md").read_text()
    hashes = found.hashes | {DATA_MANIFEST: "0" * 64}
    with pytest.raises(TamperError, match=f"about another {DATA_MANIFEST}"):
        checked(found.files, hashes, trusted=[key.public], of="two@1", recompute=False)


def test_a_card_of_ones_own_comes_without_a_manifest(
    trained: Path, original: Path, registry: Registry
) -> None:
    version = registry.register(trained, "two", data_card=original / "card.json").version
    assert DATA_MANIFEST not in registry.manifest(version).files


def test_a_generalised_feature_is_refused_under_a_claim_for_records(original: Path) -> None:
    for features in (["weight", "age"], None):
        with pytest.raises(ConfigError, match=r"'age' was generalised: .* leave it out .* role: f"):
            assemble(experiment_from(config(original, features=features)))
    needless = {"insecure_generalised": True}
    with pytest.raises(ConfigError, match="insecure_generalised: no generalised column is used"):
        assemble(experiment_from(config(original, prepare=needless)))
    client = config(original, features=["weight", "age"], prepare=needless) | {
        "trainer": {"kind": "sgd", "learning_rate": 0.1},
        "federation": {"mechanism": {"kind": "gaussian", "clip_norm": 1, "noise_multiplier": 1}},
    }
    with pytest.raises(ConfigError, match="insecure_generalised"):
        assemble(experiment_from(client))
    client["data"].pop("prepare")
    assert assemble(experiment_from(client)).dataset.population == 3  # its own records alone


def test_whoever_insists_is_told_of_on_result_certificate_and_card(
    original: Path, registry: Registry, keys: tuple[SigningKey, Path], tmp_path: Path
) -> None:
    switch = {"insecure_generalised": True}
    run = tmp_path / "run"
    codex_ray.run(config(original, features=["weight", "age"], prepare=switch), out=run)
    result = RunResult.read(run)
    told = result.preparation
    assert any(line.startswith("generalised columns: ") for line in result.unsafe)
    assert told is not None and "INSECURE: generalised columns are features" in told["words"]
    verified = verify(run, trust=keys[1].parent / PUBLIC_NAME)
    assert verified.differences == ()
    assert "generalised columns (Critical): " in (run / "privacy.md").read_text()
    registry.register(run, "two")
    served = registry.load("two", 1)
    assert any("generalised columns are features" in line for line in served.unsafe)
    page = card(served)
    assert "generalised columns (Critical)" in page and "<strong>Unsafe</strong>" in page


def test_no_name_is_in_any_file_of_a_run_or_a_registry(
    original: Path, keys: tuple[SigningKey, Path], tmp_path: Path
) -> None:
    run, models = tmp_path / "run", tmp_path / "models"
    (tmp_path / "two.yaml").write_text(to_yaml(experiment_from(config(original))))
    words = ["run", str(tmp_path / "two.yaml"), "--out", str(run), "--register", "two"]
    assert main([*words, "--registry", str(models)]) == 0
    files = [file for place in (run, models) for file in place.rglob("*") if file.is_file()]
    assert {"config.yaml", "privacy.json"} <= {file.name for file in files} and models.is_dir()
    assert any(models in file.parents for file in files)
    names = [name.encode() for hospital in HOSPITALS_NAMED for name in people(hospital)]
    for file in files:
        content = file.read_bytes().lower()
        assert not [name for name in names if name.lower() in content], file
        assert b"kowalska" not in content, file
