"""The privacy benchmark measures what it says, and every bar in it can be missed."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial

import pytest

from codex_ray.bench import privacy_accounts, privacy_samplers
from codex_ray.bench.bars import Figure, Row, at_least, at_most, fewer, held, near, near_share
from codex_ray.bench.parts import measured
from codex_ray.bench.privacy import PARTS
from codex_ray.bench.published_noise import published
from codex_ray.cli import main
from codex_ray.learning import clipped_sums, kernel_agreement
from codex_ray.learning.second_opinion import prv_epsilon


def test_a_figure_holds_within_its_limits_and_no_number_never_does() -> None:
    assert near("x", 1.02, 1.0, within=0.02).holds and not near("x", 1.03, 1.0, within=0.02).holds
    assert near_share("x", 49.6, 50, share=0.01).holds
    assert not near_share("x", 50.6, 50, share=0.01).holds
    assert at_most("x", 2.0, 2.0).holds and not at_most("x", 2.1, 2.0).holds
    assert at_least("x", 2.0, 2.0).holds and not at_least("x", 1.9, 2.0).holds
    assert not at_most("x", math.nan, 2.0).holds and not at_least("x", math.nan, 2.0).holds
    told = Figure("x", 7.0)
    assert told.holds and not told.limited
    assert held([told, at_most("y", 1, 2), at_most("z", 3, 2)]) == "1 of 2"


def test_a_row_holds_if_all_its_figures_do_and_one_of_them_could_have_failed() -> None:
    row = Row("n", "f", "b", (at_most("x", 1, 2), Figure("y", 9)))
    assert row.holds
    assert not replace(row, figures=(*row.figures, at_least("z", 1, 2))).holds
    assert not replace(row, figures=(Figure("y", 9),)).holds
    written = replace(row, seconds=1.23456).to_json()
    assert (written["holds"], written["seconds"]) == (True, 1.235)
    assert written["figures"][0] == {
        "what": "x", "value": 1, "low": None, "high": 2, "holds": True
    }  # fmt: skip
    assert Figure("x", math.inf).to_json()["value"] == "inf"


def test_scaling_down_leaves_something_to_measure() -> None:
    assert fewer(20, 1.0, least=2) == 20
    assert fewer(20, 0.5, least=2) == 10
    assert fewer(20, 0.01, least=2) == 2


def test_every_accountant_is_within_its_bar() -> None:
    rows = {row.name: row for row in measured(PARTS, ["accountants"])}
    assert len(rows) == 5 and all(row.holds for row in rows.values())
    figures = {name: row.figures[0] for name, row in rows.items()}
    assert (figures["epsilon by PLD"].low, figures["epsilon by PLD"].high) == (
        pytest.approx(1.826),
        pytest.approx(1.830),
    )
    assert (figures["epsilon by PRV"].low, figures["epsilon by PRV"].high) == (1.82, 1.85)
    assert figures["epsilon by RDP"].value > figures["epsilon by PLD"].value
    assert figures["epsilon, replace-one"].value > 1.5 * figures["epsilon by PLD"].value


def test_another_setting_misses_the_accountants_bars(monkeypatch) -> None:
    monkeypatch.setattr(privacy_accounts, "STEPS", 990)
    monkeypatch.setattr(privacy_accounts, "PARTICIPATIONS", 11)
    assert [row.holds for row in measured(PARTS, ["accountants"])] == [
        False,
        False,
        True,
        False,
        False,
    ]
    monkeypatch.setattr(privacy_accounts, "STEPS", 900)
    assert not any(row.holds for row in measured(PARTS, ["accountants"]))


def test_prv_counts_steps_and_noise() -> None:
    of = partial(prv_epsilon, sampling_rate=0.01, delta=1e-5)
    assert of(2.0, steps=100) < of(1.0, steps=100) < of(1.0, steps=400)


def test_calibrations_are_those_that_were_published(monkeypatch) -> None:
    rows = measured(PARTS, ["calibrations"], scale=0.1)
    assert [row.holds for row in rows] == [True] * 5
    louder = [replace(one, noise=1.02 * one.noise) for one in published()]
    monkeypatch.setattr(privacy_accounts, "published", lambda: louder)
    assert [row.holds for row in measured(PARTS, ["calibrations"], scale=0.1)] == [False] * 5
    monkeypatch.undo()
    monkeypatch.setattr(privacy_accounts, "CALIBRATION_SECONDS", 0.0)
    assert not any(row.holds for row in measured(PARTS, ["calibrations"], scale=0.1))


def test_the_kernel_agrees_with_opacus_and_with_itself() -> None:
    against, cut = measured(PARTS, ["kernel"], scale=0.1)
    assert against.holds and cut.holds
    assert len(against.figures) == 12 and len(cut.figures) == 8
    assert {one.high for one in against.figures} == {2e-5}
    assert {one.high for one in cut.figures} == {1e-6}


def test_a_kernel_that_clips_otherwise_does_not(monkeypatch) -> None:
    monkeypatch.setattr(clipped_sums, "OFFSET", 1e-3)
    against, _ = measured(PARTS, ["kernel"], scale=0.1)
    assert not against.holds
    monkeypatch.undo()
    honest = kernel_agreement.clipped_sum

    def adrift(model, params, *, features, labels, **means):
        found, clipping = honest(model, params, features=features, labels=labels, **means)
        return found * (1 + 1e-7 * len(labels)), clipping

    monkeypatch.setattr(kernel_agreement, "clipped_sum", adrift)
    against, cut = measured(PARTS, ["kernel"], scale=0.1)
    assert against.holds and not cut.holds


def test_samplers_are_timed_at_each_width(monkeypatch) -> None:
    rows = measured(PARTS, ["samplers"], scale=0.01)
    assert [len(row.figures) for row in rows] == [6, 6]
    assert all(one.value > 0 for row in rows for one in row.figures)
    assert "1e4 draws" in rows[0].name
    monkeypatch.setattr(privacy_samplers, "MOST_MILLISECONDS", 1e-6)
    assert not any(row.holds for row in measured(PARTS, ["samplers"], scale=0.01))


def test_rows_are_watched_and_timed() -> None:
    def part(scale):
        sum(range(3_000_000))
        yield Row("a", "", "", ())
        yield Row("b", f"{scale}", "", ())

    seen: list[Row] = []
    rows = measured({"part": part}, ["part"], scale=0.5, watch=seen.append)
    assert rows == seen and [row.name for row in rows] == ["a", "b"]
    assert rows[0].seconds >= 0.01 and rows[1].seconds <= rows[0].seconds
    assert rows[1].found == "0.5"


def test_the_command_prints_a_table_and_writes_the_figures(tmp_path, capsys) -> None:
    out = tmp_path / "figures.json"
    asked = ["--only", "samplers", "--only", "calibrations", "--scale", "0.01"]
    assert main(["bench", "privacy", *asked, "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "Privacy, against its bars" in printed and "holds" not in printed
    written = json.loads(out.read_text())
    assert written["scale"] == 0.01 and len(written["rows"]) == 7
    assert all(row["holds"] for row in written["rows"] if "noise" in row["name"])


def test_the_table_says_what_holds(capsys) -> None:
    assert main(["bench", "privacy", "--only", "accountants"]) == 0
    assert capsys.readouterr().out.count("holds") == 5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "nonsense"], f"there is no nonsense: choose of {', '.join(PARTS)}"),
        (["--scale", "0"], "--scale is 0: give a factor above 0 and up to 1"),
    ],
)
def test_wrong_arguments_are_one_clear_line(arguments, said, capsys) -> None:
    assert main(["bench", "privacy", *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_several_hosts_give_the_model_of_one_process() -> None:
    (row,) = measured(PARTS, ["hosts"])
    assert row.holds and row.found == "the same to the bit"
