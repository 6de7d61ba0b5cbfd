"""A module as a function from records to probabilities, without gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch

from codex_ray.learning.models import Model
from codex_ray.serving.inputs import Inputs
from codex_ray.serving.model import Probabilities
from codex_ray.serving.schema import Features


def predictor(model: Model, inputs: Inputs) -> Callable[[Features], Probabilities]:
    """What turns records [n, ...] into probabilities [n, classes], float64, rows of sum 1."""
    module = model.module.eval()

    def predict(records: Features) -> Probabilities:
        with torch.inference_mode():
            logits = module(torch.from_numpy(inputs.scaled(records))).double()
            if logits.shape[1] == 1:  # one output: the logit of class 1
                one = torch.sigmoid(logits)
                return torch.cat([1.0 - one, one], dim=1).numpy()
            return torch.softmax(logits, dim=1).numpy()

    return predict
