"""Records that are read when asked for are read while others train, where the data set says so."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import pytest
import torch
from lane_cases import PLAIN, PRIVATE, SIZES, Held, Residual, cnn, linear, mlp, planned, reference

from codex_ray.data.dataset import Records
from codex_ray.data.python_factory import CheckedDataset
from codex_ray.errors import DataError
from codex_ray.learning.opening import may_prefetch
from codex_ray.learning.vectorised import AHEAD, VectorisedTraining

EVERYBODY = range(len(SIZES))
WINDOW = 2 * AHEAD


@dataclass
class Read(Held):
    """Says whether it may be read ahead, and notes who was read by which thread."""

    prefetch: bool = True
    broken: int = -1
    read: list[tuple[int, int]] = field(default_factory=list)
    more: threading.Condition = field(default_factory=threading.Condition)

    def client(self, client: int) -> Records:
        if client == self.broken:
            raise DataError(f"client {client}: gone")
        with self.more:
            self.read.append((client, threading.get_ident()))
            self.more.notify_all()
        return super().client(client)


@pytest.mark.parametrize("make", [mlp, cnn, Residual])
@pytest.mark.parametrize("trainer", [PLAIN, PRIVATE])
def test_reading_ahead_changes_no_bit(make, trainer) -> None:
    found = []
    for prefetch in (False, True):
        training = planned(reference(make, trainer, Read(prefetch=prefetch)), clients=2)
        params = training.reference.model.get()
        found.append([training.train(params, EVERYBODY, round) for round in range(2)])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_the_next_window_is_read_while_one_trains_and_no_more(monkeypatch) -> None:
    data = Read(sizes=(10,) * 12)
    training = planned(reference(linear, PLAIN, data), clients=2)
    training.train(training.reference.model.get(), [0], 0)  # learns the records' shape
    data.read.clear()
    trained: list[int] = []
    inner = VectorisedTraining._train

    def train(self, kernel, jobs, params, out) -> None:
        expected = range(min(12, WINDOW * (jobs[0].client // WINDOW + 2)))
        with data.more:
            assert data.more.wait_for(lambda: len(data.read) >= len(expected), timeout=30)
        assert [client for client, _ in data.read] == list(expected)
        trained.extend(job.client for job in jobs)
        inner(self, kernel, jobs, params, out)

    monkeypatch.setattr(VectorisedTraining, "_train", train)
    training.train(training.reference.model.get(), range(12), 0)
    assert trained == list(range(12))
    threads = {thread for _, thread in data.read}
    assert len(threads) == 1 and threading.get_ident() not in threads


def test_a_data_set_that_says_nothing_is_read_by_the_thread_that_trains() -> None:
    data = Read(prefetch=False)
    training = planned(reference(linear, PLAIN, data), clients=2)
    for round in range(2):
        training.train(training.reference.model.get(), EVERYBODY, round)
    assert {thread for _, thread in data.read} == {threading.get_ident()}
    # One more than there are, for the shape of all: once, and not in every round.
    assert len(data.read) == 2 * len(EVERYBODY) + 1
    assert not may_prefetch(Held())
    assert not may_prefetch(Read(prefetch=print))  # a method of that name says nothing
    assert may_prefetch(CheckedDataset(Read(), "the given data set"))


@pytest.mark.parametrize("broken", [WINDOW + 1, len(SIZES) - 1])
def test_what_reading_raises_is_raised_to_whoever_trains(broken) -> None:
    before = threading.active_count()
    training = planned(reference(linear, PLAIN, Read(broken=broken)), clients=2)
    with pytest.raises(DataError, match=f"client {broken}: gone"):
        training.train(training.reference.model.get(), EVERYBODY, 0)
    assert threading.active_count() == before
