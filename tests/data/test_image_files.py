"""Images in files, dealt out to clients of one size; and what is learnt of real ones."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest

import codex_ray
from codex_ray.config import experiment_from, load_yaml, validated
from codex_ray.data.equal_split import equal_split, kept_of_labels, spread_holdout
from codex_ray.data.image_features import Gradients
from codex_ray.data.image_files import ImageFiles
from codex_ray.errors import ConfigError, DataError
from codex_ray.randomness import Randomness
from codex_ray.sweeping.description import Sweep

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
BASE = EXPERIMENTS / "real_data" / "mnist.yaml"


def digits(count=200, *, seed=0):
    """Images [count, 8, 8], each with its own number in its first pixels, and labels of 5 kinds."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 8, 8)).astype(np.uint8)
    images[:, 0, 0], images[:, 0, 1] = np.arange(count) // 256, np.arange(count) % 256
    return images, rng.choice(5, count, p=[0.4, 0.15, 0.15, 0.15, 0.15]).astype(np.uint8)


@pytest.fixture
def file(tmp_path):
    """The same digits as .npz."""
    images, labels = digits()
    np.savez(tmp_path / "digits.npz", images=images, labels=labels)
    return str(tmp_path / "digits.npz")


def opened(file, *, seed=0, **fields):
    settings = {"clients": 20, "records_per_client": 4} | fields
    return ImageFiles(images=file, **settings).open(Randomness.of(seed).public)


def rows(*parts):
    return np.concatenate([records.features.reshape(len(records), -1) for records in parts])


@pytest.mark.parametrize("partition", ["iid", "one_label"])
def test_every_image_has_one_holder_or_is_in_the_test_set(file, partition):
    data = opened(file, partition=partition)
    clients = [data.client(client) for client in range(20)]
    assert data.population == 20 and {len(records) for records in clients} == {4}
    everything = rows(data.test(), *clients)
    assert len(data.test()) == 120
    assert len(np.unique(everything, axis=0)) == len(everything) == 200


def test_one_label_a_client_in_proportion(file):
    data = opened(file, partition="one_label")
    held = [set(data.client(client).labels) for client in range(20)]
    assert {len(labels) for labels in held} == {1}
    counts = np.bincount([labels.pop() for labels in held], minlength=5)
    shares = np.bincount(digits()[1]) / 10
    assert np.abs(counts - shares).max() < 1
    alike = opened(file)
    assert np.mean([len(set(alike.client(client).labels)) for client in range(20)]) > 2


def test_the_seed_decides_who_holds_what_and_never_what_is_tested(file):
    one, again, other = opened(file, seed=1), opened(file, seed=1), opened(file, seed=2)
    assert np.array_equal(one.client(3).features, again.client(3).features)
    assert not np.array_equal(one.client(3).features, other.client(3).features)
    assert np.array_equal(one.test().features, other.test().features)
    assert np.array_equal(one.test().labels, other.test().labels)


@pytest.mark.parametrize(("clients", "records"), [(20, 4), (3, 30)])
def test_the_test_set_has_each_label_in_proportion(file, clients, records):
    data = opened(file, clients=clients, records_per_client=records)
    shares = np.bincount(digits()[1]) * len(data.test()) / 200
    assert np.abs(np.bincount(data.test().labels) - shares).max() < 1
    if records == 4:
        whole = opened(file, partition="one_label")
        assert np.abs(np.bincount(whole.test().labels) - shares).max() < 4


def test_a_client_keeps_its_labels_with_its_images(file):
    labels = digits()[1]
    seen = opened(file, clients=30).client(7)
    features = opened(file, clients=30, features=Gradients(cell=4, stride=4)).client(7)
    assert np.array_equal(seen.labels, features.labels)
    assert seen.features.shape == (4, 1, 8, 8) and features.features.shape == (4, 8, 2, 2)
    whole = opened(file, clients=1, records_per_client=100)
    every = {
        row.tobytes(): int(label)
        for row, label in zip(
            rows(whole.client(0), whole.test()),
            np.concatenate([whole.client(0).labels, whole.test().labels]),
            strict=True,
        )
    }
    assert [every[row.tobytes()] for row in rows(seen)] == seen.labels.tolist()
    assert np.array_equal(np.bincount(list(every.values())), np.bincount(labels))


def test_idx_files_give_what_npz_gives(file, tmp_path):
    paths = []
    for name, array in zip(("images", "labels"), digits(), strict=True):
        header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        paths.append(tmp_path / name)
        paths[-1].write_bytes(header + array.tobytes())
    data, npz = opened(str(paths[0]), labels=str(paths[1])), opened(file)
    assert np.array_equal(data.client(5).features, npz.client(5).features)
    assert np.array_equal(data.test().labels, npz.test().labels)


