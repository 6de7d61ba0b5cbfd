"""Synthetic images: made on request, the same everywhere, and worth learning."""

import subprocess
import sys
import time

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from codex_ray.data.synthetic_images import SyntheticImages
from codex_ray.errors import ConfigError, DataError
from codex_ray.randomness import Randomness


def opened(seed=0, **fields):
    return SyntheticImages(**fields).open(Randomness.of(seed).public)


def test_shapes_types_and_bounds():
    data = opened(records_per_client=(7, 9), size=6)
    records = data.client(0)
    assert 7 <= len(records) <= 9
    assert records.features.shape == (len(records), 1, 6, 6)
    assert records.features.dtype == np.float32
    assert records.labels.dtype == np.int64
    assert np.abs(records.features).max() <= 1.0
    assert data.test().features.shape == (2000, 1, 6, 6)
    assert set(data.test().labels) == set(range(10))


def test_clients_do_not_depend_on_the_order_nor_on_the_population():
    few, many = opened(clients=10), opened(clients=10**9)
    assert many.population == 10**9
    many.client(10**9 - 1)
    many.test()
    for client in (7, 3):
        assert np.array_equal(few.client(client).features, many.client(client).features)
        assert np.array_equal(few.client(client).labels, many.client(client).labels)
    assert not np.array_equal(few.client(1).features[:5], few.client(2).features[:5])


def test_other_process_makes_the_same_images():
    program = (
        "import hashlib\n"
        "from codex_ray.data.synthetic_images import SyntheticImages\n"
        "from codex_ray.randomness import Randomness\n"
        "data = SyntheticImages().open(Randomness.of(5).public)\n"
        "print(hashlib.sha256(data.client(42).features.tobytes()).hexdigest())\n"
    )
    here: dict[str, object] = {}
    exec(program.replace("print", "shown = str"), here)
    there = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert there.stdout.strip() == here["shown"]


def test_a_linear_model_learns_most_but_not_all():
    data = opened()
    clients = [data.client(client) for client in range(150)]
    features = np.concatenate([records.features.reshape(-1, 64) for records in clients])
    labels = np.concatenate([records.labels for records in clients])
    model = LogisticRegression(max_iter=100).fit(features, labels)
    assert 0.85 < model.score(data.test().features.reshape(-1, 64), data.test().labels) < 0.97


def test_a_client_costs_less_than_a_millisecond():
    data = opened()
    data.client(0)
    costs = []
    for client in range(50):
        began = time.perf_counter()
        data.client(client)
        costs.append(time.perf_counter() - began)
    assert np.median(costs) < 1e-3


def test_negatives():
    with pytest.raises(DataError, match=r"client 5 does not exist: .* 0 to 4"):
        opened(clients=5).client(5)
    with pytest.raises(ConfigError, match=r"data\.records_per_client: \[5, 2\]"):
        SyntheticImages(records_per_client=(5, 2))
