"""`codex-ray run`: an experiment from its YAML to its result, or one that goes on."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codex_ray.cli.options import INTERRUPTED, add_set
from codex_ray.cli.registry_options import add_register, registering
from codex_ray.errors import ConfigError, RunDirectoryError

if TYPE_CHECKING:
    from codex_ray.api import Resumed
    from codex_ray.cli.options import Commands
    from codex_ray.federation.state import RoundResult
    from codex_ray.records.run_directory import RunDirectory


def add_run(commands: Commands) -> None:
    """The command and its options."""
    run = commands.add_parser("run", help="run an experiment, or resume one")
    run.add_argument("file", nargs="?", help="the experiment's YAML")
    run.add_argument(
        "--out", metavar="DIR", help="run directory (default: runs/NAME-001, -002, ...)"
    )
    run.add_argument(
        "--resume",
        metavar="DIR",
        help="go on with an interrupted run, from its directory or the address of its checkpoints",
    )
    run.add_argument(
        "--address",
        metavar="WHERE",
        help="the Ray that its hosts run on: local (one of its own), auto, host:port or "
        "ray://host:port; the same as --set cluster.address=WHERE",
    )
    run.add_argument(
        "--checkpoints",
        metavar="PLACE",
        help="copy checkpoints there too: a path, or an address (s3://bucket/prefix)",
    )
    run.add_argument(
        "--insecure-local",
        action="store_true",
        help="go on where strangers could get into the Ray that it runs on; the result says so",
    )
    run.add_argument(
        "--metrics-port", type=int, metavar="PORT", help="a page for Prometheus, on loopback"
    )
    run.add_argument(
        "--log-json", action="store_true", help="write what happens as lines of JSON to stderr too"
    )
    add_register(run)
    add_set(run)
    run.set_defaults(command=_run)


def _run(arguments: argparse.Namespace) -> int:
    with _ray_ahead(arguments):
        register = registering(arguments)  # what would fail after the run fails before it
        directory = _run_here(arguments)
    if directory is None:
        return INTERRUPTED
    register(directory)
    return 0


@contextmanager
def _ray_ahead(arguments: argparse.Namespace) -> Iterator[None]:
    """A Ray of the run's own, if it is a new one on Ray, started before torch is imported.

    Both take seconds, and neither needs the other. What is wrong with the experiment is said once
    it is read in full, and then this Ray is ended again.

    Raises:
        InputError: the file or an override cannot be read, or the run directory is taken.
    """
    from codex_ray.config import load_yaml, override
    from codex_ray.records.run_directory import RunDirectory

    if arguments.file is None or arguments.resume is not None:
        yield
        return
    asked = override(load_yaml(arguments.file), _overrides(arguments))
    cluster = asked.get("cluster")
    cluster = cluster if isinstance(cluster, dict) else {}
    hosts, address = cluster.get("hosts", 0), cluster.get("address", "local")
    ours = address == "local" and not cluster.get("insecure_local")
    if not isinstance(hosts, int) or hosts < 1 or not ours:
        yield
        return
    if arguments.out is not None:
        RunDirectory.check_free(Path(arguments.out))
    from codex_ray.cluster.hosts import only_ours
    from codex_ray.cluster.session import import_ahead, ray_session

    with ray_session("local", meanwhile=partial(import_ahead, alone=only_ours(asked))):
        yield


def _overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the command line says other than the file."""
    from codex_ray.config import parse_overrides
    from codex_ray.records.elsewhere import place_of

    said: dict[str, Any] = {"cluster.insecure_local": True} if arguments.insecure_local else {}
    if arguments.address is not None:
        said["cluster.address"] = arguments.address
    if arguments.metrics_port is not None:
        said["cluster.metrics_port"] = arguments.metrics_port
    if arguments.checkpoints is not None:
        said["cluster.checkpoints"] = place_of(arguments.checkpoints)
    return parse_overrides(arguments.set) | said


