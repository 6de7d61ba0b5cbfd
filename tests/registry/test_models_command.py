"""`codex-ray models`, as a person and a script use it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from registered_runs import CLAIMS

from codex_ray.cli import main
from codex_ray.records.keys import FOLDER_VARIABLE, make_keys
from codex_ray.registry.place import FOLDER_VARIABLE as REGISTRY

Runs = Callable[[str], Path]


class Shell:
    """The command line in a folder of its own; `registry` is the default one."""

    def __init__(self, capture: pytest.CaptureFixture[str], registry: Path) -> None:
        self._capture = capture
        self.registry = registry

    def __call__(self, *words: object, status: int = 0) -> str:
        found = main(["models", *map(str, words)])
        out, err = self._capture.readouterr()
        assert found == status, err or out
        if status and err:
            assert len(err.strip().splitlines()) == 1
        return out + err

    def json(self, *words: object) -> Any:
        return json.loads(self(*words, "--json"))


@pytest.fixture
def models(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: Runs
) -> Shell:
    """A registry with heart 1, 2 (certified) and 3 (not)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(REGISTRY, str(tmp_path / "kept"))
    monkeypatch.setenv("COLUMNS", "200")
    shell = Shell(capsys, tmp_path / "kept")
    capsys.readouterr()
    for name in ("claims", "claims-more", "claims-nothing"):
        shell("register", runs(name), "heart")
    return shell


def test_the_life_of_a_model(models: Shell) -> None:
    assert "heart@1 is in production" in models("promote", "heart@1")
    models("promote", "heart@2")
    states = [found["state"] for found in models.json("list", "heart")["versions"]]
    assert states == ["superseded", "promoted", "registered"]
    assert "heart@1 is in production again" in models("rollback", "heart")
    assert "--allow-uncertified" in models("promote", "heart@3", status=2)
    models("promote", "heart@3", "--allow-uncertified")
    assert "heart@3 is revoked: too old" in models("revoke", "heart@3", "--reason", "too old")
    assert "is revoked" in models("export", "heart", "x.pt2", status=2)
    assert "stays so" in models("promote", "heart@3", status=2)
    listed = models("list")
    assert "uncertified" in listed
    assert f"{models.registry}: 3 versions" in listed


def test_show_prints_the_privacy_card_and_writes_a_page(models: Shell, tmp_path: Path) -> None:
    shown = models("show", "heart@1", "--html", tmp_path / "card.html")
    assert "epsilon" in shown
    assert "Not covered" in shown
    assert "UNSAFE" in shown  # it is a simulation
    page = (tmp_path / "card.html").read_text()
    tags: list[str] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags.append(tag)
            assert not {"src", "href"} & {name for name, _ in attrs}  # nothing beside it

    Tags().feed(page)
    assert "script" not in tags
    assert "epsilon" in page
    assert "SIMULATION" in page
    assert models.json("show", "heart@1")["manifest"]["version"] == 1
    uncertified = models("show", "heart@3", "--html", tmp_path / "card.html")
    assert "There is no certificate" in uncertified
    assert "<strong>There is none.</strong>" in (tmp_path / "card.html").read_text()


def test_show_without_a_version_is_what_is_in_use(models: Shell) -> None:
    assert models.json("show", "heart")["version"] == 3  # nothing is: the last
    models("promote", "heart@1")
    assert models.json("show", "heart")["version"] == 1


def test_diff_tells_settings_metrics_privacy_and_weights(models: Shell) -> None:
    found = models.json("diff", "heart@2")
    assert (found["before"], found["after"]) == ("heart@1", "heart@2")
    assert {"what": "rounds", "before": 2, "after": 3} in found["config"]
    assert {"what": "seed", "before": 1, "after": 2} in found["config"]
    assert {pair["what"] for pair in found["metrics"]} >= {"accuracy"}
    assert all(pair["after"] > pair["before"] for pair in found["privacy"] if "eps" in pair["what"])
    assert {moved["parameter"] for moved in found["weights"]} == {
        *("1.weight", "1.bias", "3.weight", "3.bias")
    }
    assert all(moved["largest"] > 0 for moved in found["weights"])
    assert not found["same_model"]
    text = models("diff", "heart@2", "heart@3")
    assert "trainer.kind" in text
    assert "the same, to the bit" in models("diff", "heart@1", "heart@1")
    assert "has no parent" in models("diff", "heart@1", status=2)


