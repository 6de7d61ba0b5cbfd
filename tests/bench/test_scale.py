"""Growth is the slope that it says, and pictures are drawn of what was measured."""

from __future__ import annotations

import math

import numpy as np
import pytest

from codex_ray.bench.bars import Figure, Row
from codex_ray.bench.parts import measured
from codex_ray.bench.plots import plot_round, plot_scale, plot_train
from codex_ray.bench.scale import PARTS, _growth, _of_populations, slope
from codex_ray.bench.whole_rounds import Cost
from codex_ray.errors import ConfigError

PNG = b"\x89PNG"


def cost(cpu: float, wall: float = 1.0) -> Cost:
    return Cost(wall, {"hosts": cpu}, {}, 1)


def test_a_slope_and_its_error_are_those_of_least_squares() -> None:
    rng = np.random.default_rng(0)
    x = np.repeat([100.0, 1000.0, 10_000.0], 4)
    y = 0.3 * x**0.97 * np.exp(0.02 * rng.standard_normal(len(x)))
    found, error = slope(list(zip(x, y, strict=True)))
    fit, covariance = np.polyfit(np.log(x), np.log(y), 1, cov=True)
    assert found == pytest.approx(fit[0]) and error == pytest.approx(math.sqrt(covariance[0, 0]))
    assert math.isnan(slope([(1.0, 1.0), (1.0, 2.0)])[0])
    assert math.isnan(slope([(1.0, 1.0), (2.0, 2.0)])[1])


def growth(power: float) -> Row:
    points = {n: ([cost(n**power), cost(1.01 * n**power)], 10**9) for n in (100, 1000, 10_000)}
    return _growth("logistic", 2, points)


def test_a_bar_on_growth_can_be_missed() -> None:
    assert growth(1.0).holds and growth(0.96).holds
    assert not growth(1.06).holds and not growth(0.94).holds


def populations(slower: float, more: float) -> Row:
    costs = {1000: [cost(1.0)] * 3, 1_000_000: [cost(slower)] * 3}
    held = {1000: [10**8] * 3, 1_000_000: [int(10**8 + more)] * 3}
    return _of_populations(costs, held, {1000: 1, 1_000_000: 2})


def test_bars_on_populations_can_be_missed() -> None:
    assert populations(1.04, 1e8).holds
    assert not populations(1.06, 1e8).holds and not populations(1.04, 3e8).holds


def test_what_was_measured_is_drawn(tmp_path) -> None:
    out = tmp_path / "picture.png"
    plot_scale([growth(1.0), populations(1.0, 0.0)], out)
    assert out.read_bytes().startswith(PNG)
    stages = (Figure("train, CPU s a round", 2.0), Figure("sum, CPU s a round", 1.0))
    plot_round([Row("cnn", "", "", stages), Row("other", "", "", ())], tmp_path / "round.png")
    assert (tmp_path / "round.png").read_bytes().startswith(PNG)
    rates = (Figure("bare, clients a CPU second", 80.0), Figure("plan, clients a CPU second", 99.0))
    plot_train([Row("cnn, sgd", "", "", rates)], tmp_path / "train.png")
    assert (tmp_path / "train.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize("plot", [plot_train, plot_round, plot_scale])
def test_nothing_cannot_be_drawn(plot, tmp_path) -> None:
    with pytest.raises(ConfigError, match="--plot: nothing that was measured can be drawn"):
        plot([Row("a", "", "", (Figure("b", 1.0),))], tmp_path / "out.png")
    rates = (Figure("bare, clients a CPU second", 80.0),)
    with pytest.raises(ConfigError, match="cannot be written"):
        plot_train([Row("cnn", "", "", rates)], tmp_path / "nowhere" / "out.png")


def test_the_parts_are_those_that_can_be_asked_for() -> None:
    assert list(PARTS) == ["cohorts", "populations"]


@pytest.mark.slow
def test_scale_is_measured_over_ray() -> None:
    rows = measured(PARTS, list(PARTS), scale=0.02)
    assert len(rows) == 3
    values = {one.what: one.value for row in rows for one in row.figures}
    assert values["1000000 population, CPU s a round"] > 0
    assert all(value > 1e8 for what, value in values.items() if "coordinator, bytes" in what[-18:])
