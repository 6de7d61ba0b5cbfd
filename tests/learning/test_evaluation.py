"""Accuracy, AUC and loss on the pooled test set, whatever the model puts out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from codex_ray.data.dataset import Records
from codex_ray.learning.evaluation import evaluate
from codex_ray.learning.models import given_model
from codex_ray.randomness import Randomness

RECORDS = Records(np.array([[-2], [-1], [0.5], [2]], dtype=np.float32), np.array([0, 1, 0, 1]))


def _measured(outputs: int) -> dict[str, float]:
    module = nn.Linear(1, outputs, bias=False)
    model = given_model(module, Randomness.of(0).public, example=torch.zeros(1, 1))
    params = torch.tensor([1.0]) if outputs == 1 else torch.tensor([0.0, 1.0])
    return evaluate(model, params, RECORDS)


def test_two_outputs_are_one_that_says_how_much_larger_the_second_is() -> None:
    one, two = _measured(1), _measured(2)
    assert one["accuracy"] == two["accuracy"] == 0.5
    assert one["auc"] == two["auc"] == 0.75
    assert one["loss"] == pytest.approx(two["loss"])


def test_without_every_label_there_is_no_auc() -> None:
    module = nn.Linear(1, 3, bias=False)
    model = given_model(module, Randomness.of(0).public, example=torch.zeros(1, 1))
    assert "auc" not in evaluate(model, torch.zeros(3), RECORDS)
