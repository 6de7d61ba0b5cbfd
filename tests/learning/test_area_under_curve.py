"""The area under the ROC curve is sklearn's to the bit, without its import."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from codex_ray.learning.evaluation import area_under_curve


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("digits", [1, 2, 9])
def test_two_classes_with_and_without_ties(dtype: type, digits: int) -> None:
    rng = np.random.default_rng(digits)
    for count in range(2, 120):
        labels = np.append([0, 1], rng.integers(0, 2, count))
        scores = np.round(rng.random(count + 2) + 0.2 * labels, digits).astype(dtype)
        assert area_under_curve(labels, scores) == float(roc_auc_score(labels, scores))


def test_each_of_several_classes_against_the_rest() -> None:
    rng = np.random.default_rng(0)
    for classes in range(3, 11):
        labels = np.append(np.arange(classes), rng.integers(0, classes, 90))
        scores = rng.dirichlet(np.ones(classes), len(labels))
        expected = float(roc_auc_score(labels, scores, multi_class="ovr"))
        assert area_under_curve(labels, scores) == expected


def test_nobody_waits_for_sklearn_to_be_told_how_good_a_model_is() -> None:
    code = "import sys, codex_ray.learning.evaluation; print('sklearn' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
