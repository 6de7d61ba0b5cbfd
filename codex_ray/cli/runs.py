"""`codex-ray runs`: the runs in a folder, and what several of them differ in."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codex_ray.errors import ConfigError, RunDirectoryError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from codex_ray.cli.options import Commands
    from codex_ray.records.run_listing import Listing

RUNS = "runs"
COMPARE = "compare"


def add_runs(commands: Commands) -> None:
    """The command and its options."""
    runs = commands.add_parser(
        "runs",
        help="list the runs in a folder, or compare some of them",
        usage="codex-ray runs [--json] [FOLDER]\n       codex-ray runs [--json] compare A B ...",
        description="With a FOLDER (default: runs): a line for each run in it, with the trials of "
        "its sweeps. With compare: the settings in which runs differ, and their results.",
    )
    runs.add_argument("what", nargs="*", metavar="FOLDER | compare A B", help=argparse.SUPPRESS)
    runs.add_argument("--json", action="store_true", help="print JSON")
    runs.set_defaults(command=_runs)


def _runs(arguments: argparse.Namespace) -> int:
    what: list[str] = arguments.what or [RUNS]
    if what[0] == COMPARE:
        return _compare([Path(name) for name in what[1:]], as_json=arguments.json)
    if len(what) > 1:
        raise ConfigError(f"{what[1]}: give one folder, or write: codex-ray runs compare A B")
    return _list(Path(what[0]), as_json=arguments.json)


def listing(folder: Path) -> Listing:
    """The runs in a folder, to be looked at.

    Raises:
        RunDirectoryError: there is no such folder.
    """
    from codex_ray.config import load_yaml
    from codex_ray.records.run_listing import Listing

    return Listing(folder, read_config=load_yaml)


def _list(folder: Path, *, as_json: bool) -> int:
    from rich.console import Console

    from codex_ray.records.runs_view import counts_in_words, runs_table

    lines = listing(folder).lines(now=time.time())
    if as_json:
        print_json({"runs": [line.to_json() for line in lines]})
        return 0
    console = Console(markup=False, highlight=False)
    if lines:
        console.print(runs_table(lines))
    console.print(f"{folder}: {counts_in_words(lines)}")
    return 0


def _compare(paths: Sequence[Path], *, as_json: bool) -> int:
    from rich.console import Console

    from codex_ray.config import load_yaml
    from codex_ray.records.run_directory import RunDirectory
    from codex_ray.records.run_listing import compare
    from codex_ray.records.runs_view import comparison_table

    if len(paths) < 2:
        raise ConfigError("compare: give two runs or more: codex-ray runs compare A B")
    lines = [
        line
        for path in paths
        for line in listing(RunDirectory.open(path).path).lines(now=time.time())
    ]
    for line in lines:
        if line.problem is not None:
            raise RunDirectoryError(line.problem)
    found = compare(lines, [load_yaml(RunDirectory(path).config) for path in paths])
    if as_json:
        print_json(found.to_json())
        return 0
    console = Console(markup=False, highlight=False)
    console.print(comparison_table(found))
    if found.same_model:
        console.print("\nThe models are the same, to the bit.")
    return 0


def print_json(data: Mapping[str, Any]) -> None:
    """Prints JSON that every reader takes: what it has no number for is text."""
    from codex_ray.records.run_directory import to_json_bytes

    print(to_json_bytes(data).decode(), end="")
