"""`codex-ray status`: a run or a sweep from another terminal, while it goes on or afterwards."""

from __future__ import annotations

import argparse
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

from codex_ray.cli.runs import listing, print_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console, RenderableType

    from codex_ray.cli.options import Commands
    from codex_ray.records.run_status import RunStatus, Watched

EVERY = 1.0
"""Seconds between two looks."""


def add_status(commands: Commands) -> None:
    """The command and its options."""
    status = commands.add_parser(
        "status",
        help="how far a run has come, live, from another terminal",
        description="Reads the run directory only: neither the run nor a cluster is asked. Ends "
        "with the run, or when no process is at it any more; Ctrl-C leaves the run alone.",
    )
    status.add_argument("run", metavar="RUN", help="a run directory, or a sweep's")
    status.add_argument("--once", action="store_true", help="look once (always so in a pipe)")
    status.add_argument("--json", action="store_true", help="look once, and print JSON")
    status.set_defaults(command=_status)


def _status(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    path = Path(arguments.run)
    console = Console(markup=False, highlight=False)
    once = arguments.once or not console.is_terminal
    if (path / "trials").is_dir() and not (path / "config.yaml").exists():
        return _sweep(path, console, once=once, as_json=arguments.json)
    watched = watch(path)
    if arguments.json:
        print_json(_now(watched).to_json())
        return 0
    return _follow(watched, console, once=once)


def watch(path: Path) -> Watched:
    """The run at `path`, to be looked at.

    Raises:
        RunDirectoryError: there is none.
    """
    from codex_ray.config import load_yaml
    from codex_ray.records.run_directory import RunDirectory
    from codex_ray.records.run_status import Watched

    return Watched(path, config=load_yaml(RunDirectory.open(path).config))


def _now(watched: Watched) -> RunStatus:
    return watched.status(now=time.time())


def _follow(watched: Watched, console: Console, *, once: bool) -> int:
    """Shows the run, again and again for as long as it is running."""
    from codex_ray.records.status_view import status_view

    def look() -> tuple[RenderableType, bool]:
        status = _now(watched)
        return status_view(status), status.state == "running"

    _show(look, console, once=once)
    return 0


def _sweep(path: Path, console: Console, *, once: bool, as_json: bool) -> int:
    """Shows a sweep's trials, again and again for as long as a process is at it."""
    from rich.console import Group

    from codex_ray.records.run_status import is_locked
    from codex_ray.records.runs_view import counts_in_words, runs_table

    trials = listing(path / "trials")

    def look() -> tuple[RenderableType, bool]:
        held = is_locked(path)
        lines = trials.lines(now=time.time())
        state = "running" if held else "no process is at it"
        head = f"{path.name}: {state}; trials: {counts_in_words(lines)}"
        if not held and any(line.state == "stopped" for line in lines):
            head += f"\ngo on with  codex-ray sweep --resume {shlex.quote(str(path))}"
        return Group(head, runs_table(lines)), held

    if as_json:
        found = [line.to_json() for line in trials.lines(now=time.time())]
        print_json({"sweep": path.name, "running": is_locked(path), "trials": found})
        return 0
    _show(look, console, once=once)
    return 0


def _show(look: Callable[[], tuple[RenderableType, bool]], console: Console, *, once: bool) -> None:
    """Prints what a look finds; on a terminal it stays there and changes, until it is over."""
    found, going = look()
    if once:
        console.print(found)
        return
    from rich.live import Live

    with Live(found, console=console, auto_refresh=False) as live:
        while going:
            time.sleep(EVERY)
            found, going = look()
            live.update(found, refresh=True)
