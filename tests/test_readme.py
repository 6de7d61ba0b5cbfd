"""Every command and every key that the documents name exists, and says what they say it does."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from codex_ray.cli import _parser
from codex_ray.config import experiment_from, load_yaml, schema, to_yaml
from codex_ray.sweeping.description import Sweep

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXT = {document: document.read_text() for document in DOCUMENTS}
ALL = "\n".join(TEXT.values())


def blocks(text: str) -> list[str]:
    return re.findall(r"```(?:\w*)\n(.*?)```", text, flags=re.DOTALL)


NAMED = "run|sweep|account|schema|submit|certs|token|cluster"
COMMANDS = sorted(
    {
        " ".join(found.split("#")[0].split())
        for block in blocks(ALL)
        for found in re.findall(rf"codex-ray ((?:{NAMED})[^\n\"]*)", block)
    }
)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_understood(command: str) -> None:
    arguments = _parser().parse_args(shlex.split(command.replace("$s", "3")))
    file = getattr(arguments, "file", None)
    if file and file.endswith(".yaml"):
        assert (ROOT / file.removeprefix("codex_ray/")).is_file(), f"{file} does not exist"
    for assignment in getattr(arguments, "set", []):
        key = assignment.partition("=")[0]
        known = known_key(key) or (command.startswith("sweep ") and key in Sweep.model_fields)
        assert known, f"{assignment} names no field"


def known_key(key: str) -> bool:
    """Whether a dotted key names a field of some kind of component."""
    return all(part in FIELDS for part in key.split("."))


FIELDS = {
    field for part in schema()["$defs"].values() for field in part.get("properties", {})
} | set(schema()["properties"])


def test_every_dotted_key_that_is_named_exists() -> None:
    named = set(re.findall(r"`((?:federation|trainer|cluster|data|model|budget)\.[a-z_.]+)`", ALL))
    named = {key for key in named if not key.endswith((".yaml", ".safetensors"))}
    assert named, "the README names no key: a test of nothing"
    assert {key for key in named if not known_key(key)} == set()


def test_every_link_leads_somewhere() -> None:
    for document, text in TEXT.items():
        for target in re.findall(r"\]\(\s*([^)#:\s]+)\s*\)", text):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_every_make_target_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make ([a-z-]+)", ALL)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
    ci = (ROOT / ".ci" / "run").read_text()
    assert re.findall(r"^make .*$", ci, flags=re.MULTILINE) == ["make check", "make test"]


def test_the_two_commands_and_the_licence_stand_in_the_readme() -> None:
    readme = TEXT[ROOT / "README.md"]
    for words in ("make quickstart", "make test", "pip install", "Apache-2.0"):
        assert words in readme
    assert (ROOT / "LICENSE").read_text().startswith("                                 Apache") or (
        "Apache License" in (ROOT / "LICENSE").read_text()[:200]
    )


def test_the_readmes_python_is_python() -> None:
    for text in TEXT.values():
        for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
            compile(block, "README", "exec")


@pytest.mark.parametrize("name", ["quickstart", "cross_device"])
def test_experiments_load_and_their_resolved_form_loads_to_the_same(name: str) -> None:
    experiment = experiment_from(load_yaml(ROOT / "experiments" / f"{name}.yaml"))
    assert experiment.name == name and experiment.question.endswith("?")
    assert experiment_from(yaml.safe_load(to_yaml(experiment))) == experiment


def test_torch_is_constrained_exactly() -> None:
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    assert "torch==2.13.0" in constraints


def test_nothing_names_a_path_outside_the_checkout() -> None:
    """Only CI may look beside it, and only when the folder is there."""
    for file in [
        *ROOT.glob("*.*"),
        *(ROOT / "codex_ray").rglob("*.py"),
        *(ROOT / "docs").rglob("*"),
    ]:
        if file.is_file():
            assert "../shared" not in file.read_text(errors="ignore"), file
