"""What several commands have in common: options, where they write, and exit statuses."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

from codex_ray.errors import ConfigError

if TYPE_CHECKING:
    Commands: TypeAlias = argparse._SubParsersAction[argparse.ArgumentParser]

BAD_INPUT = 2
INTERRUPTED = 130


def add_set(parser: argparse.ArgumentParser) -> None:
    """The option to change any field of a YAML."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a field by its dotted key; may be given again",
    )


def check_only(asked: Sequence[str], names: Sequence[str]) -> None:
    """Refuses a name that there is not.

    Raises:
        ConfigError: naming those that there are.
    """
    if unknown := sorted(set(asked) - set(names)):
        raise ConfigError(f"--only: there is no {unknown[0]}: choose of {', '.join(names)}")
