"""The whole way from raw files to a folder that can be trained on, or to nothing at all.

Two passes over the source: one that checks everything and keeps a few bytes of each record, and,
when it is decided who holds what and in which class it falls, one that writes. Everything is
written into a folder beside the one that was asked for, which takes its name at the end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from codex_ray.data.prepared_manifest import CARD, MANIFEST, PAGE, SCHEMA, SHARDS, Manifest, Shard
from codex_ray.errors import ConfigError, DataError
from codex_ray.preparation.batches import Unit
from codex_ray.preparation.card import card_of
from codex_ray.preparation.card_page import page_of
from codex_ray.preparation.label_noise import LabelNoise
from codex_ray.preparation.labels import label_of
from codex_ray.preparation.paths import sha256_of
from codex_ray.preparation.plan import Holding, Plan, plan
from codex_ray.preparation.pseudonyms import PseudonymKey
from codex_ray.preparation.schema import Schema, as_bytes
from codex_ray.preparation.shards import AT_ONCE, ShardWriter, encodings, shard_name
from codex_ray.preparation.survey import Progress, Survey, survey
from codex_ray.preparation.unfinished import unfinished


@dataclass(frozen=True)
class Prepared:
    """What a preparation came to, with figures that the card does not show.

    Attributes:
        folder: where it is.
        manifest: what the folder says of itself.
        holdings: what each client keeps.
        noise: what the neighbours say of each client's labels.
    """

    folder: Path
    manifest: Manifest
    holdings: tuple[Holding, ...]
    noise: tuple[LabelNoise | None, ...]


def _silent(said: str) -> None:
    """No progress is told."""


def prepare(
    schema: Schema,
    out: Path,
    *,
    key: PseudonymKey | None = None,
    progress: Progress = _silent,
) -> Prepared:
    """The records of the schema's source, prepared into the new folder `out`.

    Args:
        schema: the rules, and where the records are.
        out: a folder that does not exist.
        key: of the pseudonyms; None draws one that is forgotten, if the schema asks for any.
        progress: is told a few words now and then.

    Raises:
        ConfigError: `out` exists, the records' last day is past, or the source is not there as
            described.
        DataError: a record cannot be used, or a client's cannot be made anonymous enough.
    """
    if out.exists() or out.is_symlink():
        raise ConfigError(f"--out {out}: is there already: choose another folder, or move it away")
    schema.check_day()
    named_anew = any(column.pseudonym for column in schema.columns.values())
    key = (key or PseudonymKey.fresh()) if named_anew else None
    units = schema.source.units()
    sources = _hashes(units, progress)
    seen = survey(schema, units, progress=progress)
    planned = plan(schema, seen, progress=progress)
    with unfinished(out) as folder:
        noise = _write_shards(schema, planned, seen, units, key, folder, progress)
        if _hashes(units, progress) != sources:
            raise DataError("source: a file changed while it was being prepared: start again")
        manifest = _write_papers(schema, planned, noise, sources, key, folder)
    return Prepared(out, manifest, planned.holdings, noise)


def _hashes(units: Sequence[Unit], progress: Progress) -> list[str]:
    """SHA-256 of every file."""
    progress("hashing the source")
    return [sha256_of(file) for unit in units for file in unit.files]


def _write_shards(
    schema: Schema,
    planned: Plan,
    seen: Survey,
    units: Sequence[Unit],
    key: PseudonymKey | None,
    folder: Path,
    progress: Progress,
) -> tuple[LabelNoise | None, ...]:
    """Every client's file, and what its neighbours say of each client's labels."""
    inside = folder / SHARDS
    inside.mkdir()
    noise: list[LabelNoise | None] = []
    clients = len(planned.holdings)
    for first in range(0, clients, AT_ONCE):
        some = range(first, min(first + AT_ONCE, clients))
        writer = ShardWriter(schema, planned, key, inside, some)
        writer.write(units, seen, progress=progress)
        noise += [writer.noise(client) for client in some]
    return tuple(noise)


def _write_papers(
    schema: Schema,
    planned: Plan,
    noise: Sequence[LabelNoise | None],
    sources: Sequence[str],
    key: PseudonymKey | None,
    folder: Path,
) -> Manifest:
    """Schema, card, page and manifest."""
    key_id = None if key is None else key.id
    (folder / SCHEMA).write_bytes(as_bytes(schema.rules))
    card = card_of(schema, planned.holdings, noise=noise, sources=sources, key_id=key_id)
    written = as_bytes(card)
    card_sha256 = hashlib.sha256(written).hexdigest()
    (folder / CARD).write_bytes(written)
    (folder / PAGE).write_text(page_of(card, card_sha256=card_sha256), encoding="utf-8")
    shards = tuple(
        Shard(
            client=holding.name,
            file=f"{SHARDS}/{shard_name(number)}",
            sha256=sha256_of(str(folder / SHARDS / shard_name(number))),
            records=holding.records,
        )
        for number, holding in enumerate(planned.holdings)
    )
    manifest = Manifest(
        name=schema.name,
        purpose=schema.purpose,
        schema_sha256=schema.sha256,
        card_sha256=card_sha256,
        pseudonym_key=key_id,
        delete_after=schema.delete_after,
        features=encodings(schema),
        label=label_of(*schema.label),
        shards=shards,
    )
    (folder / MANIFEST).write_bytes(as_bytes(manifest.model_dump(mode="json")))
    return manifest