def _run_here(arguments: argparse.Namespace) -> str | None:
    from rich.console import Console

    from codex_ray.api import RUNS, plan, run
    from codex_ray.certifying.terms import delta_warnings
    from codex_ray.records.console import Progressing
    from codex_ray.records.json_logs import JsonLog
    from codex_ray.records.run_directory import RunDirectory
    from codex_ray.records.run_status import run_name

    overrides = _overrides(arguments)
    console = Console(markup=False)
    resumed, done = _resumed(arguments, overrides), 0
    if resumed is not None:
        experiment, directory = resumed
        done = sum(1 for _ in directory.rounds.open("rb")) if directory.rounds.exists() else 0
        out = directory.path
    else:
        experiment = plan(arguments.file, overrides)
        out = Path(arguments.out or RunDirectory.next_under(RUNS, experiment.name))
    where = f"{experiment.cluster.hosts} Ray hosts" if experiment.cluster.hosts else "this process"
    progress = Progressing(console, done=done, rounds=experiment.rounds)

    log = JsonLog(sys.stderr, run=run_name(out)) if arguments.log_json else None

    def watch(result: RoundResult | None) -> None:
        if result is None:
            progress.ready()
        else:
            progress.round(result)
            if log is not None:
                log.round(result)

    console.print(f"{experiment.name}: {experiment.rounds} rounds in {where}, into {out}")
    for warning in delta_warnings(experiment):
        console.print(f"warning: {warning}", highlight=False)
    try:
        with progress.shown():
            if resumed is not None:
                result = run(resume=resumed, watch=watch)
            else:
                result = run(experiment, out=out, watch=watch)
    except KeyboardInterrupt:
        if not (out / "config.yaml").exists():
            raise
        print(
            "\ncodex-ray: interrupted; the last round is in a checkpoint: codex-ray run --resume "
            f"{out}",
            file=sys.stderr,
        )
        return None
    finally:
        if log is not None:
            log.close()
    _show(console, result.directory)
    return result.directory


def _resumed(arguments: argparse.Namespace, overrides: dict[str, Any]) -> Resumed | None:
    """The run that is to be gone on with; None for a new one."""
    from codex_ray.api import open_run
    from codex_ray.records.copied import holds_copies

    if arguments.resume is None:
        return None
    afar = holds_copies(arguments.resume)
    if arguments.file is not None or (arguments.out is not None and not afar):
        raise ConfigError(
            "--resume: the run has its own file and directory: give neither FILE nor --out"
        )
    return open_run(arguments.resume, overrides, out=arguments.out)


def _show(console: object, directory: str) -> None:
    """The closing tables, and where everything is."""
    from rich.console import Console

    from codex_ray.records.console import client_table, closing_table, facts, verdict
    from codex_ray.records.result import RunResult
    from codex_ray.records.run_directory import RunDirectory

    assert isinstance(console, Console)
    result, files = RunResult.read(directory), RunDirectory(Path(directory))
    console.print()
    console.print(closing_table(result))
    console.print(f"\n{verdict(result)}", soft_wrap=True, highlight=False)
    per_client = client_table(result)
    if per_client is not None:
        console.print()
        console.print(per_client)
    console.print()
    for name, value in [
        *facts(result),
        ("certificate", _certificate(files)),
        ("run directory", str(files.path)),
        ("report", f"{files.report} (picture: {files.picture.name})"),
        ("TensorBoard", f"tensorboard --logdir {files.tensorboard}"),
    ]:
        console.print(f"{name:<24}{value}", soft_wrap=True, highlight=False)


def _certificate(files: RunDirectory) -> str:
    """What became of a finished run's certificate, in a line."""
    from codex_ray.records.certificate import page_of, read_document

    try:
        document = read_document(files)
    except RunDirectoryError as error:
        return str(error)
    return document.refused or f"{page_of(files)}, {document.signed_in_words}"
