"""`codex-ray submit`: an experiment as a job on a running cluster, followed and fetched."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from codex_ray.cli.options import INTERRUPTED, add_set
from codex_ray.errors import ConfigError

if TYPE_CHECKING:
    from codex_ray.cli.options import Commands


def add_submit(commands: Commands) -> None:
    """The command and its options."""
    submit = commands.add_parser("submit", help="run an experiment as a job on a running cluster")
    submit.add_argument("file", nargs="?", help="the experiment's YAML")
    submit.add_argument("--attach", metavar="JOB", help="follow and fetch a job that was submitted")
    submit.add_argument(
        "--dashboard",
        metavar="URL",
        help="the cluster's dashboard, through a tunnel (default: http://127.0.0.1:8265)",
    )
    submit.add_argument(
        "--working-dir",
        metavar="DIR",
        help="a folder that the job gets too, for data or code; .rayignore says what stays behind",
    )
    submit.add_argument("--out", metavar="DIR", help="where the run directory goes")
    submit.add_argument(
        "--insecure-local", action="store_true", help="go on where strangers could get in"
    )
    add_set(submit)
    submit.set_defaults(command=_submit)


def _submit(arguments: argparse.Namespace) -> int:
    from codex_ray.api import RUNS, plan
    from codex_ray.cluster.submit import DASHBOARD, Jobs
    from codex_ray.config import parse_overrides
    from codex_ray.records.run_directory import RunDirectory

    if (arguments.file is None) == (arguments.attach is None):
        raise ConfigError("submit: give the experiment's YAML, or --attach and a job")
    title = arguments.attach
    if arguments.file is not None:
        # What is wrong with it is said here, before anything is sent.
        title = plan(arguments.file, parse_overrides(arguments.set)).name
    out = Path(arguments.out or RunDirectory.next_under(RUNS, title))
    RunDirectory.check_free(out)
    jobs = Jobs.at(arguments.dashboard or DASHBOARD, insecure_local=arguments.insecure_local)
    for problem in jobs.overlooked:
        print(f"overlooked: {problem}", file=sys.stderr)
    name = arguments.attach
    if name is None:
        folder = None if arguments.working_dir is None else Path(arguments.working_dir)
        name = jobs.submit(Path(arguments.file), arguments.set, folder=folder)
        print(f"job {name}")
    try:
        succeeded = jobs.follow(name, lambda lines: print(lines, end="", flush=True))
        jobs.fetch(name, out)
    except KeyboardInterrupt:
        print(f"\ncodex-ray: the job goes on: codex-ray submit --attach {name}", file=sys.stderr)
        return INTERRUPTED
    print(f"run directory: {out}")
    return 0 if succeeded else 1
