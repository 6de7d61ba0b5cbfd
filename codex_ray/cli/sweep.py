"""`codex-ray sweep`: many experiments through Ray Tune."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from codex_ray.cli.options import INTERRUPTED, add_set

if TYPE_CHECKING:
    from codex_ray.cli.options import Commands


def add_sweep(commands: Commands) -> None:
    """The command and its options."""
    sweep = commands.add_parser("sweep", help="run a grid of experiments through Ray Tune")
    sweep.add_argument("file", nargs="?", help="the sweep's YAML")
    sweep.add_argument(
        "--out", metavar="DIR", help="folder for the sweep (default: runs/NAME-001, ...)"
    )
    sweep.add_argument("--resume", metavar="DIR", help="go on with an interrupted sweep")
    add_set(sweep)
    sweep.set_defaults(command=_sweep)


def _sweep(arguments: argparse.Namespace) -> int:
    from codex_ray.cluster.sweep import sweep_and_show
    from codex_ray.config import parse_overrides

    result = sweep_and_show(
        arguments.file,
        parse_overrides(arguments.set),
        out=arguments.out,
        resume=arguments.resume,
    )
    if result.interrupted:
        return INTERRUPTED
    return int(result.failed)
