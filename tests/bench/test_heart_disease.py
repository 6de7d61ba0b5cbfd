"""The comparison on Heart Disease: its splits, arms, scores and bars, on generated records."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from codex_ray.bench.bars import Row
from codex_ray.bench.heart_disease import (
    PUBLISHED,
    Bench,
    _against_pooled,
    _private_bars,
    _row,
    parts_for,
    plain,
    plot_heart,
    private,
)
from codex_ray.bench.heart_disease_arms import DISTRIBUTED, EPSILONS, FEDADAM, LOCAL, Private
from codex_ray.bench.heart_disease_data import (
    CHOOSING,
    RECORDS,
    SCALINGS,
    SPLITS,
    data_section,
    heart_files,
)
from codex_ray.bench.heart_disease_scores import (
    Arm,
    Score,
    Scores,
    fitted,
    pooled_records,
    score_of,
    trained,
)
from codex_ray.bench.heart_disease_twin import write_twin
from codex_ray.cli import main
from codex_ray.config import override
from codex_ray.errors import ConfigError
from codex_ray.federation.fedadam import FedAdam


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("twin")
    write_twin(folder)
    return folder


@pytest.fixture(scope="module")
def bench(twin: Path) -> Bench:
    return Bench(heart_files(twin), SPLITS[:1], draws=1)


def test_scores_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(80) < 0.3).astype(np.int64)
    logits = rng.standard_normal(80) + labels
    score = score_of(logits, labels)
    assert score.accuracy == pytest.approx(np.mean((logits > 0) == labels))
    assert score.balanced == pytest.approx(balanced_accuracy_score(labels, logits > 0))
    assert score.auc == pytest.approx(roc_auc_score(labels, logits))


def test_fedadam_is_the_papers() -> None:
    step = FedAdam(learning_rate=0.5, momentum=0.8, decay=0.9, floor=0.01)
    params, state = torch.tensor([1.0, -2.0]), step.init(2)
    first = second = np.zeros(2)
    found = params.double().numpy()
    for update in ([0.3, -0.1], [0.1, 0.2]):
        params, state = step.step(params, torch.tensor(update), state)
        first = 0.8 * first + 0.2 * np.array(update)
        second = 0.9 * second + 0.1 * np.array(update) ** 2
        found = found + 0.5 * first / (np.sqrt(second) + 0.01)
    np.testing.assert_allclose(params.numpy(), found, rtol=1e-5)


def test_splits_are_stratified_and_none_is_for_both() -> None:
    assert len(set(SPLITS)) == 20 and not set(SPLITS) & set(CHOOSING)


def test_a_split_is_the_same_under_every_scaling(bench: Bench) -> None:
    fixed, pooled, own = (bench.data(scaling)[0] for scaling in SCALINGS)
    assert [len(fixed.client(one)) for one in range(4)] == [
        len(pooled.client(one)) for one in range(4)
    ]
    for other in (pooled, own):
        for client in range(4):
            assert list(other.client(client).labels) == list(fixed.client(client).labels)
        assert list(other.test().labels) == list(fixed.test().labels)
    together = pooled_records(pooled).features
    np.testing.assert_allclose(together.mean(0), 0.0, atol=0.02)
    np.testing.assert_allclose(together.std(0), 1.0, atol=0.1)
    for client in (0, 1):  # elsewhere a column is nearly always the same, and what is not is cut
        np.testing.assert_allclose(own.client(client).features.mean(0), 0.0, atol=0.02)
    other_split = Bench(bench.files, SPLITS[1:2]).data("fixed")[0]
    assert not np.array_equal(fixed.test().features, other_split.test().features)


@pytest.mark.parametrize("where", ["distributed", "local"])
def test_both_places_of_noise_take_the_same_steps(bench: Bench, where: str) -> None:
    """Without noise to speak of, four hospitals' own steps are one step of all records."""
    settings = Private(where, 1.0, rounds=3, clip=0.5, rate=2.0)  # type: ignore[arg-type]
    data = data_section(bench.files, "fixed")
    assembled = settings.arm.on(data, noise=1e-2).assembled(SPLITS[0])
    # No budget: so little noise costs far more than one.
    budget = assembled.experiment.budget.model_copy(update={"epsilon": None})
    assembled = replace(
        assembled, experiment=assembled.experiment.model_copy(update={"budget": budget})
    )
    found, _ = fitted(assembled)
    records = pooled_records(assembled.dataset)
    x, y = records.features.astype(np.float64), records.labels
    x = np.column_stack([x, np.ones(len(x))])
    weights = np.zeros(x.shape[1])
    for _ in range(3):
        steps = (1 / (1 + np.exp(-x @ weights)) - y)[:, None] * x
        norms = np.linalg.norm(steps, axis=1, keepdims=True)
        steps *= np.minimum(1, 0.5 / norms)
        weights -= 2.0 / 0.5 * steps.sum(0) / 500
    np.testing.assert_allclose(found, weights, atol=0.02 * np.abs(weights).max())


