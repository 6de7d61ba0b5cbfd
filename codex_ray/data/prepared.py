"""Records that `codex-ray data prepare` made: refused if they, or the purpose, are others."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from codex_ray.data.column_statistics import Ranges
from codex_ray.data.on_request import KEPT, OnRequest
from codex_ray.data.prepared_clients import PreparedClients
from codex_ray.data.prepared_manifest import Manifest
from codex_ray.data.prepared_shards import PreparedShards, RawRecords
from codex_ray.data.preparing import FIXED, Prepare, check_missing
from codex_ray.data.raw_tables import Columns, RawTable, RawTables, divided
from codex_ray.data.unknown_name import did_you_mean
from codex_ray.errors import ConfigError, DataError
from codex_ray.randomness import SeedTree
from codex_ray.types import Component


class PreparedData(Component):
    """A folder of prepared shards, one for each client.

    Numbers are scaled to [-1, 1] by the public ranges of the schema; a category is one feature for
    each value of the schema. A process reads the shards of the clients that it trains, and checks
    each against the manifest when it does.
    """

    kind: Literal["prepared"] = "prepared"
    path: str = Field(description="The folder that codex-ray data prepare made.")
    purpose: str = Field(
        description="What this run uses the records for; it must be what they were prepared for."
    )
    features: tuple[str, ...] | None = Field(
        None, description="Columns to use, in this order; all, if it is left out."
    )
    missing: Literal["refuse", "drop", "middle"] = Field(
        "refuse",
        description="What happens to a record with a missing number: refuse stops with its client, "
        "drop leaves it out, middle puts the middle of the public range.",
    )
    test_client: str | None = Field(
        None, description="The client whose records are the pooled test set; it does not train."
    )
    test_fraction: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of each client's records that is held out for the pooled test set, "
        "with the client's own label proportions.",
    )
    prepare: Prepare | None = Field(
        None,
        description="By whose figures numbers are scaled, and gaps filled; by public ranges alone, "
        "if it is left out.",
    )
    card: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        description="SHA-256 of the card of the records. A run writes it down, and goes on with no "
        "others.",
    )
    manifest: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        description="SHA-256 of their manifest.json, which names every shard's and says how "
        "columns become features. A run writes it down, and goes on with no other.",
    )

    @model_validator(mode="after")
    def _one_test_set(self) -> PreparedData:
        if (self.test_client is None) == (self.test_fraction is None):
            raise ConfigError(
                "data.test_client and data.test_fraction: set exactly one, to say where the test "
                "set comes from"
            )
        check_missing(self.prepare, self.missing)
        return self

    def open(self, public: SeedTree) -> PreparedClients:
        """The clients of the folder, whose shards are read and checked when they are asked for.

        Raises:
            ConfigError: the records were prepared for another purpose, or a name is unknown.
            DataError: the manifest, the schema or the card is not what it should be.
        """
        shards = self._shards()
        # What is read is scaled at once, and kept as that.
        tables = self._tables(shards, public, most=0)
        return PreparedClients(
            tables,
            self.preparation,
            sizes=self._sizes(shards.manifest),
            classes=shards.manifest.label.classes,
            check=partial(self._check, shards),
        )

    @property
    def preparation(self) -> Prepare:
        """How numbers are scaled and gaps filled, whichever of the two fields says so."""
        asked = self.prepare or FIXED
        if self.missing == "middle":
            return asked.model_copy(update={"imputation": "middle"})
        return asked

    def tables(self, public: SeedTree) -> RawTables:
        """The numbers in every shard, not yet scaled, and read when they are asked for.

        Raises:
            ConfigError, DataError: as `open`.
        """
        return self._tables(self._shards(), public, most=KEPT)

    def _tables(self, shards: PreparedShards, public: SeedTree, *, most: int) -> RawTables:
        """The same of these shards; up to `most` bytes of what was read are kept."""
        shards.check_day()
        chosen = self._chosen(shards)
        columns = _columns(shards, chosen)
        trained, test = self._places(shards.manifest)

        def whole(place: int) -> RawTable:
            name = shards.manifest.shards[place].client
            return self._table(columns, shards.client(place), chosen, name)

        def part(which: int, client: int) -> RawTable:
            draws = public.stream("data", self.kind, "test", client).numpy()
            return divided(whole(trained[client]), self.test_fraction or 0.0, draws)[which]

        if test is not None:
            clients = OnRequest(len(trained), lambda one: whole(trained[one]), most=most)
            held_out = OnRequest(1, lambda _: whole(test), most=most)
            return RawTables(columns, clients, held_out, from_client=False)
        counts = [shards.manifest.shards[place].records for place in trained]
        if not sum(self._given(count) for count in counts):
            raise DataError(
                f"data.test_fraction: {self.test_fraction} of such small clients holds out no "
                "record: raise it"
            )
        clients = OnRequest(len(trained), partial(part, 0), most=most)
        held_out = OnRequest(len(trained), partial(part, 1), most=0)
        return RawTables(columns, clients, held_out, from_client=True)

    @property
    def columns(self) -> Columns:
        """What all tables have in common, by the manifest.

        Raises:
            ConfigError, DataError: as `open`.
        """
        shards = self._shards()
        return _columns(shards, self._chosen(shards))

    def generalised(self) -> tuple[str, ...]:
        """Columns in use whose intervals or groups were chosen from a client's records.

        Raises:
            ConfigError, DataError: as `open`.
        """
        encodings = self._shards().manifest.features
        used = self.features or tuple(encoding.name for encoding in encodings)
        coarse = {encoding.name for encoding in encodings if encoding.generalised}
        return tuple(name for name in used if name in coarse)

    def settled(self) -> PreparedData:
        """The same with the hashes of card and manifest that the records have, to be held to."""
        shards = self._shards()
        found = {"card": shards.manifest.card_sha256, "manifest": shards.manifest_sha256}
        return self.model_copy(update=found)

    def _shards(self) -> PreparedShards:
        """The folder, if it is for this purpose, and the one that the run began with."""
        shards = PreparedShards(Path(self.path))
        manifest = shards.manifest
        if manifest.purpose != self.purpose:
            raise ConfigError(
                f"data.purpose: {self.path} was prepared for {manifest.purpose!r}, not for "
                f"{self.purpose!r}: those whose records they are have not agreed to that"
            )
        for field, named, found in (
            ("card", self.card, manifest.card_sha256),
            ("manifest", self.manifest, shards.manifest_sha256),
        ):
            if named not in (None, found):
                raise DataError(
                    f"{self.path}: its {field} is {found[:12]}, and data.{field} names "
                    f"{str(named)[:12]}: these are other records than the run began with"
                )
        return shards

    def _chosen(self, shards: PreparedShards) -> npt.NDArray[np.int64]:
        """Places of the features that are used [m]."""
        encodings = shards.manifest.features
        if self.features is None:
            return np.arange(len(shards.feature_names))
        known = [encoding.name for encoding in encodings]
        starts = np.cumsum([0, *(len(encoding.features) for encoding in encodings)])
        found: list[npt.NDArray[np.int64]] = []
        for name in self.features:
            if name not in known:
                raise ConfigError(f"data.features: {name!r}: {did_you_mean(name, known)}")
            place = known.index(name)
            found.append(np.arange(starts[place], starts[place + 1]))
        if len(set(self.features)) < len(self.features) or not found:
            raise ConfigError("data.features: name each column once, and at least one")
        return np.concatenate(found)

    def _table(
        self, columns: Columns, raw: RawRecords, chosen: npt.NDArray[np.int64], name: str
    ) -> RawTable:
        """A client's records, without those that a missing number leaves out."""
        where = f"{self.path}, client {name!r}"
        values, labels = raw.features[:, chosen], raw.labels
        gaps = np.isnan(values)
        if gaps.any() and self.missing == "refuse" and not self._filled:
            column = columns.names[int(np.flatnonzero(gaps.any(axis=0))[0])]
            count = int(gaps.any(axis=1).sum())
            raise self._lacks(name, f"{count} records lack a number, the first in {column!r}")
        if self.missing == "drop":
            values, labels = values[~gaps.any(axis=1)], labels[~gaps.any(axis=1)]
        if not len(labels):
            raise self._none_complete(name, "")
        return RawTable(values, labels, where)

    def _places(self, manifest: Manifest) -> tuple[list[int], int | None]:
        """Whose shards are trained on, and whose is the test set, if it is one client's.

        Raises:
            ConfigError: there is no such client.
        """
        names = [shard.client for shard in manifest.shards]
        if self.test_client is None:
            return list(range(len(names))), None
        if self.test_client not in names:
            raise ConfigError(
                f"data.test_client: {self.test_client!r}: {did_you_mean(self.test_client, names)}"
            )
        test = names.index(self.test_client)
        return [place for place in range(len(names)) if place != test], test

    def _given(self, records: int) -> int:
        """How many of so many records of a client are held out."""
        return round((self.test_fraction or 0.0) * records)

    def _sizes(self, manifest: Manifest) -> list[int]:
        """How many records each client trains on, if none is left out for what it lacks."""
        counts = [manifest.shards[place].records for place in self._places(manifest)[0]]
        return [count - self._given(count) for count in counts]

    def _check(self, shards: PreparedShards) -> None:
        """Refuses files that a run would stumble over; no record is read.

        Raises:
            DataError: a shard is not the file of the manifest, or says that it lacks a number; or
                all that it has are left out for what they lack.
        """
        shards.check_files()
        if self.missing == "middle" or (self.missing == "refuse" and self._filled):
            return
        used = self.features or tuple(one.name for one in shards.manifest.features)
        for place, shard in enumerate(shards.manifest.shards):
            lacking = shards.lacking(place)
            for name in used:
                if self.missing == "drop" and lacking.get(name) == shard.records:
                    raise self._none_complete(shard.client, f": none has {name!r}")
                if self.missing == "refuse" and lacking.get(name):
                    raise self._lacks(shard.client, f"{lacking[name]} records lack {name!r}")

    @property
    def _filled(self) -> bool:
        return self.prepare is not None and self.prepare.imputation is not None

    def _none_complete(self, client: str, why: str) -> DataError:
        return DataError(
            f"{self.path}, client {client!r}: no record is complete{why}: drop columns"
        )

    def _lacks(self, client: str, what: str) -> DataError:
        return DataError(
            f"{self.path}, client {client!r}: {what}: set data.missing, or leave it out of "
            "data.features"
        )


def _columns(shards: PreparedShards, chosen: npt.NDArray[np.int64]) -> Columns:
    low, high = shards.ranges[chosen].T
    return Columns(
        names=tuple(shards.feature_names[place] for place in chosen),
        ranges=Ranges(low, high),
        numbers=shards.numbers[chosen],
        line=shards.on_a_line[chosen],
    )
