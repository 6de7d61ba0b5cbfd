"""The command line: `codex-ray run | sweep | submit | account | audit | bench | cluster | ...`.

One file for each command. What a command needs is imported when it runs, so that help is quick.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from codex_ray import __version__
from codex_ray.cli.access import add_access
from codex_ray.cli.account import add_account
from codex_ray.cli.audit import add_audit
from codex_ray.cli.bench import add_bench
from codex_ray.cli.certs import add_certs
from codex_ray.cli.chaos import add_chaos
from codex_ray.cli.cluster import add_cluster
from codex_ray.cli.data import add_data
from codex_ray.cli.ending import sigterm_as_interrupt
from codex_ray.cli.keys import add_keys
from codex_ray.cli.models import add_models
from codex_ray.cli.options import BAD_INPUT, INTERRUPTED
from codex_ray.cli.pipeline import add_pipeline
from codex_ray.cli.run import add_run
from codex_ray.cli.runs import add_runs
from codex_ray.cli.schema import add_schema
from codex_ray.cli.serve import add_serve
from codex_ray.cli.status import add_status
from codex_ray.cli.submit import add_submit
from codex_ray.cli.sweep import add_sweep
from codex_ray.cli.token import add_token
from codex_ray.errors import CodexRayError, InputError

COMMANDS = (
    *(add_run, add_sweep, add_submit, add_account, add_audit, add_bench, add_schema, add_keys),
    *(add_cluster, add_token, add_certs, add_status, add_runs, add_chaos, add_models, add_data),
    *(add_serve, add_access, add_pipeline),
)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status of one command: 0, 1 for a failure, 2 for bad input, 130 after Ctrl-C.

    Being asked to end (SIGTERM) is a Ctrl-C too.
    """
    arguments = _parser().parse_args(argv)
    try:
        with sigterm_as_interrupt():
            return int(arguments.command(arguments))
    except InputError as error:
        print(f"codex-ray: {_one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    except (CodexRayError, OSError) as error:
        print(f"codex-ray: {_one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("codex-ray: interrupted", file=sys.stderr)
        return INTERRUPTED


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="codex-ray", description="Private federated learning, simulated at scale on Ray."
    )
    parser.add_argument("--version", action="version", version=f"codex-ray {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in COMMANDS:
        add(commands)
    return parser
