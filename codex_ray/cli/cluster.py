"""`codex-ray cluster`: looks at a cluster before a run, or at a node before it joins one."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from codex_ray.cli.options import add_set

if TYPE_CHECKING:
    from codex_ray.cli.options import Commands


def add_cluster(commands: Commands) -> None:
    """The command and its options."""
    cluster = commands.add_parser("cluster", help="look at a cluster, and who could get into it")
    actions = cluster.add_subparsers(required=True, metavar="ACTION")
    check = actions.add_parser(
        "check", help="nodes, software, token, TLS, ports, and where an experiment would run"
    )
    check.add_argument("file", nargs="?", help="the YAML of an experiment that is to run there")
    check.add_argument(
        "--address", help='the cluster (default: the experiment\'s cluster.address, or "auto")'
    )
    check.add_argument("--json", action="store_true", help="print JSON")
    add_set(check)
    check.set_defaults(command=_check)
    preflight = actions.add_parser(
        "preflight", help="before `ray start`: whether this node's token and TLS are in order"
    )
    preflight.set_defaults(command=_preflight)
    for action in (check, preflight):
        action.add_argument(
            "--insecure-local", action="store_true", help="go on where strangers could get in"
        )


def _check(arguments: argparse.Namespace) -> int:
    from rich.console import Console

    from codex_ray.api import plan
    from codex_ray.cluster.check import check_cluster
    from codex_ray.cluster.check_table import finding_table, foreseen_table, node_table
    from codex_ray.config import parse_overrides

    experiment = None
    if arguments.file is not None:
        experiment = plan(arguments.file, parse_overrides(arguments.set))
    named = None if experiment is None else experiment.cluster.address
    check = check_cluster(
        arguments.address or named or "auto",
        experiment=experiment,
        insecure_local=arguments.insecure_local,
    )
    if arguments.json:
        print(json.dumps(check.to_json(), indent=2))
        return 0 if check.ok else 1
    console = Console(markup=False, highlight=False)
    if check.nodes:
        console.print(node_table(check))
        console.print()
    if check.foreseen is not None:
        console.print(foreseen_table(check.foreseen))
        console.print()
    console.print(finding_table(check))
    return 0 if check.ok else 1


def _preflight(arguments: argparse.Namespace) -> int:
    from codex_ray.cluster.preflight import allowed, keys_from

    keys = keys_from()
    for problem in allowed(keys.problems, insecure_local=arguments.insecure_local):
        print(f"overlooked: {problem}")
    token = "none" if keys.token is None else f"{keys.token.where}, {keys.token.fingerprint}"
    print(f"token: {token}; TLS: {'not set' if keys.files is None else keys.files.certificate}")
    return 0
