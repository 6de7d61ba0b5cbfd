"""`codex-ray pipeline`: one file takes raw records all the way to a model that answers.

Every step is a command that a person could give by hand, is shown as such, and checks what the one
before it left: records are prepared, a model is trained on them, its certificate signed, a version
registered and promoted, and, with --serve, guarded and asked.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from codex_ray.cli.options import add_set
from codex_ray.errors import ConfigError

if TYPE_CHECKING:
    from codex_ray.cli.options import Commands

SECTIONS: Final = ("prepare", "register", "serve")
"""What the file has beside the keys of an experiment."""
KNOWN: Final = {
    "prepare": {"schema"},
    "register": {"name", "stage"},
}


@dataclass(frozen=True)
class Described:
    """A file of the whole way.

    Attributes:
        schema: by which the records are prepared.
        raw: the folder that the schema's files are in.
        experiment: all that is an experiment's own.
        name: of the model.
        stage: that it is promoted into.
        serving: options of `codex-ray serve`.
    """

    schema: Path
    raw: Path
    experiment: dict[str, Any]
    name: str
    stage: str
    serving: dict[str, Any]


def add_pipeline(commands: Commands) -> None:
    """The command and its options."""
    pipeline = commands.add_parser(
        "pipeline",
        help="prepare, train, certify, register, promote and serve, by one file",
        description="Runs the commands of the whole way one after the other, and shows each of "
        "them. FILE is an experiment with the sections prepare, register and serve; data.path is "
        "the folder of the raw files. Registering needs a key (codex-ray keys init).",
    )
    pipeline.add_argument("file", metavar="FILE", help="such as experiments/heart_disease.yaml")
    pipeline.add_argument("--out", metavar="DIR", help="a new folder (default: runs/NAME-001, ...)")
    pipeline.add_argument(
        "--registry", metavar="DIR", help="default: $CODEX_RAY_REGISTRY, or models"
    )
    pipeline.add_argument(
        "--serve", action="store_true", help="serve it then, until Ctrl-C, by the section serve"
    )
    add_set(pipeline)
    pipeline.set_defaults(command=_pipeline)


def _pipeline(arguments: argparse.Namespace) -> int:
    from codex_ray.api import RUNS
    from codex_ray.calibrating import asked
    from codex_ray.cli.registry_options import folder_of, own_key
    from codex_ray.config import experiment_from, override, parse_overrides
    from codex_ray.records.run_directory import RunDirectory

    described = read_description(Path(arguments.file), parse_overrides(arguments.set))
    own_key()  # without one the third step would fail
    name = str(described.experiment.get("name", described.name))
    out = Path(arguments.out or RunDirectory.next_under(RUNS, name))
    if out.exists():
        raise ConfigError(f"--out {out}: is there already: choose another folder, or move it away")
    registry = folder_of(arguments)
    # What is wrong with the experiment is said before anything runs; noise that is still to be
    # found needs the records, and so comes later.
    noise = {".".join((*place, "noise_multiplier")): 1.0 for place in asked(described.experiment)}
    experiment_from(override(described.experiment, noise))
    prepared, run = out / "prepared", out / "run"
    status, experiment = _prepared(described, out, prepared)
    if status:
        return status
    training = ["run", str(experiment), "--out", str(run), "--register", described.name]
    if status := _step("train and register", [*training, "--registry", str(registry)]):
        return status
    if status := _promote(described, run, registry):
        return status
    serving = _serving(described, registry)
    if arguments.serve:
        return _step("serve", serving)
    print(f"\nnext: {_shown(serving)}")
    return 0


def read_description(file: Path, overrides: Mapping[str, Any]) -> Described:
    """The whole way that a file describes.

    Raises:
        ConfigError: it lacks a section or a key, or has one that nobody knows.
    """
    from codex_ray.config import load_yaml, override

    data = override(load_yaml(file), overrides)
    for section in SECTIONS:
        if not isinstance(data.get(section), dict):
            raise ConfigError(f"{file}: {section}: is missing: write it as a mapping")
        for key in sorted(data[section].keys() - KNOWN.get(section, data[section].keys())):
            raise ConfigError(
                f"{file}: {section}.{key}: is not known: {section} has "
                f"{', '.join(sorted(KNOWN[section]))}"
            )
    asked = data.get("data")
    if not isinstance(asked, dict) or asked.get("kind") != "prepared":
        raise ConfigError(f"{file}: data.kind: must be prepared: that is what step one leaves")
    if not asked.get("path"):
        raise ConfigError(f"{file}: data.path: is missing: --set data.path=FOLDER of the raw files")
    for section, key in (("prepare", "schema"), ("register", "name")):
        if not isinstance(data[section].get(key), str):
            raise ConfigError(f"{file}: {section}.{key}: is missing")
    return Described(
        schema=file.parent / data["prepare"]["schema"],
        raw=Path(str(asked["path"])),
        experiment={key: value for key, value in data.items() if key not in SECTIONS},
        name=data["register"]["name"],
        stage=data["register"].get("stage", "production"),
        serving=dict(data["serve"]),
    )


def _prepared(described: Described, out: Path, prepared: Path) -> tuple[int, Path]:
    """The exit status of the first step, and the experiment for the next; `out` is new.

    Where the records cannot be prepared it is gone again, and the same command may be given anew.
    """
    out.mkdir(parents=True)
    status = 1
    try:
        schema, experiment = _written(described, out, prepared)
        status = _step("prepare", ["data", "prepare", str(schema), "--out", str(prepared)])
    finally:
        if status:
            shutil.rmtree(out)
    return status, experiment


def _written(described: Described, out: Path, prepared: Path) -> tuple[Path, Path]:
    """The schema with the raw files that are meant, and the experiment with the prepared ones.

    Raises:
        ConfigError: the schema does not say which files it is about.
    """
    from codex_ray.config import load_yaml, override

    rules = load_yaml(described.schema)
    source = rules.get("source")
    files = source.get("files") if isinstance(source, dict) else None
    if not files:
        raise ConfigError(f"{described.schema}: source.files: is missing: name the raw files")
    listed = [files] if isinstance(files, str) else list(files)
    moved = [str(described.raw / name) for name in listed]
    rules = override(rules, {"source.files": moved[0] if isinstance(files, str) else moved})
    trained = override(described.experiment, {"data.path": str(prepared)})
    written = out / "schema.json", out / "experiment.json"  # JSON is YAML
    for file, content in zip(written, (rules, trained), strict=True):
        file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return written


def _step(title: str, words: Sequence[str]) -> int:
    """The exit status of a command, which is shown first."""
    from codex_ray.cli import main

    print(f"\n== {title}\n$ {_shown(words)}", flush=True)
    return main(words)


def _shown(words: Sequence[str]) -> str:
    return shlex.join(["codex-ray", *words])


def _promote(described: Described, run: Path, registry: Path) -> int:
    """The exit status of promoting the run's own version, whoever else registered one since."""
    from codex_ray.cli.registry_options import own_key
    from codex_ray.registry import Registry

    opened = Registry.open(registry, trusted=(), key=own_key())
    version = opened.register(run, described.name).version  # it is there: a run is one version
    words = ["models", "promote", version.label, "--stage", described.stage]
    return _step("promote", [*words, "--registry", str(registry)])


def _serving(described: Described, registry: Path) -> list[str]:
    """`codex-ray serve` for what was promoted; the registry knows what the model takes."""
    words = ["serve", described.name, "--registry", str(registry), "--stage", described.stage]
    for key, value in described.serving.items():
        option = f"--{key.replace('_', '-')}"
        words += [option] if value is True else [option, str(value)]
    return words
