"""`codex-ray models`: what is registered, what differs, what is in use, and what may not be."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codex_ray.cli.registry_options import (
    add_common,
    add_shape,
    add_stage,
    add_unsafe,
    folder_of,
    needed,
    opened,
    own_key,
    parsed,
    shape_of,
    switches,
    trusted,
    version_of,
)
from codex_ray.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from codex_ray.cli.options import Commands
    from codex_ray.registry import ServedModel, Version

    Command = Callable[[argparse.Namespace], int]

NAMED = "NAME[@VERSION]; without a version, what is in production"


def add_models(commands: Commands) -> None:
    """The command and its options."""
    models = commands.add_parser(
        "models",
        help="list, compare, check, promote, roll back, revoke and export registered models",
        description="The registry of trained models: every version is signed, and only one whose "
        "signatures, files and certificate hold can be promoted or served.",
    )
    actions = models.add_subparsers(required=True, metavar="ACTION")

    def action(name: str, words: str, command: Command) -> argparse.ArgumentParser:
        parser = actions.add_parser(name, help=words, description=words)
        add_common(parser)
        parser.set_defaults(command=command)
        return parser

    listed = action("list", "list the versions", _list)
    listed.add_argument("name", nargs="?", metavar="NAME", help="of this model only")
    shown = action("show", "print a version's facts and its privacy card", _show)
    shown.add_argument("model", metavar="NAME[@VERSION]", help=NAMED)
    shown.add_argument("--html", metavar="FILE", help="write the card as one HTML page")
    compared = action("diff", "print what two versions differ in", _diff)
    compared.add_argument("model", metavar="NAME@VERSION", help="the later one")
    compared.add_argument("other", nargs="?", metavar="OTHER", help="default: its parent")
    checked = action("verify", "check every signature, file, event and certificate", _verify)
    checked.add_argument("model", nargs="?", metavar="NAME[@VERSION]", help="only this")
    checked.add_argument(
        "--skip-recompute", action="store_true", help="do not compute certificates again"
    )
    _add_changes(action)
    exported = action("export", "write a version as .onnx or .pt2, with a signed note", _export)
    exported.add_argument("model", metavar="NAME[@VERSION]", help=NAMED)
    exported.add_argument("to", metavar="FILE", help="its ending says the format: .onnx or .pt2")
    add_shape(exported)
    add_unsafe(exported)
    action("sweep", "remove files that belong to no version, which a crash can leave", _sweep)


def _add_changes(action: Callable[[str, str, Command], argparse.ArgumentParser]) -> None:
    """The actions that change something; each is a signed event."""
    registered = action("register", "make a finished run a version", _register)
    registered.add_argument("run", metavar="RUN", help="its run directory")
    registered.add_argument("name", metavar="NAME")
    registered.add_argument("--parent", type=int, metavar="VERSION", help="default: the last one")
    registered.add_argument("--data-card", metavar="FILE", help="default: RUN/data_card.json")
    add_shape(registered)
    promoted = action("promote", "put a version into a stage", _promote)
    promoted.add_argument("model", metavar="NAME@VERSION")
    add_stage(promoted)
    add_unsafe(promoted)
    rolled = action("rollback", "put back the version that was in a stage before", _rollback)
    rolled.add_argument("name", metavar="NAME")
    add_stage(rolled)
    revoked = action("revoke", "never let a version be promoted or served again", _revoke)
    revoked.add_argument("model", metavar="NAME@VERSION")
    revoked.add_argument("--reason", required=True, metavar="TEXT", help="kept for good")


def _list(arguments: argparse.Namespace) -> int:
    from codex_ray.registry.tables import versions_json, versions_table

    registry = opened(arguments)
    listed = [(found, registry.manifest(found)) for found in registry.versions(arguments.name)]
    if arguments.json:
        _print_json(versions_json(listed))
        return 0
    if listed:
        _print(versions_table(listed))
    print(f"{registry.folder}: {len(listed)} versions")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from rich.markdown import Markdown

    from codex_ray.records.certificate_page import page
    from codex_ray.records.run_directory import write_atomically
    from codex_ray.registry.card import card
    from codex_ray.registry.tables import facts

    registry = opened(arguments)
    served = registry.look_at(version_of(registry, arguments.model, latest=True))
    if arguments.html is not None:
        write_atomically(Path(arguments.html), card(served).encode())
    if arguments.json:
        _print_json(_served_json(served))
        return 0
    for name, value in facts(served):
        print(f"{name:<18}{value}")
    print()
    _print(Markdown(page(served.document)))
    return 0


def _diff(arguments: argparse.Namespace) -> int:
    from codex_ray.registry.differences import differences
    from codex_ray.registry.tables import differences_tables

    registry = opened(arguments)
    after = version_of(registry, arguments.model)
    if arguments.other is not None:
        before = version_of(registry, arguments.other)
    else:
        parent = registry.manifest(after).parent
        if parent is None:
            raise InputError(f"{after.label}: has no parent: name the version to compare it with")
        before = registry.version(after.name, parent)
    found = differences(registry.look_at(before), registry.look_at(after))
    if arguments.json:
        _print_json(found.to_json())
        return 0
    for title, table in differences_tables(found):
        print(f"{title}:")
        _print(table)
        print()
    if found.same_model:
        print("The models are the same, to the bit.")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    registry = opened(arguments)
    versions = registry.versions()
    if arguments.model is not None:
        name, number = parsed(arguments.model)
        versions = registry.versions(name) if number is None else [registry.version(name, number)]
    wrong = registry.verify(versions, recompute=not arguments.skip_recompute)
    left = len(registry.unnamed()) if arguments.model is None and not wrong else 0
    others = [] if wrong or arguments.skip_recompute else registry.reads_otherwise(versions)
    if arguments.json:
        told = {"wrong": wrong, "otherwise": others}
        _print_json({**told, "versions": len(versions), "head": registry.head()})
        return 1 if wrong else 0
    for line in others:
        print(f"note: {line}")
    for line in wrong:
        print(f"wrong: {line}")
    if wrong:
        print(f"NOT VERIFIED: {len(wrong)} of {len(versions)} versions do not hold")
        return 1
    if left:
        print(f"note: {left} files belong to no version: codex-ray models sweep removes them")
    print(f"VERIFIED: {len(versions)} versions, {len(registry.events())} events")
    print(f"head: {registry.head()} (with it as --head, an older registry is refused)")
    return 0


def _register(arguments: argparse.Namespace) -> int:
    from codex_ray.registry import Registry

    registry = Registry.create(
        folder_of(arguments), key=own_key(), trusted=trusted(arguments), head=arguments.head
    )
    found = registry.register(
        arguments.run,
        arguments.name,
        parent=arguments.parent,
        input_shape=shape_of(arguments),
        data_card=arguments.data_card,
    )
    return _told(
        arguments, found.version, "is registered" if found.new else "was registered already"
    )


def _promote(arguments: argparse.Namespace) -> int:
    registry = opened(arguments, writing=True)
    name, number = needed(arguments.model)
    found = registry.promote(name, number, stage=arguments.stage, unsafe=switches(arguments))
    return _told(arguments, found, f"is in {arguments.stage}")


def _rollback(arguments: argparse.Namespace) -> int:
    registry = opened(arguments, writing=True)
    found = registry.rollback(arguments.name, stage=arguments.stage)
    return _told(arguments, found, f"is in {arguments.stage} again")


def _revoke(arguments: argparse.Namespace) -> int:
    registry = opened(arguments, writing=True)
    name, number = needed(arguments.model)
    found = registry.revoke(name, number, reason=arguments.reason)
    return _told(arguments, found, f"is revoked: {found.reason}")


def _export(arguments: argparse.Namespace) -> int:
    from codex_ray.records.keys import key_folder, read_signing_key
    from codex_ray.registry.exports import export, note_of

    registry = opened(arguments)
    name, number = parsed(arguments.model)
    served = registry.load(name, number, unsafe=switches(arguments))
    to = Path(arguments.to)
    key = read_signing_key(key_folder())
    note = export(served, to, key=key, input_shape=shape_of(arguments))
    if arguments.json:
        _print_json(note.to_json())
        return 0
    print(f"{served.version.label}: {to}, SHA-256 {note.sha256}")
    print(f"what it is, {'signed' if key else 'not signed'}: {note_of(to)}")
    return 0


def _sweep(arguments: argparse.Namespace) -> int:
    removed = opened(arguments).sweep()
    if arguments.json:
        _print_json({"removed": [str(path) for path in removed]})
    else:
        print(f"removed {len(removed)} files that belong to no version")
    return 0


def _told(arguments: argparse.Namespace, found: Version, words: str) -> int:
    from dataclasses import asdict

    if arguments.json:
        _print_json(asdict(found))
    else:
        print(f"{found.label} {words}")
    return 0


def _served_json(served: ServedModel) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        **asdict(served.version),
        "unsafe": list(served.unsafe),
        "manifest": served.manifest.to_json(),
        "privacy": served.document.to_json(),
        "data_card": served.data_card,
    }


def _print(what: Any) -> None:
    from rich.console import Console

    Console(markup=False, highlight=False).print(what)


def _print_json(data: dict[str, Any]) -> None:
    from codex_ray.cli.runs import print_json

    print_json(data)
