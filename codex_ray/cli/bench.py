"""`codex-ray bench`: what is claimed of speed, protocols and privacy, measured against its bars."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from codex_ray.cli.options import check_only
from codex_ray.errors import ConfigError

if TYPE_CHECKING:
    from codex_ray.cli.options import Commands


def add_bench(commands: Commands) -> None:
    """The command and its options."""
    bench = commands.add_parser(
        "bench",
        help="measure secure aggregation beside what it cannot be faster than, or privacy against "
        "its bars",
    )
    bench.add_argument("subject", choices=["secagg", "privacy"], help="what to measure")
    bench.add_argument("--json", metavar="FILE", help="write the figures to a file as well")
    bench.add_argument(
        "--only", metavar="NAME", action="append", default=[], help="one setting; may be repeated"
    )
    bench.add_argument(
        "--scale",
        type=float,
        default=1.0,
        metavar="F",
        help="fewer clients, seeds and repeats by this factor, to see that it works",
    )
    bench.set_defaults(command=_bench)


def _bench(arguments: argparse.Namespace) -> int:
    if not 0 < arguments.scale <= 1:
        raise ConfigError(f"--scale is {arguments.scale:g}: give a factor above 0 and up to 1")
    return _bench_privacy(arguments) if arguments.subject == "privacy" else _bench_secagg(arguments)


def _bench_privacy(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from codex_ray.bench.privacy import PARTS, bench, write_json
    from codex_ray.bench.privacy_table import WIDEST_TABLE, table_of

    check_only(arguments.only, list(PARTS))
    console = Console(markup=False, highlight=False)
    rows = bench(
        [name for name in PARTS if name in (arguments.only or PARTS)],
        scale=arguments.scale,
        watch=lambda row: console.print(f"{row.name}: {row.found}", soft_wrap=True),
    )
    Console(width=max(console.width, WIDEST_TABLE), highlight=False).print(
        table_of(rows, scaled=arguments.scale < 1)
    )
    if arguments.json is not None:
        write_json(rows, Path(arguments.json), scale=arguments.scale)
        console.print(f"figures: {arguments.json}")
    return 0


def _bench_secagg(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from codex_ray.bench.secagg import bench, write_json
    from codex_ray.bench.settings import SETTINGS
    from codex_ray.bench.table import WIDEST_TABLE, table_of

    names = [setting.name for setting in SETTINGS]
    check_only(arguments.only, names)
    chosen = [setting for setting in SETTINGS if setting.name in (arguments.only or names)]
    if arguments.scale < 1:
        chosen = [setting.scaled(arguments.scale) for setting in chosen]
    console = Console(markup=False)
    console.print("CPU seconds; nothing else should run on this machine meanwhile.")
    rows = bench(chosen, watch=lambda row: console.print(f"{row.setting}: {row.seconds:.2f} CPU-s"))
    Console(width=max(console.width, WIDEST_TABLE)).print(
        table_of(rows, scaled=arguments.scale < 1)
    )
    if arguments.json is not None:
        write_json(rows, Path(arguments.json))
        console.print(f"figures: {arguments.json}")
    return 0
