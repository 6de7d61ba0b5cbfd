"""A version of an older release is held to what its signer computed, not to new words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import codex_ray.registry.certified as certified
import codex_ray.registry.manifest as manifests
from codex_ray.certifying.verify import Verification
from codex_ray.records.keys import SigningKey
from codex_ray.registry import Registry, TamperError
from codex_ray.registry.card import card

Runs = Callable[[str], Path]


def words_differ(run: Path) -> Verification:
    """What this release finds in a certificate of which it would say one thing otherwise."""
    told = f"{run}/privacy.json: certificate.setting.protocol is 'a', computed again it is 'b'"
    return Verification(None, (told,), (), False)


@pytest.fixture
def newer(registry: Registry, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A registry with a version, and then another release that reads its certificate otherwise."""
    registry.register(runs("claims"), "heart")
    mine = manifests.code_version()
    later = mine.model_copy(update={"codex_ray": "9.0", "source": "f" * 64})
    monkeypatch.setattr(manifests, "code_version", lambda: later)
    monkeypatch.setattr(certified, "verify", words_differ)
    return registry


def test_it_is_loaded_promoted_and_rolled_back_without_a_switch(newer: Registry) -> None:
    newer.promote("heart", 1)
    served = newer.load("heart")
    assert not served.recomputed
    assert served.unsafe == newer.manifest(served.version).unsafe  # it is not unsafe
    assert served.certificate is not None
    assert "when it was registered" in card(served)
    newer.promote("heart", 1, stage="staging")
    assert newer.verify() == []


def test_whoever_asks_is_told_what_reads_otherwise(newer: Registry) -> None:
    (line,) = newer.reads_otherwise()
    assert line.startswith("heart@1: its certificate does not follow from its files")
    assert "computed again it is 'b'" in line
    code = newer.manifest(newer.version("heart", 1)).code
    assert f"codex_ray {code.codex_ray} ({code.source[:12]})" in line


def test_the_code_that_registered_it_computes_it_again(
    registry: Registry, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.register(runs("claims"), "heart")
    assert registry.load("heart", 1).recomputed
    assert registry.reads_otherwise() == []
    monkeypatch.setattr(certified, "verify", words_differ)
    with pytest.raises(TamperError, match="does not follow"):
        registry.load("heart", 1)
    assert len(registry.verify()) == 1
    assert registry.reads_otherwise() == []


@pytest.mark.parametrize("file", ["privacy.json", "model.safetensors", "config.yaml"])
def test_its_files_are_still_those_that_were_signed(newer: Registry, file: str) -> None:
    stored = newer.manifest(newer.version("heart", 1)).files[file]
    path = newer._shelf.objects.path(stored.sha256)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(content)
    with pytest.raises(TamperError, match="was changed"):
        newer.load("heart", 1)
    assert len(newer.verify()) == 1


def test_its_signer_has_to_be_trusted_still(newer: Registry, tmp_path: Path) -> None:
    from codex_ray.records.keys import make_keys

    other: SigningKey = make_keys(tmp_path / "other")[0]
    with pytest.raises(TamperError, match="no trusted key signed it"):
        Registry.open(newer.folder, trusted=[other.public])


def test_a_run_is_registered_only_by_code_that_computes_the_same(
    newer: Registry, runs: Runs
) -> None:
    with pytest.raises(TamperError, match="does not follow"):
        newer.register(runs("claims-more"), "heart")
