"""`codex-ray chaos`: kills hosts, nodes, coordinators and drivers of a run, which ends the same."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codex_ray.cli.options import add_set
from codex_ray.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from codex_ray.cli.options import Commands
    from codex_ray.cluster.chaos import Moment
    from codex_ray.cluster.chaos_findings import Findings

KILLS = 50
SOAK_ROUNDS = 300


def add_chaos(commands: Commands) -> None:
    """The command and its options."""
    chaos = commands.add_parser(
        "chaos",
        help="kill what an experiment runs on, and see that it ends the same",
        description="Runs the experiment quietly in this process, then on a cluster of its own on "
        "loopback, where hosts, nodes, the coordinator and the driver are killed (kill -9) on a "
        "schedule. Model, epsilon and rounds have to be the same, to the bit: then it exits with "
        "0. It starts its own nodes and ends them, and touches no other Ray.",
    )
    chaos.add_argument("file", metavar="FILE", help="the experiment's YAML; it needs a seed")
    chaos.add_argument("--kills", type=int, metavar="N", help=f"how many (default: {KILLS})")
    chaos.add_argument("--seed", type=int, default=0, metavar="S", help="of the schedule")
    chaos.add_argument("--nodes", type=int, default=3, metavar="N", help="that carry hosts")
    chaos.add_argument("--hosts", type=int, metavar="H", help="in place of cluster.hosts")
    chaos.add_argument("--rounds", type=int, metavar="R", help="in place of rounds")
    chaos.add_argument(
        "--soak",
        action="store_true",
        help=f"one long run ({SOAK_ROUNDS} rounds) with a kill in every tenth, and its memory",
    )
    chaos.add_argument("--out", metavar="DIR", help="folder (default: runs/NAME-chaos-001, ...)")
    chaos.add_argument("--json", metavar="FILE", help="write the findings to a file as well")
    add_set(chaos)
    chaos.set_defaults(command=_chaos)


def _chaos(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from codex_ray.api import RUNS, plan
    from codex_ray.cluster.chaos import ChaosPlan, chaos, check, write_findings
    from codex_ray.records.run_directory import RunDirectory

    experiment = plan(arguments.file, _overrides(arguments))
    check(experiment)
    name = f"{experiment.name}-chaos"
    out = Path(arguments.out or RunDirectory.next_under(RUNS, name))
    RunDirectory.check_free(out)
    asked = ChaosPlan(
        kills=arguments.kills or KILLS,
        seed=arguments.seed,
        nodes=arguments.nodes,
        soak=arguments.soak,
    )
    console = Console(markup=False, highlight=False)
    console.print(f"{name}: {experiment.cluster.hosts} hosts on {asked.nodes} nodes, into {out}")
    with _watching(console) as watch:
        findings = chaos(experiment, asked, folder=out, watch=watch)
    _show(findings, width=console.width)
    if arguments.json is not None:
        write_findings(findings, Path(arguments.json))
        console.print(f"findings: {arguments.json}", soft_wrap=True)
    return 0 if findings.ok else 1


def _overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the command line says other than the file.

    Raises:
        ConfigError: it says what cannot be done.
    """
    from codex_ray.config import parse_overrides

    for name in ("kills", "nodes", "hosts", "rounds"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name} is {value}: give 1 or more")
    if arguments.soak and arguments.kills is not None:
        raise ConfigError("--kills: a soak kills in every tenth round: leave it out")
    said: dict[str, Any] = {}
    if arguments.hosts is not None:
        said["cluster.hosts"] = arguments.hosts
    if arguments.rounds is not None or arguments.soak:
        said["rounds"] = arguments.rounds or SOAK_ROUNDS
    return parse_overrides(arguments.set) | said


@contextmanager
def _watching(console: Console) -> Iterator[Callable[[Moment], None]]:
    """A live line on a terminal, a line for each kill elsewhere."""
    with console.status("") as status:

        def watch(moment: Moment) -> None:
            words = f"{moment.done} of {moment.kills} kills; {moment.words}"
            if console.is_terminal:
                status.update(words)
            elif moment.news:
                print(words, file=console.file, flush=True)

        yield watch


def _show(findings: Findings, *, width: int) -> None:
    """The tables, and the outcome."""
    from rich.console import Console

    from codex_ray.cluster.chaos_table import (
        WIDEST,
        death_table,
        growth_table,
        recovery_table,
        verdict,
    )

    console = Console(width=max(width, WIDEST), markup=False, highlight=False)
    console.print()
    console.print(death_table(findings))
    console.print()
    console.print(recovery_table(findings))
    if findings.growth:
        console.print()
        console.print(growth_table(findings))
    console.print()
    console.print(verdict(findings), soft_wrap=True)
