"""What the commands around the registry share: where it is, whom to believe, and what is meant."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from codex_ray.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from codex_ray.records.keys import SigningKey, TrustedKey
    from codex_ray.registry import Registry, Version
    from codex_ray.registry.events import Switch


def add_common(parser: argparse.ArgumentParser) -> None:
    """The options that every action of `codex-ray models` has."""
    add_registry(parser)
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="FILE",
        help="the public key of whoever you believe; may be given again (default: your own)",
    )
    parser.add_argument(
        "--head", metavar="EVENTS:HASH", help="refuse a registry that is older than this"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_registry(parser: argparse.ArgumentParser) -> None:
    """Where the registry is."""
    parser.add_argument("--registry", metavar="DIR", help="default: $CODEX_RAY_REGISTRY, or models")


def add_stage(parser: argparse.ArgumentParser) -> None:
    """Which stage is meant."""
    parser.add_argument(
        "--stage", default="production", metavar="STAGE", help="default: %(default)s"
    )


def add_shape(parser: argparse.ArgumentParser) -> None:
    """What a record looks like."""
    parser.add_argument(
        "--input-shape", metavar="N,N,...", help="of one record, where the model does not tell it"
    )


def add_unsafe(parser: argparse.ArgumentParser) -> None:
    """The unsafe switches; each is signed into what it leads to."""
    parser.add_argument(
        "--allow-uncertified",
        action="store_true",
        help="although it has no privacy certificate; its card says so",
    )
    parser.add_argument(
        "--skip-recompute",
        action="store_true",
        help="believe the certificate's signature, and do not compute it again; its card says so",
    )


def add_register(run: argparse.ArgumentParser) -> None:
    """The options of `codex-ray run` that make its result a version."""
    run.add_argument(
        "--register", metavar="NAME", help="make the result a version of the model NAME"
    )
    add_registry(run)


def registering(arguments: argparse.Namespace) -> Callable[[str], None]:
    """What registers the run in a directory, and says so; it does nothing if nobody asked for it.

    Raises:
        InputError: it could not be done, which is better said before a run than after it.
    """
    if arguments.register is None:
        if arguments.registry is not None:
            raise InputError("--registry: is where a version is kept: give --register NAME as well")
        return lambda run: None
    from codex_ray.registry import Registry
    from codex_ray.registry.registry import check_name

    check_name(arguments.register)
    folder = folder_of(arguments)
    registry = Registry.create(folder, key=own_key())

    def register(run: str) -> None:
        found = registry.register(run, arguments.register)
        words = "registered" if found.new else "was registered already"
        print(f"{'model':<24}{found.version.label}, {words} in {folder}")

    return register


def opened(arguments: argparse.Namespace, *, writing: bool = False) -> Registry:
    """The registry that is meant, to be read, or changed as well.

    Raises:
        InputError: there is none, or nobody to believe, or no key to sign a change with.
        TamperError: it is not what trusted keys signed.
    """
    from codex_ray.registry import Registry

    key = own_key() if writing else None
    folder = folder_of(arguments)
    return Registry.open(folder, trusted=trusted(arguments), key=key, head=arguments.head)


def folder_of(arguments: argparse.Namespace) -> Path:
    """Where the registry is."""
    from codex_ray.registry import registry_folder

    return registry_folder() if arguments.registry is None else Path(arguments.registry)


def trusted(arguments: argparse.Namespace) -> list[TrustedKey]:
    """Who is believed."""
    from codex_ray.registry import trusted_keys

    return trusted_keys([Path(file) for file in arguments.trust], registry=folder_of(arguments))


def own_key() -> SigningKey:
    """The key of whoever changes something.

    Raises:
        InputError: they have none.
    """
    from codex_ray.records.keys import key_folder, read_signing_key

    key = read_signing_key(key_folder())
    if key is None:
        raise InputError("every change is signed, and there is no key: codex-ray keys init")
    return key


def version_of(registry: Registry, text: str, *, latest: bool = False) -> Version:
    """The version that NAME[@VERSION] means; with `latest`, the last one if none is in use."""
    name, number = parsed(text)
    if number is None and latest and registry.current(name) is None:
        return registry.versions(name)[-1]
    return registry.version(name, number)


def parsed(text: str) -> tuple[str, int | None]:
    """The name and the number in NAME[@VERSION].

    Raises:
        InputError: what comes after the @ is no number.
    """
    name, at, number = text.partition("@")
    if not at:
        return name, None
    if not (number.isascii() and number.isdecimal()) or len(number) > 9:
        raise InputError(f"{text}: is no NAME@VERSION: the version is a number, as in heart@3")
    return name, int(number)


def needed(text: str) -> tuple[str, int]:
    """The name and the number in NAME@VERSION.

    Raises:
        InputError: there is no number.
    """
    name, number = parsed(text)
    if number is None:
        raise InputError(f"{text}: name the version, as in {name}@3")
    return name, number


def shape_of(arguments: argparse.Namespace) -> Sequence[int] | None:
    """What a record looks like; None where nobody said it.

    Raises:
        InputError: those are no whole numbers.
    """
    text = arguments.input_shape
    if text is None:
        return None
    try:
        return [int(size) for size in text.split(",")]
    except ValueError:
        raise InputError(f"--input-shape {text}: give whole numbers, as in 1,28,28") from None


def switches(arguments: argparse.Namespace) -> list[Switch]:
    """The unsafe switches that were given."""
    found: list[Switch] = ["allow_uncertified"] if arguments.allow_uncertified else []
    return [*found, "skip_recompute"] if arguments.skip_recompute else found
