"""Contestants do the work that they are timed for."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from codex_ray.learning.contest import BATCH, PLAIN, RATE, CompiledEpoch, tensors, training


@pytest.mark.slow
@pytest.mark.parametrize("name", ["logistic", "cnn"])
def test_a_compiled_epoch_is_five_steps_of_sgd(name: str) -> None:
    made = training(name, PLAIN, clients=2)
    found = CompiledEpoch(made).train(2)
    module = training(name, PLAIN, clients=1).model.module.train()
    optimizer = torch.optim.SGD(module.parameters(), lr=RATE)
    features, labels = tensors(made, 1)
    for few, named in zip(features.split(BATCH), labels.split(BATCH), strict=True):
        optimizer.zero_grad()
        functional.cross_entropy(module(few), named).backward()
        optimizer.step()
    expected = torch.cat([param.detach().reshape(-1) for param in module.parameters()])
    torch.testing.assert_close(found.detach(), expected, rtol=1e-4, atol=1e-5)
    assert not torch.equal(found, made.model.get())
