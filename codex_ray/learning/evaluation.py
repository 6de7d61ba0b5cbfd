"""How good a model is on the pooled test set."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from codex_ray.data.dataset import Records
from codex_ray.learning.models import Model, loss_sum
from codex_ray.learning.trainers import as_tensors

METRICS: Final = ("accuracy", "loss", "auc")
"""What is measured, in this order; of the last there may be none."""


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
        found["auc"] = area_under_curve(records.labels, scores.numpy())
    return found


def area_under_curve(labels: npt.NDArray[np.integer], scores: npt.NDArray[np.floating]) -> float:
    """The area under the ROC curve; over several classes the mean of each against the rest.

    It is sklearn's `roc_auc_score` to the bit, whose import takes longer than a first round.

    Args:
        labels: 0, 1, ... [n], each of which occurs.
        scores: of label 1 [n], or of every label [n, classes].
    """
    if scores.ndim == 1:
        return _area(labels == 1, scores)
    classes = range(scores.shape[-1])
    return float(np.average([_area(labels == label, scores[:, label]) for label in classes]))


def _area(positive: npt.NDArray[np.bool_], scores: npt.NDArray[np.floating]) -> float:
    """The same for one class [n] against the rest, by trapezia between the curve's corners."""
    order = np.argsort(scores, kind="stable")[::-1]
    positive, scores = positive[order], scores[order]
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # of equal scores
    hits = np.cumsum(positive, dtype=np.float64)[ends]
    alarms = 1.0 + ends - hits
    if len(hits) > 2:  # points within a straight stretch only add rounding
        corner = (np.diff(alarms, 2) != 0) | (np.diff(hits, 2) != 0)
        kept = np.concatenate([[True], corner, [True]])
        hits, alarms = hits[kept], alarms[kept]
    hits, alarms = np.append(0.0, hits), np.append(0.0, alarms)
    return float(np.trapezoid(hits / hits[-1], alarms / alarms[-1]))
