"""A user's own object by its dotted name, "package.module:name"."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from codex_ray.data.unknown_name import did_you_mean
from codex_ray.errors import ConfigError


def _import_module(name: str, field: str) -> ModuleType:
    """The module, also from the working directory, as `python -m` does and a script does not.

    The directory goes to the end of the search path: a file of the user never hides a library.
    """
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name == missing or name.startswith(missing + "."):
            raise ConfigError(
                f"{field}: there is no module {missing!r}, neither installed nor in {here}: "
                "correct its name, or start from the folder that holds it"
            ) from error
        raise ConfigError(
            f"{field}: module {name!r} imports {missing!r}, which is not installed: install it"
        ) from error


def import_by_name(dotted: str, field: str) -> Any:
    """The object that "module:name" (or "module:Outer.name") stands for.

    Args:
        dotted: the module, a colon, and the name of the object in it.
        field: dotted key of the configuration field that holds the name, for the messages.

    Raises:
        ConfigError: no colon, no such module, or no such object (it lists what there is).
    """
    module_name, colon, path = dotted.partition(":")
    if not (module_name and colon and path):
        raise ConfigError(
            f"{field}: {dotted!r} names no object: write package.module:name, with a colon between "
            "the module and the name"
        )
    found: Any = _import_module(module_name, field)
    for name in path.split("."):
        if not hasattr(found, name):
            has = [
                known
                for known, value in vars(found).items()
                if not known.startswith("_") and not isinstance(value, ModuleType)
            ]
            raise ConfigError(
                f"{field}: {found.__name__} has no {name!r}; it has "
                f"{', '.join(has[:30]) or 'nothing'}: {did_you_mean(name, has)}"
            )
        found = getattr(found, name)
    return found
