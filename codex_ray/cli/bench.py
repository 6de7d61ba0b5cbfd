"""`codex-ray bench`: what is claimed of speed, protocols and privacy, measured against its bars."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from codex_ray.cli.options import check_only
from codex_ray.errors import ConfigError

if TYPE_CHECKING:
    from codex_ray.bench.bars import Row
    from codex_ray.bench.parts import Part
    from codex_ray.cli.options import Commands


@dataclass(frozen=True)
class _Subject:
    """What can be measured: its title, its parts by name, and how it is drawn."""

    title: str
    parts: Mapping[str, Part]
    plot: Callable[[Sequence[Row], Path], None] | None = None
    aside: frozenset[str] = frozenset()
    """Parts that are measured only where they are named."""


def _train() -> _Subject:
    from codex_ray.bench.plots import plot_train
    from codex_ray.bench.train import PARTS

    return _Subject("Training, against its bars", PARTS, plot_train)


def _round() -> _Subject:
    from codex_ray.bench.plots import plot_round
    from codex_ray.bench.round_costs import PARTS

    return _Subject("Rounds, against their bars", PARTS, plot_round)


def _scale() -> _Subject:
    from codex_ray.bench.plots import plot_scale
    from codex_ray.bench.scale import PARTS

    return _Subject("Scale, against its bars", PARTS, plot_scale)


def _privacy() -> _Subject:
    from codex_ray.bench.privacy import PARTS

    return _Subject("Privacy, against its bars", PARTS)


def _sweep() -> _Subject:
    from codex_ray.bench.sweeps import PARTS

    return _Subject("Sweeps, against their bar", PARTS)


def _serve() -> _Subject:
    from codex_ray.bench.serving import PARTS

    return _Subject("Serving, against its bars", PARTS)


def _prepare() -> _Subject:
    from codex_ray.bench.preparing import PARTS

    return _Subject("Preparing, against its bar", PARTS)


def _heart(data: str | None) -> _Subject:
    from codex_ray.bench.heart_disease import parts_for, plot_heart

    named = data or os.environ.get("CODEX_RAY_DATA")
    parts = parts_for(None if named is None else Path(named))
    title = "Heart Disease, four hospitals, against its bars"
    return _Subject(title, parts, plot_heart, frozenset({"settings"}))


SUBJECTS: Mapping[str, Callable[[], _Subject]] = {
    "train": _train,
    "round": _round,
    "scale": _scale,
    "privacy": _privacy,
    "sweep": _sweep,
    "serve": _serve,
    "prepare": _prepare,
}
SECAGG = "secagg"
HEART = "heart"


def add_bench(commands: Commands) -> None:
    """The command and its options."""
    bench = commands.add_parser(
        "bench",
        help="measure training, rounds, scale, sums, sweeps, serving, preparing, privacy "
        "or hospitals",
        description="train: client updates a CPU second, against a bare loop and Opacus. round: "
        "where a round's time goes. scale: cohorts, populations and hosts. secagg: protocols "
        "beside what they cannot be faster than. privacy: epsilons, audits and noise. sweep: many "
        "runs through Ray Tune, beside the same runs one after the other. serve: requests a second "
        "of a served model. prepare: memory and time for a file of ten gigabytes. heart: accuracy "
        "on the four hospitals of UCI Heart Disease, with and without noise.",
    )
    bench.add_argument("subject", choices=[*SUBJECTS, SECAGG, HEART], help="what to measure")
    bench.add_argument("--json", metavar="FILE", help="write the figures to a file as well")
    bench.add_argument(
        "--plot", metavar="FILE", help="draw the figures as a PNG: train, round, scale and heart"
    )
    bench.add_argument(
        "--only", metavar="NAME", action="append", default=[], help="one part; may be repeated"
    )
    bench.add_argument(
        "--data", metavar="DIR", help="of the files for heart (default: $CODEX_RAY_DATA)"
    )
    bench.add_argument(
        "--scale",
        type=float,
        default=1.0,
        metavar="F",
        help="fewer clients, seeds, repeats and points by this factor, to see that it works",
    )
    bench.set_defaults(command=_bench)


def _bench(arguments: argparse.Namespace) -> int:
    if not 0 < arguments.scale <= 1:
        raise ConfigError(f"--scale is {arguments.scale:g}: give a factor above 0 and up to 1")
    if arguments.subject == SECAGG:
        if arguments.plot is not None:
            raise ConfigError("--plot: secagg is not drawn: leave it out, or use --json")
        return _bench_secagg(arguments)
    if arguments.data is not None and arguments.subject != HEART:
        raise ConfigError(f"--data: {arguments.subject} makes its own: leave it out")
    heart = arguments.subject == HEART
    subject = _heart(arguments.data) if heart else SUBJECTS[arguments.subject]()
    if arguments.plot is not None and subject.plot is None:
        raise ConfigError(f"--plot: {arguments.subject} is not drawn: leave it out, or use --json")
    return _bench_parts(arguments, subject)


def _bench_parts(arguments: argparse.Namespace, subject: _Subject) -> int:
    from rich.console import Console

    from codex_ray.bench.bars_table import WIDEST_TABLE, table_of
    from codex_ray.bench.parts import measured, write_json

    check_only(arguments.only, list(subject.parts))
    console = Console(markup=False, highlight=False)
    usual = subject.parts.keys() - subject.aside
    rows = measured(
        subject.parts,
        [name for name in subject.parts if name in (arguments.only or usual)],
        scale=arguments.scale,
        watch=lambda row: console.print(f"{row.name}: {row.found}", soft_wrap=True),
    )
    Console(width=max(console.width, WIDEST_TABLE), highlight=False).print(
        table_of(rows, scaled=arguments.scale < 1, title=subject.title)
    )
    if arguments.json is not None:
        write_json(rows, Path(arguments.json), scale=arguments.scale)
        console.print(f"figures: {arguments.json}")
    if arguments.plot is not None and subject.plot is not None:
        subject.plot(rows, Path(arguments.plot))
        console.print(f"picture: {arguments.plot}")
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
