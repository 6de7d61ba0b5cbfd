"""`codex-ray keys`: the key that signs certificates."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from codex_ray.errors import InputError

if TYPE_CHECKING:
    from codex_ray.cli.options import Commands


def add_keys(commands: Commands) -> None:
    """The command and its options."""
    keys = commands.add_parser("keys", help="make the key that signs certificates, or show it")
    actions = keys.add_subparsers(required=True, metavar="ACTION")
    for name, words, command in (
        ("init", "make a key pair; never overwrites one", _keys_init),
        ("show", "print the fingerprint and where the files are", _keys_show),
    ):
        action = actions.add_parser(name, help=words)
        action.add_argument(
            "--out",
            metavar="DIR",
            help="folder of the key (default: $CODEX_RAY_KEYS, or ~/.config/codex_ray)",
        )
        action.set_defaults(command=command)


def _keys_init(arguments: argparse.Namespace) -> int:
    from codex_ray.records.keys import key_folder, make_keys

    key, public = make_keys(_folder(arguments) or key_folder())
    print(f"{key.public.fingerprint}")
    print(f"public key, to hand out: {public}")
    print(f"private key, for its owner alone: {public.parent}")
    return 0


def _keys_show(arguments: argparse.Namespace) -> int:
    from codex_ray.records.keys import PUBLIC_NAME, key_folder, read_signing_key

    folder = _folder(arguments) or key_folder()
    key = read_signing_key(folder)
    if key is None:
        raise InputError(f"{folder}: there is no key in it: make one with codex-ray keys init")
    print(f"{key.public.fingerprint}")
    print(f"public key, to hand out: {folder / PUBLIC_NAME}")
    return 0


def _folder(arguments: argparse.Namespace) -> Path | None:
    return None if arguments.out is None else Path(arguments.out)
