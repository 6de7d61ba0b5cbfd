"""`codex-ray audit`: noise, clipping and sampling, tried against the ledger."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from codex_ray.cli.options import add_set

if TYPE_CHECKING:
    from codex_ray.cli.options import Commands


def add_audit(commands: Commands) -> None:
    """The command and its options."""
    audit = commands.add_parser(
        "audit", help="try an experiment's noise, clipping and sampling against its ledger"
    )
    audit.add_argument("run", help="a run's directory, or an experiment's YAML")
    audit.add_argument(
        "--canaries",
        type=int,
        metavar="N",
        help="canaries in a probe (default: the experiment's audit.canaries, or 500)",
    )
    audit.add_argument("--json", metavar="FILE", help="write the verdicts to a file as well")
    add_set(audit)
    audit.set_defaults(command=_audit)


def _audit(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from codex_ray.api import plan
    from codex_ray.assembly import assemble
    from codex_ray.auditing import Auditor
    from codex_ray.config import parse_overrides
    from codex_ray.experiment import Audit
    from codex_ray.records.run_directory import RunDirectory, to_json_bytes
    from codex_ray.threads import single_thread

    path = Path(arguments.run)
    file = RunDirectory(path).config if path.is_dir() else path
    experiment = plan(file, parse_overrides(arguments.set))
    canaries = arguments.canaries or (experiment.audit or Audit()).canaries
    single_thread()
    console, verdicts = Console(markup=False, highlight=False), []
    for verdict in Auditor(assemble(experiment), canaries).verdicts():
        verdicts.append(verdict)
        console.print(f"{'passed' if verdict.passed else 'FAILED'}  {verdict.words}")
    if arguments.json is not None:
        found = {"verdicts": [verdict.to_json() for verdict in verdicts]}
        Path(arguments.json).write_bytes(to_json_bytes(found))
    failed = sum(not verdict.passed for verdict in verdicts)
    console.print(f"{experiment.name}: {len(verdicts) - failed} of {len(verdicts)} passed")
    return 1 if failed else 0
