"""How good a model is on the pooled test set."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from codex_ray.data.dataset import Records
from codex_ray.learning.models import Model, loss_sum
from codex_ray.learning.trainers import as_tensors


def evaluate(model: Model, params: torch.Tensor, records: Records) -> dict[str, float]:
    """Accuracy, AUC (one against the rest, where it is defined) and mean loss of `params` [d]."""
    model.set(params)
    model.module.eval()
    features, labels = as_tensors(records)
    with torch.no_grad():
        logits = model.module(features)
        loss = float(loss_sum(logits, labels)) / max(1, len(records))
        if logits.shape[-1] == 1:
            scores = torch.sigmoid(logits.squeeze(-1))
            guesses = (scores > 0.5).long()
        else:
            scores = torch.softmax(logits.double(), dim=-1)
            scores = scores[:, 1] if logits.shape[-1] == 2 else scores  # sklearn wants one for two
            guesses = logits.argmax(dim=-1)
    found = {"accuracy": float((guesses == labels).double().mean()), "loss": loss}
    if len(np.unique(records.labels)) == max(2, logits.shape[-1]):
        found["auc"] = float(roc_auc_score(records.labels, scores.numpy(), multi_class="ovr"))
    return found
