"""`codex-ray schema`: the JSON schema of an experiment."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from codex_ray.errors import ConfigError

if TYPE_CHECKING:
    from codex_ray.cli.options import Commands


def add_schema(commands: Commands) -> None:
    """The command and its options."""
    schema = commands.add_parser("schema", help="write the JSON schema of an experiment's YAML")
    schema.add_argument("--out", metavar="FILE", help="write to a file instead of the screen")
    schema.set_defaults(command=_schema)


def _schema(arguments: argparse.Namespace) -> int:
    from codex_ray.config import schema

    text = json.dumps(schema(), indent=2)
    if arguments.out is None:
        print(text)
    else:
        try:
            Path(arguments.out).write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(
                f"--out {arguments.out}: cannot be written: {error.strerror}"
            ) from None
    return 0
