"""`codex-ray certs`: authorities, and the certificates of a Ray cluster's nodes and of servers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from codex_ray.cli.options import Commands


def add_certs(commands: Commands) -> None:
    """The command and its options."""
    certs = commands.add_parser("certs", help="certificates for the TLS of a cluster or a server")
    actions = certs.add_subparsers(required=True, metavar="ACTION")
    init = actions.add_parser("init", help="make an authority; never overwrites one")
    init.add_argument("--days", type=int, metavar="N", help="good for so long (default: 365)")
    init.set_defaults(command=_init)
    issue = actions.add_parser("issue", help="issue a certificate for a node, a driver or a server")
    issue.add_argument(
        "name",
        nargs="+",
        help="address or DNS name; the first must be the address that the node is reached by",
    )
    issue.add_argument("--days", type=int, metavar="N", help="good for so long (default: 30)")
    issue.add_argument("--out", metavar="DIR", help="folder for the node (default: FOLDER/NAME)")
    issue.set_defaults(command=_issue)
    for action in (init, issue):
        action.add_argument(
            "--for",
            dest="purpose",
            choices=("cluster", "serving"),
            default="cluster",
            help="serving: for codex-ray serve, of an authority apart, and good for no cluster",
        )
        action.add_argument(
            "--folder",
            metavar="DIR",
            help="folder of the authority (default: ~/.config/codex_ray/cluster, or .../serving)",
        )


def _init(arguments: argparse.Namespace) -> int:
    from codex_ray.cluster.certificates import AUTHORITY_DAYS, make_authority

    folder = _folder(arguments)
    days = AUTHORITY_DAYS if arguments.days is None else arguments.days
    made = make_authority(folder, days=days)
    print(f"authority: {folder / 'ca.pem'}, until {made.certificate.not_valid_after_utc:%Y-%m-%d}")
    print(f"its key, which stays off the nodes: {folder / 'ca-key.pem'}")
    if arguments.purpose == "serving":
        print("next, for each server: codex-ray certs issue NAME --for serving --out DIR")
    else:
        print("next, for each node and each driver: codex-ray certs issue ADDRESS")
    return 0


def _issue(arguments: argparse.Namespace) -> int:
    from codex_ray.cluster.certificates import (
        NODE_DAYS,
        check_node,
        issue,
        names_in,
        read_authority,
        read_certificate,
    )

    folder = _folder(arguments)
    out = folder / arguments.name[0] if arguments.out is None else Path(arguments.out)
    days = NODE_DAYS if arguments.days is None else arguments.days
    files = issue(
        read_authority(folder),
        out.absolute(),
        names=arguments.name,
        days=days,
        opens_cluster=arguments.purpose == "cluster",
    )
    until = check_node(files)
    print(f"for {', '.join(names_in(read_certificate(files.certificate)))}, until {until:%Y-%m-%d}")
    if arguments.purpose == "serving":
        print(f"codex-ray serve NAME --cert {files.certificate} --key {files.key}")
        print(f"callers believe it by {files.authority}")
        return 0
    print(f"copy {out} to the node, its owner's alone, and set there before ray start:")
    for name, value in files.environment.items():
        print(f"export {name}={value}")
    return 0


def _folder(arguments: argparse.Namespace) -> Path:
    from codex_ray.records.keys import key_folder

    return key_folder() / arguments.purpose if arguments.folder is None else Path(arguments.folder)