def test_verify_tells_the_head_and_what_is_wrong(models: Shell) -> None:
    said = models("verify")
    assert "VERIFIED: 3 versions, 4 events" in said
    head = next(line for line in said.splitlines() if line.startswith("head: ")).split()[1]
    models("verify", "heart@1", "--head", head)
    shutil.copy(models.registry / "registry.sqlite", models.registry / "kept")
    models("revoke", "heart@2", "--reason", "test")
    newer = models.json("verify", "--skip-recompute")["head"]
    shutil.copy(models.registry / "kept", models.registry / "registry.sqlite")
    assert "had those up to" in models("list", "--head", newer, status=1)
    assert "had those up to" in models("register", "x", "heart", "--head", newer, status=1)
    model = models.json("show", "heart@2")["manifest"]["files"]["model.safetensors"]["sha256"]
    path = models.registry / "objects" / model[:2] / model
    path.unlink()
    path.write_bytes(b"x")
    found = models("verify", status=1)
    assert "wrong: heart@2: model.safetensors" in found
    assert "NOT VERIFIED: 1 of 3 versions" in found
    models("verify", "heart@1")


def test_sweep_removes_what_a_crash_left(models: Shell) -> None:
    left = models.registry / "objects" / "ab" / ("ab" + "0" * 62)
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(b"x")
    assert "1 files belong to no version" in models("verify", "--skip-recompute")
    assert "removed 1 files" in models("sweep")
    assert not left.exists()
    models("verify", "--skip-recompute")


def test_a_strangers_key_reads_nothing(models: Shell, tmp_path: Path) -> None:
    _, public = make_keys(tmp_path / "stranger")
    assert "no trusted key signed it" in models("list", "--trust", public, status=1)
    inside = models.registry / "key.pem"
    shutil.copy(public, inside)
    assert "comes with the registry" in models("list", "--trust", inside, status=2)


def test_without_a_key_or_a_registry_one_line_says_what_to_do(
    models: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: tuple[object, Path]
) -> None:
    assert "--register" in models("list", "--registry", tmp_path / "none", status=2)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "no-keys"))
    assert "nobody is trusted" in models("list", status=2)
    models("list", "--trust", keys[1])
    assert "no key" in models("promote", "heart@1", "--trust", keys[1], status=2)


@pytest.mark.parametrize("name", ["heart@", "heart@x", "heart@-1", "heart@1@2", "heart@1234567890"])
def test_a_version_is_a_number(models: Shell, name: str) -> None:
    assert "as in heart@3" in models("show", name, status=2)


def test_export_writes_the_file_and_its_note(models: Shell, tmp_path: Path) -> None:
    assert "SHA-256" in models("export", "heart@1", tmp_path / "heart.pt2")
    note = json.loads((tmp_path / "heart.pt2.json").read_text())
    assert note["signature"]["algorithm"] == "Ed25519"
    assert "--allow-uncertified" in models("export", "heart@3", tmp_path / "x.pt2", status=2)
    found = models.json("export", "heart@3", tmp_path / "x.pt2", "--allow-uncertified")
    assert any(line.startswith("uncertified") for line in found["unsafe"])


def test_a_run_registers_its_result(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its end, and once more when it is given more rounds; never before it can be done."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(REGISTRY, raising=False)
    (tmp_path / "claims.yaml").write_text(json.dumps(CLAIMS))
    run = ["run", "claims.yaml", "--out", "done", "--register", "heart"]
    assert main(run) == 0
    assert "heart@1, registered in models" in capsys.readouterr().out
    assert main(["models", "register", "done", "heart"]) == 0
    assert "heart@1 was registered already" in capsys.readouterr().out
    resumed = ["run", "--resume", "done", "--set", "rounds=3", "--register", "heart"]
    assert main(resumed) == 0
    assert "heart@2, registered in models" in capsys.readouterr().out
    assert main(["models", "verify"]) == 0
    for words, said in (
        (["--register", "no/name"], "is no name"),
        (["--registry", "elsewhere"], "give --register NAME as well"),
    ):
        assert main(["run", "claims.yaml", "--out", "not", *words]) == 2
        assert said in capsys.readouterr().err
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "no-keys"))
    assert main(["run", "claims.yaml", "--out", "not", "--register", "heart"]) == 2
    assert "keys init" in capsys.readouterr().err
    assert not (tmp_path / "not").exists()
