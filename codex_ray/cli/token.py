"""`codex-ray token`: makes the token that a Ray cluster demands, or looks at the one there is."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from codex_ray.cli.options import Commands


def add_token(commands: Commands) -> None:
    """The command and its options."""
    token = commands.add_parser(
        "token", help="make the token that a Ray cluster demands, or look at the one there is"
    )
    token.add_argument(
        "--file", metavar="FILE", help="default: $RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token"
    )
    token.set_defaults(command=_token)


def _token(arguments: argparse.Namespace) -> int:
    from codex_ray.cluster.token import default_file, make_token, read_token

    usual = default_file({})
    file = default_file(os.environ) if arguments.file is None else Path(arguments.file)
    found = file.exists()
    token = read_token(file) if found else make_token(file)
    print(f"{'found' if found else 'made'} {file}, fingerprint {token.fingerprint}")
    print("give the same file to every node and driver (chmod 600), and set there:")
    print("export RAY_AUTH_MODE=token")
    if file != usual:
        print(f"export RAY_AUTH_TOKEN_PATH={file.absolute()}")
    if os.environ.get("RAY_AUTH_TOKEN"):
        print("note: RAY_AUTH_TOKEN is set in this environment, and goes before any file")
    return 0
