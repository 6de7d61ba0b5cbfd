"""Which vector is summed under which claim, and how much noise whoever adds it adds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pooling import DP_SGD, NOISE, NOISED, SGD, SHARED, UPDATES, experiment, write_hospitals

from codex_ray.config import experiment_from
from codex_ray.federation.pooled_sums import NoisedSum
from codex_ray.figures import release_of
from codex_ray.preparation.answers import Answers
from codex_ray.preparation.noised_statistics import Sketch
from codex_ray.randomness import Randomness

ASKED = NOISED | {"imputation": "median", "bins": 48, "noise_multiplier": 50.0}
"""A vector of some 150 numbers, so that a deviation can be read off one release."""


@pytest.mark.parametrize(
    ("trainer", "mechanism", "scaling", "unit", "owners"),
    [
        (SHARED, NOISE, "pooled", "record", False),
        (SHARED, NOISE, "per_client", "record", True),
        (DP_SGD, None, "pooled", "record", True),
        (DP_SGD, None, "per_client", "record", True),
        (SGD, UPDATES, "pooled", "client", False),
        (SGD, UPDATES | {"kind": "local_gaussian"}, "pooled", "client", False),
        (SGD, NOISE | {"clip_norm": 0.5}, "pooled", "client", False),
    ],
)
def test_the_noise_is_that_of_the_claim(
    trainer: dict[str, Any],
    mechanism: dict[str, Any] | None,
    scaling: str,
    unit: str,
    owners: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = experiment(
        write_hospitals(tmp_path),
        ASKED | {"scaling": scaling},
        trainer=trainer,
        mechanism=mechanism,
    )
    made = experiment_from(config)
    tables = made.data.tables(Randomness.of(0).public)  # type: ignore[union-attr]  # a CSV's
    release, shown = release_of(made, 4), []
    asked: list[np.ndarray] = []
    adding = NoisedSum.summand

    def noting(self: NoisedSum, vectors: np.ndarray, client: int, **how: Any) -> Any:
        asked.append(np.atleast_2d(vectors))
        assert client == len(asked) - 1
        return adding(self, vectors, client, **how)

    monkeypatch.setattr(NoisedSum, "summand", noting)
    real = Sketch.found
    monkeypatch.setattr(Sketch, "found", lambda self, it: (shown.append(it), real(self, it))[1])
    randomness = Randomness.of(0)
    answers = Answers(release, tables, randomness)
    statistics = release.statistics(tables.columns, answers, randomness)
    assert (release.unit, release.noised_by_owner) == (unit, owners)
    ranges, sketch = tables.columns.counted_ranges, release.sketch
    own = [sketch.sum(ranges.public(tables.numbers(client))) for client in range(4)]
    if unit == "client":
        own = [one / len(table.labels) for one, table in zip(own, tables.clients, strict=True)]
    for client, vectors in enumerate(asked):  # what is longer than the norm would only be cut
        assert np.linalg.norm(vectors, axis=1).max() <= sketch.norm * (1 + 1e-12)
        np.testing.assert_allclose(vectors.sum(axis=0), own[client], atol=1e-9)
    alone = 50.0 * sketch.norm
    if scaling == "per_client":
        assert len(shown) == len(statistics.centre) == 4
        noise = np.concatenate([it - one for it, one in zip(shown, own, strict=True)])
        expected = alone
    else:
        assert len(shown) == len(statistics.centre) == 1
        noise = shown[0] - sum(own)
        expected = 2 * alone if owners else release.noised_sum.deviation
    assert noise.std() == pytest.approx(expected, rel=0.25)  # of 153 draws: four standard errors
    assert expected >= alone * (1 - 1e-9)


def test_what_is_summed_without_noise_is_what_they_hold(tmp_path: Path) -> None:
    """With hardly any noise the figures are those of the records, or of each client alike."""
    asked = NOISED | {"noise_multiplier": 1e-4}
    for trainer, mechanism in ((SHARED, NOISE), (SGD, UPDATES)):
        files = write_hospitals(tmp_path)
        made = experiment_from(experiment(files, asked, trainer=trainer, mechanism=mechanism))
        tables = made.data.tables(Randomness.of(0).public)  # type: ignore[union-attr]
        randomness, release = Randomness.of(0), release_of(made, 4)
        answers = Answers(release, tables, randomness)
        found = release.statistics(tables.columns, answers, randomness)
        parts = [np.clip(table.values[:, 0], 20, 80) for table in tables.clients]
        mean = (
            np.concatenate(parts).mean() if trainer is SHARED else np.mean([*map(np.mean, parts)])
        )
        assert found.centre[0][0] == pytest.approx(mean, abs=0.01)
