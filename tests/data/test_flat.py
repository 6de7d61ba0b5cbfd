"""Data sets in plain arrays and kept ones are those that everybody else opens, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import codex_ray
from codex_ray.assembly import assemble
from codex_ray.config import experiment_from
from codex_ray.data.dataset import Records
from codex_ray.data.flat import LOOKED_AT, FlatDataset
from codex_ray.data.in_memory import InMemory
from codex_ray.data.kept import keeping, name_of
from codex_ray.data.synthetic_images import SyntheticImages
from codex_ray.errors import DataError
from codex_ray.randomness import Randomness

SOURCE = SyntheticImages(clients=50, test_records=60)


def opened(seed: int = 0) -> Any:
    return SOURCE.open(Randomness.of(seed).public)


def read_only(flat: FlatDataset) -> FlatDataset:
    """As another process has it from the object store."""
    arrays = flat.arrays()
    for array in arrays.values():
        array.flags.writeable = False
    return FlatDataset.from_arrays(arrays)


def test_a_flat_data_set_is_the_same_in_every_client_and_copies_nothing() -> None:
    dataset, flat = opened(), FlatDataset.of(opened(), most=1e9)
    assert flat is not None and flat.population == 50
    flat = read_only(flat)
    for client in (0, 1, 49):
        ours, theirs = flat.client(client), dataset.client(client)
        assert (ours.features == theirs.features).all() and (ours.labels == theirs.labels).all()
        assert ours.features.base is not None and not ours.features.flags.owndata
    assert (flat.test().features == dataset.test().features).all()
    assert (flat.test().labels == dataset.test().labels).all()
    assert sum(len(flat.client(c)) for c in range(50)) == len(flat.labels)
    with pytest.raises(DataError, match="client 50 does not exist"):
        flat.client(50)


def test_what_does_not_fit_is_not_even_made() -> None:
    class Endless:
        population = 10**9
        asked = 0

        def client(self, client: int) -> Records:
            Endless.asked += 1
            return Records(np.zeros((3, 4), np.float32), np.zeros(3, np.int64))

        def test(self) -> Records:
            return self.client(0)

    assert FlatDataset.of(Endless(), most=1e9) is None
    assert Endless.asked == LOOKED_AT + 1
    flat = FlatDataset.of(opened(), most=1e9)
    assert flat is not None
    assert FlatDataset.of(opened(), most=flat.nbytes) is not None
    assert FlatDataset.of(opened(), most=flat.nbytes - 1) is None


def test_clients_of_different_shapes_stay_where_they_are() -> None:
    class Uneven(InMemory):
        def __post_init__(self) -> None:
            """Anything goes."""

    wide = Records(np.zeros((2, 3), np.float32), np.zeros(2, np.int64))
    narrow = Records(np.zeros((2, 2), np.float32), np.zeros(2, np.int64))
    assert FlatDataset.of(Uneven([wide] * 40, wide), most=1e9) is not None
    assert FlatDataset.of(Uneven([wide] * 40 + [narrow], wide), most=1e9) is None
    assert FlatDataset.of(Uneven([wide], narrow), most=1e9) is None


def test_a_run_on_kept_arrays_ends_with_the_same_model(devices, tmp_path: Path) -> None:
    alone = codex_ray.run(devices, out=tmp_path / "alone")
    experiment = experiment_from(devices)
    public = Randomness.of(experiment.seed).public
    flat = FlatDataset.of(experiment.data.open(public), most=1e9)
    assert flat is not None
    flat, used = read_only(flat), []

    class Watched:
        population = flat.population

        def client(self, client: int) -> Records:
            used.append(client)
            return flat.client(client)

        def test(self) -> Records:
            return flat.test()

    with keeping({name_of(experiment.data, experiment.seed): Watched()}):
        shared = codex_ray.run(devices, out=tmp_path / "shared")
    assert shared.model_sha256 == alone.model_sha256 and shared.metrics == alone.metrics
    assert (
        used
        and (tmp_path / "shared" / "config.yaml").read_bytes()
        == (tmp_path / "alone" / "config.yaml").read_bytes()
    )


def test_in_the_block_a_data_set_is_opened_once_and_another_seed_s_is_another(devices) -> None:
    def dataset(seed: int, **data: Any) -> Any:
        changed = devices | {"seed": seed, "data": devices["data"] | data}
        return assemble(experiment_from(changed)).dataset

    with keeping() as kept:
        first = dataset(0)
        assert dataset(0) is first
        assert dataset(1) is not first
        assert dataset(0, clients=41) is not first
        assert len(kept) == 3
    assert dataset(0) is not first
