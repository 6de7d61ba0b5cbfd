"""What becomes of every record, decided after the first pass: whose it is, and its class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from codex_ray.errors import DataError
from codex_ray.preparation.anonymity import Figures, Requirement, Sensitive, figures
from codex_ray.preparation.axes import axis_of
from codex_ray.preparation.deal import Pool, Records
from codex_ray.preparation.duplicates import Twice, repeated
from codex_ray.preparation.labels import label_of
from codex_ray.preparation.mondrian import mondrian
from codex_ray.preparation.schema import Anonymity, Schema
from codex_ray.preparation.survey import Progress, Survey

NOBODY = -1


@dataclass(frozen=True)
class Holding:
    """One client: how many of its records are kept, and what their classes say.

    Attributes:
        name: of the client.
        records: how many are kept.
        suppressed: how many are left out, because a quasi-identifier on a line is missing.
        labels: kept records of each class.
        gaps: name -> kept records without a value.
        twice: records that repeat an earlier one.
        ends: quasi-identifier -> low and high [classes, 2], or a name for each class.
        figures: k, l and t of the kept records; None without quasi-identifiers.
    """

    name: str
    records: int
    suppressed: int
    labels: tuple[int, ...]
    gaps: dict[str, int]
    twice: Twice
    ends: dict[str, npt.NDArray[np.float64] | tuple[str, ...]]
    figures: Figures | None


@dataclass(frozen=True)
class Plan:
    """What becomes of every record.

    Attributes:
        holdings: one for each client.
        owner: number of the client that keeps each record [n], or `NOBODY`.
        group: number of its class within that client [n].
    """

    holdings: tuple[Holding, ...]
    owner: npt.NDArray[np.int32]
    group: npt.NDArray[np.int32]


def plan(schema: Schema, seen: Survey, *, progress: Progress) -> Plan:
    """Records dealt out to clients, and each client's records generalised by themselves.

    Raises:
        DataError: a client's records cannot be made as anonymous as the schema asks.
    """
    holdings = []
    pool = Pool(seen.units, seen.labels, seen.owner)
    named = schema.clients.looks_at is None or (
        schema.columns[schema.clients.looks_at].role != "identifier"
    )
    dealt: Sequence[tuple[str, Records]] = schema.clients.deal(pool)
    twice = [repeated(seen.hashes, rows) for _, rows in dealt]
    seen.hashes.clear()
    owner = np.full(seen.count, NOBODY, np.int32)
    group = np.full(seen.count, NOBODY, np.int32)
    for number, (name, rows) in enumerate(dealt):
        progress(f"generalising {name if named else number}: {_count(rows):,} records")
        shown = name if named else f"client {number}"  # no identifier's value gets out as a name
        kept = _kept(schema, seen, rows)
        holding, classes = _hold(schema, seen, kept, name=shown)
        left_out = _count(rows) - holding.records
        holding = replace(holding, suppressed=left_out, twice=twice[number])
        owner[kept], group[kept] = number, classes
        holdings.append(holding)
    return Plan(tuple(holdings), owner, group)


def _count(rows: Records) -> int:
    return rows.stop - rows.start if isinstance(rows, slice) else len(rows)


def _kept(schema: Schema, seen: Survey, rows: Records) -> Records:
    """The records whose quasi-identifiers on a line are all there."""
    lacking = np.zeros(_count(rows), dtype=bool)
    for name, column in schema.named("quasi_identifier").items():
        if column.numeric:
            lacking |= seen.codings[name].missing(seen.codes[name][rows])
    if not lacking.any():
        return rows
    return (np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows)[~lacking]


def _hold(
    schema: Schema, seen: Survey, kept: Records, *, name: str
) -> tuple[Holding, npt.NDArray[np.int32]]:
    """A client's holding, and the class of each kept record."""
    records = _count(kept)
    if not records:
        raise DataError(f"client {name!r}: no record is left: leave the client out")
    ends: dict[str, npt.NDArray[np.float64] | tuple[str, ...]] = {}
    classes, found = np.zeros(records, np.int32), None
    if schema.anonymity is not None:
        ends, classes, found = _generalise(schema, seen, kept, schema.anonymity, name)
    label = label_of(*schema.label)
    holding = Holding(
        name=name,
        records=records,
        suppressed=0,
        labels=tuple(np.bincount(seen.labels[kept], minlength=label.classes).tolist()),
        gaps={column: int(seen.lacks(column)[kept].sum()) for column in seen.gaps},
        twice=Twice(0, 0),
        ends=ends,
        figures=found,
    )
    return holding, classes


def _generalise(
    schema: Schema, seen: Survey, kept: Records, asked: Anonymity, name: str
) -> tuple[dict[str, npt.NDArray[np.float64] | tuple[str, ...]], npt.NDArray[np.int32], Figures]:
    """What the classes say, which record is in which, and how anonymous that is."""
    sensitive = tuple(
        Sensitive.of(
            column,
            seen.labels[kept] if rules.role == "label" else seen.codes[column][kept],
            ordered=rules.numeric and rules.positive_above is None,
            missing=None
            if rules.role == "label"
            else seen.codings[column].missing(seen.codes[column][kept]),
        )
        for column, rules in schema.sensitive.items()
    )
    quasi = list(schema.named("quasi_identifier"))
    axes = [axis_of(seen.codings[column], seen.codes[column][kept]) for column in quasi]
    requirement = Requirement(
        k=asked.k, l=asked.l, entropy_l=asked.entropy_l, t=asked.t, sensitive=sensitive
    )
    made = mondrian(axes, _count(kept), requirement=requirement, relaxed=asked.relaxed)
    if made is None:
        raise DataError(
            f"client {name!r}: its {_count(kept)} records together are not as anonymous as asked "
            f"({_asked(asked)}): ask for less, or leave the client out"
        )
    return (
        dict(zip(quasi, made.ends, strict=True)),
        made.classes,
        figures(made.classes, sensitive),
    )


def _asked(asked: Anonymity) -> str:
    said = [f"k = {asked.k}", f"l = {asked.l}"]
    said += [] if asked.entropy_l is None else [f"entropy l = {asked.entropy_l:g}"]
    return ", ".join(said + ([] if asked.t is None else [f"t = {asked.t:g}"]))
