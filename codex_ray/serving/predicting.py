"""A module as a function from records to probabilities, without gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from codex_ray.learning.models import Model
from codex_ray.serving.inputs import Inputs
from codex_ray.serving.model import Probabilities
from codex_ray.serving.schema import Features


def predictor(
    model: Model, inputs: Inputs, shape: tuple[int, ...]
) -> Callable[[Features], Probabilities]:
    """What turns records [n, ...] into probabilities [n, classes], float64, rows of sum 1.

    `shape` is that of one record as the model takes it.
    """
    module, scaled = model.module.eval(), inputs.scaler(shape)

    def predict(records: Features) -> Probabilities:
        with torch.inference_mode():
            logits = module(torch.from_numpy(scaled(records))).numpy().astype(np.float64)
        if logits.shape[1] == 1:  # one output: the logit of class 1, beside one of 0
            logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
        # No exponent is above 0, so that none overflows; a sigmoid is a softmax of two.
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        found: Probabilities = powers / powers.sum(axis=1, keepdims=True)
        return found

    return predict
