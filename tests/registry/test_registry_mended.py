"""What a registry once let through: switches of another stage, files of any name, strange links."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from codex_ray.cli import main
from codex_ray.records.keys import SigningKey
from codex_ray.registry import Registry, RegistryError
from codex_ray.registry.manifest import DATA_CARD, MODEL, NEEDED, Manifest, StoredFile
from codex_ray.registry.refusals import TamperError
from codex_ray.serving.from_registry import Source

Runs = Callable[[str], Path]


@pytest.fixture
def two(registry: Registry, runs: Runs) -> Registry:
    """heart 1 with a certificate, 2 without one."""
    for name in ("claims", "claims-nothing"):
        registry.register(runs(name), "heart")
    return registry


def test_what_only_reads_needs_no_right_to_write(
    two: Registry,
    key: SigningKey,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    two.promote("heart", 1)
    folder, opens = two.folder, os.open
    (folder / "lock").unlink()  # where nobody may write, nobody could make it again

    def read_only(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and str(path).startswith(str(folder)):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        return opens(path, flags, *more, **named)

    may = os.access
    monkeypatch.setattr(os, "open", read_only)
    monkeypatch.setattr(
        os, "access", lambda path, how, **named: how != os.W_OK and may(path, how, **named)
    )
    for action in ("list", "verify"):
        assert main(["models", action, "--registry", str(folder)]) == 0
    assert "2 versions" in capsys.readouterr().out
    models = Source(folder, (key.public,), "heart").open()
    models.check(models.load().identity)
    with pytest.raises(RegistryError, match="Read-only file system"):
        two.sweep()


def test_a_switch_is_good_for_the_stage_that_it_was_given_for(two: Registry) -> None:
    two.promote("heart", 2, stage="staging", unsafe=["allow_uncertified"])
    before = two.head()
    for attempt in (
        lambda: two.promote("heart", 2),
        lambda: two.promote("heart", 2, stage="staging"),  # not even there, the next time
        lambda: two.load("heart", 2),
    ):
        with pytest.raises(RegistryError, match="--allow-uncertified"):
            attempt()
    assert two.head() == before
    assert two.load("heart", stage="staging").certificate is None


def test_a_version_by_its_number_is_computed_again_whatever_staging_skips(two: Registry) -> None:
    two.promote("heart", 1, stage="staging", unsafe=["skip_recompute"])
    assert not two.load("heart", stage="staging").recomputed
    assert two.load("heart", 1).recomputed
    assert not any("skip_recompute" in line for line in two.load("heart", 1).unsafe)


def test_rolling_back_asks_for_what_was_signed_then(two: Registry) -> None:
    two.promote("heart", 2, unsafe=["allow_uncertified"])
    two.promote("heart", 1)
    assert two.rollback("heart").unsafe == ("allow_uncertified",)
    assert two.load("heart").certificate is None


def _forged(registry: Registry, key: SigningKey, files: dict[str, StoredFile]) -> None:
    """Version 3, whose manifest a trusted key signed over whatever files it liked."""
    real = registry.manifest(registry.version("heart", 1))
    forged = real.model_copy(update={"version": 3, "files": files}).signed_by(key)
    fields: dict[str, Any] = {"kind": "registered", "name": "heart", "version": 3}
    with registry._shelf.objects.shared():
        address = registry._shelf.objects.put(forged.to_bytes())
        fields |= {"manifest": address, "run_digest": "1" * 64}
        registry._log.add(lambda _: fields)


@pytest.mark.parametrize("name", ["../evil", "/nowhere/evil", "sub/file", "metrics.jsonl", ".", ""])
def test_a_manifest_names_no_file_of_any_other_name(
    two: Registry, key: SigningKey, name: str
) -> None:
    files = two.manifest(two.version("heart", 1)).files
    _forged(two, key, {**files, name: files[MODEL]})
    for attempt in (
        lambda: two.look_at(two.version("heart", 3)),
        lambda: two.load("heart", 3),
        lambda: two.promote("heart", 3),
        lambda: two.manifest(two.version("heart", 3)),
    ):
        with pytest.raises(TamperError, match="files"):
            attempt()
    assert len(two.verify()) == 1


def test_no_signed_name_reaches_outside_the_folder_that_files_are_looked_at_in(
    two: Registry, key: SigningKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    files = two.manifest(two.version("heart", 1)).files
    _forged(two, key, {**files, "../../evil": files[MODEL]})
    assert two.verify()
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("missing", NEEDED)
def test_a_manifest_without_a_needed_file_is_a_line_and_no_crash(
    two: Registry, key: SigningKey, missing: str
) -> None:
    files = dict(two.manifest(two.version("heart", 1)).files)
    del files[missing]
    _forged(two, key, files)
    (line,) = two.verify()
    assert "heart@3" in line and "files" in line
    with pytest.raises(TamperError):
        two.reads_otherwise([two.version("heart", 3)])


def test_the_data_card_may_be_there(two: Registry) -> None:
    manifest = two.manifest(two.version("heart", 1))
    more = {**manifest.files, DATA_CARD: manifest.files[MODEL]}
    fields = manifest.model_dump() | {"files": more}
    assert set(Manifest.model_validate(fields).files) == {*NEEDED, DATA_CARD}
    with pytest.raises(ValidationError):
        Manifest.model_validate(fields | {"files": {**more, "other": more[MODEL]}})


def test_sweeping_goes_through_no_link_and_touches_nothing_of_other_people(
    two: Registry, tmp_path: Path
) -> None:
    objects = two.folder / "objects"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    prefixes = [f"{number:02x}" for number in range(256) if number != 0xBB]
    free = next(prefix for prefix in prefixes if not (objects / prefix).exists())
    (elsewhere / (free * 32)).write_text("mine")
    (elsewhere / "notes").write_text("mine")
    (objects / free).symlink_to(elsewhere)
    (objects / "bb").mkdir(exist_ok=True)
    (objects / "bb" / "README").write_text("mine")
    left_over = objects / "bb" / ("b" * 64)
    left_over.write_text("a crash left it")
    halfway = objects / "bb" / f".{'b' * 64}.123.00ff00ff"
    halfway.write_text("half")
    linked = objects / "bb" / ("bb" + "c" * 62)
    linked.symlink_to(elsewhere / "notes")
    misplaced = objects / "bb" / ("c" * 64)
    misplaced.write_text("no object of ours lies there")
    assert two.sweep() == sorted([halfway, left_over])
    assert sorted(path.name for path in elsewhere.iterdir()) == [free * 32, "notes"]
    assert (objects / "bb" / "README").exists() and misplaced.exists() and linked.is_symlink()
    assert two.verify() == []
