"""A host unpacks a task once, binds each client to its own parameters, and forgets what is over."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from codex_ray.assembly import assemble
from codex_ray.config import experiment_from
from codex_ray.errors import HostLost
from codex_ray.federation.client import Host
from codex_ray.federation.messages import TrainTask
from codex_ray.secagg.messages import SummandRequest
from codex_ray.types import ClientId


class Noting:
    """Trains nothing, and notes which parameters it was given."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self.given: list[torch.Tensor] = []

    def train(self, params: torch.Tensor, clients: Sequence[ClientId], round: int) -> torch.Tensor:
        self.given.append(params)
        return torch.zeros(len(clients), self.dimension)


@pytest.fixture
def carried(devices) -> tuple[Host, Noting, np.ndarray]:
    devices["federation"] = {"protocol": {"kind": "ideal"}}
    assembled = assemble(experiment_from(devices))
    trainer = Noting(len(assembled.initial))
    host = Host(
        trainer=trainer,  # type: ignore[arg-type]  # as much as a host needs here
        mechanism=assembled.experiment.federation.mechanism,
        protocol=assembled.experiment.federation.protocol,
        codec=assembled.codec,
        randomness=assembled.randomness,
    )
    return host, trainer, assembled.initial.numpy()


def digest_of(host: Host, client: ClientId) -> bytes:
    return host._sessions._seats[client].context.model_digest


def test_a_task_that_comes_in_chunks_is_unpacked_once(carried) -> None:
    host, trainer, params = carried
    frame = TrainTask(b"r" * 16, 0, 0, params).to_frame()
    host.handle({0: memoryview(frame)})
    host.handle({1: memoryview(frame)})
    assert trainer.given[0] is trainer.given[1]
    assert digest_of(host, 0) == digest_of(host, 1)


def test_clients_given_two_models_are_bound_to_two_models(carried) -> None:
    """So their masks do not cancel, and a server that tries this learns nothing."""
    host, trainer, params = carried
    for client, moved in enumerate((params, params + 1, params)):
        host.handle({client: TrainTask(b"r" * 16, 0, 0, moved).to_frame()})
    assert digest_of(host, 0) == digest_of(host, 2) != digest_of(host, 1)
    np.testing.assert_array_equal(trainer.given[1], params + 1)
    both = {
        3: TrainTask(b"r" * 16, 0, 0, params).to_frame(),
        4: TrainTask(b"r" * 16, 0, 0, params + 2).to_frame(),
    }
    assert host.handle(both).keys() == {3, 4}
    assert digest_of(host, 3) == digest_of(host, 0) != digest_of(host, 4)


def test_a_frame_that_is_gone_is_not_taken_for_one_in_its_place(carried) -> None:
    """Memory is used again: what was unpacked is kept for as long as it is compared with."""
    host, trainer, params = carried
    for step in range(20):
        host.handle({step: TrainTask(b"r" * 16, 0, 0, params + step).to_frame()})
    for step, given in enumerate(trainer.given):
        np.testing.assert_array_equal(given, params + step)


def test_a_host_keeps_nothing_of_an_attempt_that_is_over(carried) -> None:
    host, _, params = carried
    for round_ in range(5):
        task = TrainTask(b"r" * 16, round_, 0, params).to_frame()
        cohort = range(8 * round_, 8 * round_ + 8)
        assert len(host.handle(dict.fromkeys(cohort, task))) == 8
    assert len(host._trained) == len(host._sessions._seats) == 8
    with pytest.raises(HostLost, match="client 0 was not trained here"):
        host.handle({0: SummandRequest().to_frame()})
    earlier = TrainTask(b"r" * 16, 3, 9, params).to_frame()
    assert host.handle({0: earlier, 39: earlier}) == {}
