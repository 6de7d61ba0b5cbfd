"""Records that `codex-ray data prepare` made: refused if they, or the purpose, are others."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from codex_ray.data.dataset import FederatedDataset, Records
from codex_ray.data.in_memory import InMemory, as_records
from codex_ray.data.partition import stratified_holdout
from codex_ray.data.prepared_shards import PreparedShards, RawRecords
from codex_ray.data.unknown_name import did_you_mean
from codex_ray.errors import ConfigError, DataError
from codex_ray.randomness import SeedTree
from codex_ray.types import Component


class PreparedData(Component):
    """A folder of prepared shards, one for each client.

    Numbers are scaled to [-1, 1] by the public ranges of the schema; a category is one feature for
    each value of the schema. Every process reads the files, and checks them against their manifest.
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

    @model_validator(mode="after")
    def _one_test_set(self) -> PreparedData:
        if (self.test_client is None) == (self.test_fraction is None):
            raise ConfigError(
                "data.test_client and data.test_fraction: set exactly one, to say where the test "
                "set comes from"
            )
        return self

    def open(self, public: SeedTree) -> FederatedDataset:
        """Every shard read and checked.

        Raises:
            ConfigError: the records were prepared for another purpose, or a name is unknown.
            DataError: a file is not that of its manifest, or a value is missing.
        """
        shards = PreparedShards(Path(self.path))
        manifest = shards.manifest
        if manifest.purpose != self.purpose:
            raise ConfigError(
                f"data.purpose: {self.path} was prepared for {manifest.purpose!r}, not for "
                f"{self.purpose!r}: those whose records they are have not agreed to that"
            )
        chosen = self._chosen(shards)
        clients = [
            self._scaled(shards, chosen, shards.client(number), shard.client)
            for number, shard in enumerate(manifest.shards)
        ]
        if self.test_client is None:
            return self._hold_out(clients, public)
        names = [shard.client for shard in manifest.shards]
        if self.test_client not in names:
            raise ConfigError(
                f"data.test_client: {self.test_client!r}: {did_you_mean(self.test_client, names)}"
            )
        test = names.index(self.test_client)
        return InMemory([*clients[:test], *clients[test + 1 :]], clients[test])

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

    def _scaled(
        self,
        shards: PreparedShards,
        chosen: npt.NDArray[np.int64],
        raw: RawRecords,
        name: str,
    ) -> Records:
        """A client's records with numbers in [-1, 1]."""
        values, line = raw.features[:, chosen].copy(), shards.on_a_line[chosen]
        low, high = shards.ranges[chosen].T
        values[:, line] = (2 * (values - low) / (high - low) - 1)[:, line]
        labels, gaps = raw.labels, np.isnan(values)
        if gaps.any() and self.missing == "refuse":
            column = shards.feature_names[int(chosen[np.flatnonzero(gaps.any(axis=0))[0]])]
            raise DataError(
                f"{self.path}, client {name!r}: {int(gaps.any(axis=1).sum())} records lack a "
                f"number, the first in {column!r}: set data.missing, or leave it out of "
                "data.features"
            )
        if self.missing == "drop":
            values, labels = values[~gaps.any(axis=1)], labels[~gaps.any(axis=1)]
        values = np.nan_to_num(values, nan=0.0)
        if not len(labels):
            raise DataError(f"{self.path}, client {name!r}: no record is complete: drop columns")
        return as_records(values, labels, where=f"{self.path}, client {name!r}")

    def _hold_out(self, clients: list[Records], public: SeedTree) -> InMemory:
        """The clients without, and the test set of, the fraction that each gives up."""
        kept, held_out = [], []
        for client, records in enumerate(clients):
            rng = public.stream("data", self.kind, "test", client).numpy()
            count = round((self.test_fraction or 0.0) * len(records))
            test, train = stratified_holdout(records.labels, count, rng=rng)
            kept.append(Records(records.features[train], records.labels[train]))
            held_out.append(Records(records.features[test], records.labels[test]))
        pooled = Records(
            np.concatenate([part.features for part in held_out]),
            np.concatenate([part.labels for part in held_out]),
        )
        if not len(pooled):
            raise DataError(
                f"data.test_fraction: {self.test_fraction} of such small clients holds out no "
                "record: raise it"
            )
        return InMemory(kept, pooled)