def test_what_is_held_out_lies_evenly_over_the_file():
    labels = np.zeros(100, np.int64)
    held_out, kept = spread_holdout(labels, np.array([80]))
    assert held_out.tolist() == list(range(2, 100, 5)) and len(kept) == 80
    assert spread_holdout(labels, np.array([100]))[0].size == 0


def test_a_split_gives_out_the_whole_pool():
    labels = np.repeat([0, 2], 12)
    pool = np.arange(24)
    split = equal_split(labels, pool, 4, partition="one_label", rng=np.random.default_rng(0))
    assert labels[split].tolist() == [[0] * 4] * 3 + [[2] * 4] * 3
    assert sorted(split.ravel()) == list(pool)


def test_negatives(file, tmp_path):
    with pytest.raises(DataError, match=r"data\.clients: 50 clients of 4 records need 200, and a"):
        opened(file, clients=50)
    with pytest.raises(DataError, match="1 clients of 10 records with label 1 are due, but only 9"):
        kept_of_labels(np.repeat([0, 1], [91, 9]), 9, 10, partition="one_label")
    with pytest.raises(ConfigError, match=r"data\.labels: is missing: name the IDX file"):
        experiment_from(
            {
                "rounds": 1,
                "model": {"kind": "linear", "outputs": 5},
                "trainer": {"kind": "sgd", "learning_rate": 0.1},
                "data": {"kind": "image_files", "images": "train-images-idx3-ubyte"},
            }
        )
    with pytest.raises(ConfigError, match=r"digits\.npz brings its own labels"):
        ImageFiles(images=file, labels="labels")
    np.savez(tmp_path / "odd.npz", images=digits()[0], labels=digits()[1][:-1])
    with pytest.raises(DataError, match=r"holds 200 images, but there are 199 labels"):
        opened(str(tmp_path / "odd.npz"))


def test_the_sweeps_of_the_table_differ_in_who_holds_what_alone():
    sweeps = [
        validated(Sweep, load_yaml(EXPERIMENTS / name))
        for name in (
            "real_data/sweep_mnist.yaml",
            "real_data/sweep_mnist_one_label.yaml",
            "sweep_frontier.yaml",
        )
    ]
    alike, one_label, generated = sweeps
    assert alike.epsilons == (0.25, 0.5, 1, 2, 4, 8) and len(alike.seeds) == 5 and alike.reference
    for other in (one_label, generated):
        assert (other.epsilons, other.seeds) == (alike.epsilons, alike.seeds)
        assert other.reference == alike.reference
    assert one_label.set == alike.set | {"data.partition": "one_label"}
    assert {k: v for k, v in generated.set.items() if not k.startswith("data.")} == alike.set


def test_the_generated_twin_runs_without_a_file(tmp_path):
    twin = validated(Sweep, load_yaml(EXPERIMENTS / "sweep_frontier.yaml")).set
    quick = {"rounds": 8, "plan": "reference", "data.clients": 300}
    noise = {"federation.mechanism.noise_multiplier": 1.0, "budget.epsilon": None}
    result = codex_ray.run(BASE, twin | quick | noise, out=tmp_path / "run")
    assert result.clients == 300 and 0 < result.epsilon < 8
    assert result.metrics["accuracy"] > 0.4  # chance is 0.1


@pytest.fixture(scope="module")
def real():
    """The settings of the published table, on the folder of real data."""
    folder = Path(os.environ["CODEX_RAY_DATA"])
    return {
        "data.images": str(folder / "mnist10k" / "mnist10k.npz"),
        "federation.protocol.kind": "ideal",
        "seed": 0,
    }


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize(
    ("partition", "epsilon", "floor"), [("iid", 8.0, 0.94), ("one_label", 2.0, 0.91)]
)
def test_a_thousand_people_with_eight_digits_each(real, tmp_path, partition, epsilon, floor):
    """One seed of docs/frontier.md, where the means of five are .958 and .936."""
    chosen = real | {"data.partition": partition, "budget.epsilon": epsilon}
    result = codex_ray.run(BASE, chosen, out=tmp_path / "run")
    assert result.clients == 1000 and result.rounds == 100
    assert [s["unit"] for s in result.privacy] == ["client"]
    assert 0.98 * epsilon < result.epsilon <= epsilon
    assert result.metrics["accuracy"] >= floor
