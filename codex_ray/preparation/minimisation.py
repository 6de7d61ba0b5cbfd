"""What minimisation costs: how much better a simple model predicts with what a schema withholds.

The model is that of `simple_model`. It is fitted on what training would see, and then with the
columns that the schema drops, and with those that it generalises as they are in the source, in the
place of their intervals and groups: each by itself, all of a kind, and all. A cost within its
standard error of zero is no sign that the column is needed; one above may be another model's gain
as well, and is a reason to look at the schema again.

The figures are computed from the records without noise, and nothing is written. They are for
whoever holds the source.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from codex_ray.data.prepared_manifest import Encoding
from codex_ray.data.prepared_shards import features_of
from codex_ray.preparation.cells import Cells
from codex_ray.preparation.plan import NOBODY, Plan, plan
from codex_ray.preparation.schema import Schema
from codex_ray.preparation.shards import encodings
from codex_ray.preparation.simple_model import (
    Brings,
    Floats,
    Ints,
    brings,
    folds_of,
    scaled,
    scores_of,
)
from codex_ray.preparation.survey import Progress, survey
from codex_ray.preparation.withheld import Kind, RawReader, Withheld, features_of_cells
from codex_ray.randomness import Randomness

SAMPLE: Final = 50_000
"""Records that are looked at, at most, drawn evenly from those that training would see."""


@dataclass(frozen=True)
class Minimised:
    """What withholding columns costs.

    Attributes:
        records: how many were looked at.
        of: how many training would see.
        kept: the model on what training would see.
        everything: the model with all withheld columns that could be tried.
        together: what they cost all together.
        kinds: what those of each kind cost together.
        columns: how each that was tried is withheld, and what that costs; the dearest first.
        left_out: name -> why it was not tried.
    """

    records: int
    of: int
    kept: Brings
    everything: Brings
    together: Brings
    kinds: dict[Kind, Brings]
    columns: tuple[tuple[Kind, Brings], ...]
    left_out: dict[str, str]


def _silent(said: str) -> None:
    """No progress is told."""


def minimisation(schema: Schema, *, progress: Progress = _silent) -> Minimised:
    """What it costs that a schema withholds columns of its source from training.

    Reads the source twice, as a preparation does, and holds what the drawn records have in memory.
    Records that a preparation leaves out are not looked at.

    Raises:
        ConfigError: the records' last day is past, or the source is not there as described.
        DataError: a record cannot be used, a client's cannot be made anonymous enough, or there are
            too few to say anything.
    """
    schema.check_day()
    units = schema.source.units()
    seen = survey(schema, units, progress=progress)
    planned = plan(schema, seen, progress=progress)
    chosen = _drawn(planned.owner)
    labels = seen.labels[chosen].astype(np.int64)
    drawn = f" ({len(chosen):,} records drawn of {len(seen.labels):,})"
    folds = folds_of(labels, schema.name + drawn * (len(chosen) < len(seen.labels)))
    withheld = Withheld.of(schema)
    reader = RawReader(schema, withheld.tried)
    values = reader.read(units, seen, chosen, progress=progress)
    left_out = withheld.left_out | reader.unreadable
    raw: dict[str, Floats] = {}
    for name in withheld.tried:
        made = left_out.get(name) or features_of_cells(schema.columns[name], values[name])
        if isinstance(made, str):
            left_out[name] = made
        else:
            raw[name] = made
    kept = _kept(schema, planned, chosen, values)
    judge = _Judge(kept, raw, labels, folds, progress)
    tried = {name: kind for name, kind in withheld.tried.items() if name in raw}
    of = int((planned.owner != NOBODY).sum())
    return judge.minimised(tried, {n: left_out[n] for n in schema.columns if n in left_out}, of)


@dataclass(frozen=True)
class _Judge:
    """Fits the simple model to the kept columns, and to the raw ones that are asked for.

    Attributes:
        kept: name -> features [n, m] that training would see.
        raw: name -> features [n, m] of a withheld column as it is in the source.
        labels: classes from 0 [n].
        folds: in which fifth each record is tested [n].
        progress: is told of every model.
        fitted: columns -> scores, of the models that were fitted already.
    """

    kept: dict[str, Floats]
    raw: dict[str, Floats]
    labels: Ints
    folds: Ints
    progress: Progress
    fitted: dict[tuple[str, ...], Floats] = field(default_factory=dict)

    def minimised(self, tried: dict[str, Kind], left_out: dict[str, str], of: int) -> Minimised:
        """Every model's figures; `of` as of what is returned."""
        kept, everything = self.scores([]), self.scores(tried)
        kinds: dict[Kind, Brings] = {}
        for kind in dict.fromkeys(tried.values()):
            names = [name for name in tried if tried[name] == kind]
            kinds[kind] = brings("", self.scores(names) - kept)
        found = [(kind, brings(name, self.scores([name]) - kept)) for name, kind in tried.items()]
        found.sort(key=lambda one: (-one[1].accuracy, one[1].column))
        return Minimised(
            records=len(self.labels),
            of=of,
            kept=brings("", kept),
            everything=brings("", everything),
            together=brings("", everything - kept),
            kinds=kinds,
            columns=tuple(found),
            left_out=left_out,
        )

    def scores(self, names: Iterable[str]) -> Floats:
        """Scores [folds, 1 or 2] with these raw columns, in the place of what is kept of them."""
        asked = tuple(names)
        if asked not in self.fitted:
            self.progress(f"fitting the model with {', '.join(asked) or 'what is kept'}")
            parts = (self.kept | {name: self.raw[name] for name in asked}).values()
            features = np.concatenate([np.empty((len(self.labels), 0)), *parts], axis=1)
            self.fitted[asked] = scores_of(features, self.labels, self.folds)
        return self.fitted[asked]


def _drawn(owner: npt.NDArray[np.int32]) -> Ints:
    """The places of the records that are looked at, in order, by a public draw."""
    places = np.flatnonzero(owner != NOBODY)
    if len(places) <= SAMPLE:
        return places
    rng = Randomness.of(0).public.stream("ablation", "sample").numpy()
    return np.sort(rng.choice(places, SAMPLE, replace=False, shuffle=False))


def _kept(
    schema: Schema, planned: Plan, chosen: Ints, values: Mapping[str, Cells]
) -> dict[str, Floats]:
    """Name -> features [n, m] of each column that training would see."""
    made: dict[str, Floats] = {}
    for encoding in encodings(schema):
        if encoding.generalised:
            made[encoding.name] = _generalised(encoding, planned, chosen)
            continue
        found = features_of_cells(schema.columns[encoding.name], values[encoding.name])
        made[encoding.name] = np.zeros((len(chosen), 1)) if isinstance(found, str) else found
    return made


def _generalised(encoding: Encoding, planned: Plan, chosen: Ints) -> Floats:
    """What the class of each record says of it, as features [n, m]."""
    name = encoding.name
    owner, group = planned.owner[chosen], planned.group[chosen]
    made = np.empty((len(chosen), len(encoding.features)))
    for client in np.unique(owner).tolist():
        ends = planned.holdings[client].ends[name]
        if isinstance(ends, tuple):
            classes = pa.table({name: pa.array(ends, pa.string())})
        else:
            classes = pa.table({f"{name}.low": ends[:, 0], f"{name}.high": ends[:, 1]})
        mine = owner == client
        made[mine] = features_of(encoding, classes, name)[group[mine]]
    return scaled(made, encoding.low, encoding.high) if encoding.kind == "number" else made