def test_secure_sums_give_the_same_model(bench: Bench) -> None:
    arm = DISTRIBUTED["fixed", 1.0].arm
    noise = arm.on(data_section(bench.files, "fixed")).noise()
    on_ideal = arm.on(data_section(bench.files, "fixed"), noise=noise)
    on_secagg = Arm(override(on_ideal.config, {"federation.protocol.kind": "secagg"}))
    ideal, secure = (trained(one.assembled(SPLITS[0])) for one in (on_ideal, on_secagg))
    assert ideal == secure and 0.99 < ideal.epsilon <= 1.0
    other = trained(on_ideal.assembled(SPLITS[0], draw=1))
    assert other.auc != ideal.auc and other.epsilon == ideal.epsilon


def test_noise_is_priced_in_units_of_the_clip_norm(bench: Bench) -> None:
    for settings in (DISTRIBUTED["fixed", 0.1], LOCAL["fixed", 0.1]):
        scores = bench.scores(settings, "fixed")
        assert 0.099 < scores.epsilon <= 0.1


def scores(*accuracies: float, auc: float = 0.86, epsilon: float = 0.0) -> Scores:
    return Scores(tuple(Score(one, one - 0.01, auc, epsilon) for one in accuracies))


def row_of(epsilon: float, ours: Scores, fedadam: Scores, local: Scores, *, barred: bool) -> Row:
    return _row("arm", ours, *_private_bars(epsilon, ours, fedadam, local, barred=barred))


def test_bars_are_about_the_same_splits_and_miss_what_is_below_them() -> None:
    fedadam, local = scores(0.80, 0.82), scores(0.77, 0.77)
    good = scores(0.78, 0.79, epsilon=0.999)
    assert row_of(1.0, good, fedadam, local, barred=True).holds
    values = {one.what: one.value for one in row_of(1.0, good, fedadam, local, barred=True).figures}
    assert values["accuracy below FedAdam, paired"] == pytest.approx(0.025)
    assert values["accuracy below FedAdam, standard error"] == pytest.approx(0.005)
    assert values["mean balanced accuracy"] == pytest.approx(0.775)
    for missed in (
        scores(0.77, 0.78, epsilon=0.999),
        scores(0.78, 0.79, auc=0.83, epsilon=0.999),
        scores(0.78, 0.79, epsilon=1.01),
    ):
        assert not row_of(1.0, missed, fedadam, local, barred=True).holds
    assert row_of(1.0, scores(0.5, 0.6, epsilon=0.9), fedadam, local, barred=False).holds
    assert row_of(0.1, scores(0.76, 0.76, epsilon=0.1), fedadam, local, barred=True).holds
    assert not row_of(0.1, scores(0.75, 0.76, epsilon=0.1), fedadam, local, barred=True).holds
    assert row_of(0.05, scores(0.79, 0.80, epsilon=0.05), fedadam, local, barred=True).holds
    assert not row_of(0.05, scores(0.78, 0.79, epsilon=0.05), fedadam, local, barred=True).holds
    pooled = scores(0.78, 0.81)
    for accuracies, holds in (((0.765, 0.79), True), ((0.755, 0.79), False), ((0.74, 0.77), False)):
        ours = scores(*accuracies)
        assert _row("arm", ours, *_against_pooled(ours, pooled, barred=True)).holds is holds


@pytest.mark.slow
def test_rows_stand_beside_what_was_published(bench: Bench, tmp_path: Path) -> None:
    rows = [*plain(bench), *private(bench)]
    names = [row.name for row in rows]
    assert names[:3] == [f"FLamby's {name}, per hospital" for name in PUBLISHED]
    assert len(set(names)) == len(names)
    for epsilon in EPSILONS:
        assert f"distributed, epsilon {epsilon:g}, securely pooled" in names
    barred = {row.name for row in rows if any(one.limited for one in row.figures)}
    assert "FedAdam, fixed constants" in barred and "FedAdam, per hospital" not in barred
    row = next(row for row in rows if row.name == "FedAdam, fixed constants")
    values = {one.what: one.value for one in row.figures}
    own = bench.scores(FEDADAM["fixed"], "fixed")
    assert values["mean accuracy"] == pytest.approx(own.accuracy.mean())
    assert values["accuracy, split 0"] == own.accuracy[0]
    plot_heart(rows, tmp_path / "heart.png")
    assert (tmp_path / "heart.png").read_bytes().startswith(b"\x89PNG")


def test_without_the_files_it_says_where_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=r"processed\.va\.data.*archive\.ics\.uci\.edu"):
        parts_for(tmp_path)
    monkeypatch.delenv("CODEX_RAY_DATA", raising=False)
    assert main(["bench", "heart"]) == 2
    assert "archive.ics.uci.edu" in capsys.readouterr().err


@pytest.mark.data
def test_the_real_files_are_those_of_fed_heart_disease() -> None:
    real = Bench(heart_files(Path(os.environ["CODEX_RAY_DATA"])), SPLITS[:1])
    data = real.data("fixed")[0]
    sizes = [len(data.client(client)) for client in range(4)]
    assert sum(sizes) + len(data.test()) == sum(RECORDS) == 740
    assert sizes == [200, 172, 30, 86]


@pytest.mark.data
@pytest.mark.slow
def test_every_bar_holds_on_the_real_files() -> None:
    parts = parts_for(Path(os.environ["CODEX_RAY_DATA"]))
    rows = [row for name in ("plain", "private") for row in parts[name](1.0)]
    limited = [row for row in rows if any(one.limited for one in row.figures)]
    assert len(limited) >= 8
    assert [row.name for row in limited if not row.holds] == []
