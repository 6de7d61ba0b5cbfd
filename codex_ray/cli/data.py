"""`codex-ray data`: records prepared for training, their card, and a check that writes nothing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codex_ray.errors import ConfigError

if TYPE_CHECKING:
    from codex_ray.cli.options import Commands
    from codex_ray.preparation.prepare import Prepared
    from codex_ray.preparation.schema import Schema
    from codex_ray.preparation.simple_model import Brings
    from codex_ray.preparation.survey import Progress


def add_data(commands: Commands) -> None:
    """The command and its options."""
    data = commands.add_parser(
        "data", help="prepare records for training, or look at prepared ones"
    )
    actions = data.add_subparsers(required=True, metavar="ACTION")
    prepare = actions.add_parser(
        "prepare",
        help="check, pseudonymise and generalise records into a folder that can be trained on",
        description="Reads the source of SCHEMA twice, a block at a time, and writes one Parquet "
        "shard for each client, a manifest and a data card. Nothing is written if anything in the "
        "source cannot be used.",
    )
    prepare.add_argument("schema", metavar="SCHEMA.yaml", help="the allow-list of columns")
    prepare.add_argument("--out", required=True, metavar="DIR", help="a new folder")
    _add_source(prepare)
    prepare.add_argument(
        "--key",
        metavar="FILE",
        help="key of the pseudonyms (codex-ray data key FILE makes one); without it they come from "
        "a key that is forgotten, and no later preparation can repeat them",
    )
    prepare.set_defaults(command=_prepare)
    card = actions.add_parser("card", help="print the data card of a prepared folder")
    card.add_argument("folder", metavar="DIR", help="what codex-ray data prepare made")
    card.add_argument("--json", action="store_true", help="print card.json as it is")
    card.add_argument(
        "--ablate",
        action="store_true",
        help="print what each column brings to a simple model: exact figures, for whoever holds "
        "the records",
    )
    card.set_defaults(command=_card)
    _add_ablate(actions)
    check = actions.add_parser(
        "check",
        help="check files against a schema, and write nothing",
        epilog="Exit status: 0 if every record can be used, 1 if any cannot.",
    )
    check.add_argument("schema", metavar="SCHEMA.yaml", help="the allow-list of columns")
    check.add_argument("files", nargs="*", metavar="FILE", help="instead of the schema's source")
    check.add_argument(
        "--most", type=int, default=5, metavar="N", help="problems to list of each file (5)"
    )
    check.set_defaults(command=_check)
    key = actions.add_parser("key", help="make a key for pseudonyms; never overwrites one")
    key.add_argument("file", metavar="FILE", help="a new file, for its owner alone")
    key.set_defaults(command=_key)


def _add_ablate(actions: Commands) -> None:
    ablate = actions.add_parser(
        "ablate",
        help="print what it costs that a schema drops and generalises columns, and write nothing",
        description="Reads the source of SCHEMA twice, by the same checks as prepare, and fits a "
        "simple model to what training would see, then to that with the dropped columns and with "
        "the raw values of generalised ones. It holds up to 50,000 records in memory, drawn "
        "evenly from all. Exact figures, for whoever holds the records.",
    )
    ablate.add_argument("schema", metavar="SCHEMA.yaml", help="the allow-list of columns")
    _add_source(ablate)
    ablate.set_defaults(command=_ablate)


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--source",
        nargs="+",
        metavar="FILE",
        help="files or folders to read instead of those of the schema's source",
    )


def _prepare(arguments: argparse.Namespace) -> int:
    from codex_ray.preparation.prepare import prepare
    from codex_ray.preparation.pseudonyms import read_key

    schema = read_schema(arguments.schema, files=arguments.source)
    key = None if arguments.key is None else read_key(Path(arguments.key))
    with _progress() as progress:
        made = prepare(schema, Path(arguments.out), key=key, progress=progress)
    _tell(made)
    return 0


def _tell(made: Prepared) -> None:
    """What a preparation came to, for the eyes of whoever holds the records."""
    for holding, noise in zip(made.holdings, made.noise, strict=True):
        said = f"{holding.name}: {holding.records:,} records"
        said += f", {holding.suppressed:,} suppressed" if holding.suppressed else ""
        if holding.figures is not None:
            found = holding.figures
            said += f", k = {found.k}, l = {min(found.l.values())}, t = {max(found.t.values()):.3f}"
        said += f"; {holding.twice.exact:,} exact and {holding.twice.near:,} near duplicates"
        if noise is not None:
            said += f"; {noise.share:.1%} of labels contradicted by their neighbours"
        print(said)
    if made.manifest.pseudonym_key is not None:
        print(f"pseudonyms by key {made.manifest.pseudonym_key}: they are personal data still")
    print(f"{made.folder}: train with data: {{kind: prepared, path: {made.folder}, purpose: ...}}")


def _card(arguments: argparse.Namespace) -> int:
    import json

    from codex_ray.data.prepared_manifest import CARD, PAGE, read_manifest
    from codex_ray.preparation.card_page import text_of

    folder = Path(arguments.folder)
    if arguments.json and arguments.ablate:
        raise ConfigError("--json and --ablate: no card holds what columns bring: give one of them")
    if arguments.ablate:
        return _ablate_prepared(folder)
    manifest = read_manifest(folder)
    text = (folder / CARD).read_text(encoding="utf-8")
    if arguments.json:
        print(text, end="")
        return 0
    print(text_of(json.loads(text)))
    print(f"card {manifest.card_sha256}; as a page: {folder / PAGE}")
    return 0


def _ablate_prepared(folder: Path) -> int:
    from codex_ray.preparation.ablation import ablation
    from codex_ray.preparation.simple_model import FOLDS

    whole, *columns = ablation(folder)
    print(f"all columns: {_score(whole)}, logistic regression, {FOLDS} folds (standard error)")
    width = max(len(one.column) for one in columns)
    for one in columns:
        print(f"  {one.column:<{width}}  loses without it: {_score(one)}")
    print("exact figures of private records: for whoever holds them, and not for the card")
    return 0


def _ablate(arguments: argparse.Namespace) -> int:
    from codex_ray.preparation.minimisation import minimisation
    from codex_ray.preparation.simple_model import FOLDS

    schema = read_schema(arguments.schema, files=arguments.source)
    with _progress() as progress:
        found = minimisation(schema, progress=progress)
    among = "" if found.records == found.of else f", drawn from {found.of:,}"
    print(
        f"{found.records:,} records{among}, logistic regression, {FOLDS} folds (standard error); "
        "a point is 0.01 of accuracy"
    )
    print(f"what training sees: {_score(found.kept)}")
    if found.columns:
        print(f"with all that is withheld: {_score(found.everything)}")
        print(f"all that is withheld costs {_cost(found.together)}")
    for kind, cost in found.kinds.items():
        print(f"all that is {kind} costs {_cost(cost)}")
    width = max((len(one.column) for _, one in found.columns), default=0)
    for kind, one in found.columns:
        print(f"  {one.column:<{width}}  {kind}: costs {_cost(one)}")
    for name, why in found.left_out.items():
        print(f"  {name}: not tried: {why}")
    if not found.columns:
        print("no column that can be tried is dropped or generalised")
    print("exact figures of private records: for whoever holds them, and not for the card")
    return 0


def _score(one: Brings) -> str:
    words = f"accuracy {one.accuracy:.3f} ({one.accuracy_error:.3f})"
    if one.auc is not None:
        words += f", AUC {one.auc:.3f} ({one.auc_error:.3f})"
    return words


def _cost(one: Brings) -> str:
    """A loss, in hundredths of accuracy."""
    points = round(100 * one.accuracy, 2) + 0.0  # no -0.00
    words = f"{points:.2f} points ({100 * one.accuracy_error:.2f})"
    if one.auc is not None:
        words += f", AUC {round(one.auc, 4) + 0.0:.4f} ({one.auc_error:.4f})"
    return words


def _check(arguments: argparse.Namespace) -> int:
    from codex_ray.preparation.inspection import inspect

    if arguments.most < 1:
        raise ConfigError("--most: list at least one problem of each file")
    schema = read_schema(arguments.schema, files=arguments.files or None)
    with _progress() as progress:
        found = inspect(schema, most=arguments.most, progress=progress)
    for seen in found:
        for problem in seen.problems:
            print(" ".join(problem.split()))
        if seen.more:
            print(f"{seen.where}: reading ended here: there may be more (--most)")
        if not seen.problems:
            print(f"{seen.where}: {seen.records:,} records, as the schema says")
    return 1 if any(seen.problems for seen in found) else 0


def _key(arguments: argparse.Namespace) -> int:
    from codex_ray.preparation.pseudonyms import make_key

    key = make_key(Path(arguments.file))
    print(f"key {key.id}, for its owner alone: {arguments.file}")
    return 0


def read_schema(path: str, *, files: list[str] | None = None) -> Schema:
    """The schema in a YAML file, its source's files replaced if others are given.

    Raises:
        ConfigError: naming the first wrong field.
    """
    from codex_ray.config import load_yaml, override, validated
    from codex_ray.preparation.column import Column
    from codex_ray.preparation.schema import Schema

    data: dict[str, Any] = load_yaml(path)
    if files is not None:
        data = override(data, {"source.files": list(files)})
    columns = data.get("columns")
    if not isinstance(columns, dict):
        raise ConfigError(f"{path}: columns: is missing: list every column that a file may have")
    data = data | {"columns": {str(name): rules for name, rules in columns.items()}}
    try:
        for name, rules in data["columns"].items():
            if not isinstance(rules, dict):
                raise ConfigError(f"columns.{name}: write its type and role, as a mapping")
            try:
                validated(Column, rules)
            except ConfigError as error:
                raise ConfigError(f"columns.{name}.{error}") from None
        return validated(Schema, data)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


@contextmanager
def _progress() -> Iterator[Progress]:
    """A line on the terminal that is written over, and wiped at the end; nothing elsewhere."""
    shown = sys.stderr.isatty()

    def tell(said: str) -> None:
        if shown:
            print(f"\r\x1b[K{said[:100]}", end="", file=sys.stderr, flush=True)

    try:
        yield tell
    finally:
        if shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
