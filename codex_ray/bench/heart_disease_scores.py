"""One arm on one split: a federated run in this process, or a model on all records in one place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from codex_ray.assembly import Assembled, assemble
from codex_ray.calibrating import asked
from codex_ray.config import experiment_from, override
from codex_ray.data.dataset import FederatedDataset, Records
from codex_ray.federation.fedadam import FedAdam
from codex_ray.federation.run import Run
from codex_ray.federation.state import ServerState
from codex_ray.federation.transport import LocalTransport
from codex_ray.learning.evaluation import area_under_curve
from codex_ray.randomness import Randomness

Floats = npt.NDArray[np.float64]
NOISE: Final = "noise_multiplier"
Splits = Iterable[FederatedDataset]
"""The data set of each split."""


@dataclass(frozen=True)
class Score:
    """What one model came to on one split's test records."""

    accuracy: float
    balanced: float
    auc: float
    epsilon: float = 0.0


@dataclass(frozen=True)
class Scores:
    """Of the same arm, a split each."""

    each: tuple[Score, ...]

    @cached_property
    def accuracy(self) -> Floats:
        """Shares of test records that are told right [splits]."""
        return np.array([one.accuracy for one in self.each])

    @cached_property
    def balanced(self) -> Floats:
        """Means of the shares among the ill and among the healthy [splits]."""
        return np.array([one.balanced for one in self.each])

    @cached_property
    def auc(self) -> Floats:
        """Areas under the ROC curve [splits]."""
        return np.array([one.auc for one in self.each])

    @property
    def epsilon(self) -> float:
        """The largest that any of the runs spent."""
        return max(one.epsilon for one in self.each)


def standard_error(values: Floats) -> float:
    """Of the mean of `values` [splits]; 0 for a single one."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0


def score_of(logits: Floats, labels: npt.NDArray[np.int64], *, epsilon: float = 0.0) -> Score:
    """Accuracy, balanced accuracy and AUC of the logits [n] for binary labels [n]."""
    told, true = logits > 0, labels == 1
    shares = [float(np.mean(told[true == state] == state)) for state in (True, False)]
    return Score(
        accuracy=float(np.mean(told == true)),
        balanced=float(np.mean(shares)),
        auc=area_under_curve(labels, logits),
        epsilon=epsilon,
    )


def pooled_records(dataset: FederatedDataset) -> Records:
    """All clients' training records in one place, where nobody would have them."""
    parts = [dataset.client(client) for client in range(dataset.population)]
    return Records(
        np.concatenate([part.features for part in parts]),
        np.concatenate([part.labels for part in parts]),
    )


def pooled_scores(splits: Splits) -> Scores:
    """Logistic regression (scikit-learn's, as it comes: L2 with C = 1) on all records together."""
    return Scores(tuple(_by_regression(pooled_records(one), one.test()) for one in splits))


def alone_scores(splits: Splits) -> list[Scores]:
    """The same model on each hospital's own records, tried on everybody's test records."""
    found = [
        [_by_regression(one.client(client), one.test()) for client in range(one.population)]
        for one in splits
    ]
    return [Scores(tuple(scores)) for scores in zip(*found, strict=True)]


def _by_regression(train: Records, test: Records) -> Score:
    from sklearn.linear_model import LogisticRegression  # slow to import

    model = LogisticRegression(max_iter=1000).fit(train.features, train.labels)
    logits = np.asarray(model.decision_function(test.features), dtype=np.float64)
    return score_of(logits, test.labels)


@dataclass(frozen=True)
class Arm:
    """A way to train, apart from the split.

    Attributes:
        config: the experiment without `data` and `seed`.
        fedadam: the server's step, where it is not that of the configuration.
    """

    config: Mapping[str, Any]
    fedadam: FedAdam | None = None

    def on(self, data: Mapping[str, Any], *, noise: float | None = None) -> Arm:
        """The arm with its section `data`, and a number where it asks for noise to be found."""
        places = {".".join((*place, NOISE)): noise for place in asked(self.config) if noise}
        return Arm(override({**self.config, "data": dict(data)}, places), self.fedadam)

    def noise(self) -> float:
        """The noise multiplier of an arm on its data, found once for all splits.

        What noise costs depends on how many records there are and on none of them, and there are as
        many in every split.
        """
        (place,) = asked(self.config)
        found: Any = experiment_from(self.config)
        for name in (*place, NOISE):
            found = getattr(found, name)
        return float(found)

    def assembled(self, split: int, *, draw: int = 0) -> Assembled:
        """The experiment on the split of a seed, with one of many draws of noise and batches."""
        experiment = experiment_from({**self.config, "seed": split})
        if self.fedadam is not None:
            federation = experiment.federation.model_copy(update={"algorithm": self.fedadam})
            experiment = experiment.model_copy(update={"federation": federation})
        seeded = Randomness.of(split)
        randomness = Randomness(seeded.public, seeded.secret.child("draw", draw))
        first = replace(assemble(experiment), randomness=randomness)
        # What is scaled by noised figures is assembled anew.
        return replace(first.settled(gpus=0), randomness=randomness)

    def scores(self, splits: Sequence[int], *, draws: int = 1) -> Scores:
        """The arm's models on these splits, each figure a mean over draws of noise."""
        return Scores(
            tuple(
                _mean([trained(self.assembled(split, draw=draw)) for draw in range(draws)])
                for split in splits
            )
        )


def _mean(scores: Sequence[Score]) -> Score:
    """What several draws came to on average, and the most that one of them spent."""
    return Score(
        accuracy=float(np.mean([one.accuracy for one in scores])),
        balanced=float(np.mean([one.balanced for one in scores])),
        auc=float(np.mean([one.auc for one in scores])),
        epsilon=max(one.epsilon for one in scores),
    )


class _Nowhere:
    """A journal of runs that are not kept."""

    def save(self, state: ServerState) -> None:
        """Forgets it."""


def fitted(assembled: Assembled) -> tuple[Floats, float]:
    """The parameters [d] at the end of a run in this process, and the largest epsilon spent."""
    experiment = assembled.experiment
    run = Run(
        round=assembled.round(LocalTransport(assembled.host())),
        rounds=experiment.rounds,
        evaluate=lambda params: {},
        evaluate_every=experiment.rounds,
        journal=_Nowhere(),
        replayable=True,
    )
    state, result = list(run.results(assembled.first_state()))[-1]
    assert state.round == experiment.rounds  # The budget is what the noise was found for.
    return state.params.numpy().astype(np.float64), max(result.epsilon.values(), default=0.0)


def trained(assembled: Assembled) -> Score:
    """The score of a linear model at the end of such a run."""
    params, epsilon = fitted(assembled)
    test = assembled.dataset.test()
    logits = test.features.astype(np.float64) @ params[:-1] + params[-1]
    return score_of(logits, test.labels, epsilon=epsilon)
