"""The generated files of four hospitals: like the real ones, and nobody's."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from codex_ray.bench.heart_disease_twin import COLUMNS, HOSPITALS, main, write_twin
from codex_ray.cli.data import read_schema
from codex_ray.preparation.prepare import prepare

ROOT = Path(__file__).resolve().parent.parent.parent
SCHEMA = str(ROOT / "experiments" / "heart_disease_schema.yaml")
ABSENT = ("?", "-9")
FIXED = 10
"""Columns that are used."""


def table(path: Path) -> np.ndarray:
    """The cells of a file as numbers, NaN where one is missing."""
    rows = [line.split(",") for line in path.read_text().splitlines() if line]
    return np.array([[np.nan if cell in ABSENT else float(cell) for cell in row] for row in rows])


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_twin(tmp_path_factory.mktemp("twin"))


def test_it_is_the_same_for_the_same_seed_and_another_for_another(
    twin: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path)]) == 0
    again = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in twin]
    other = write_twin(tmp_path, seed=1)
    assert all(a.read_bytes() != b.read_bytes() for a, b in zip(other, twin, strict=True))


def test_each_hospital_has_its_quirks(twin: list[Path]) -> None:
    texts = {path.name.split(".")[1]: path.read_text() for path in twin}
    assert [len(text.splitlines()) for text in texts.values()] == [303, 294, 123, 200]
    assert all(len(line.split(",")) == 14 for text in texts.values() for line in text.splitlines())
    assert ".0," in texts["cleveland"] and ".0," not in texts["hungarian"]
    assert ",-9," in texts["hungarian"] and ",?," in texts["hungarian"]
    assert ",-9," not in texts["va"]
    assert ",." in texts["switzerland"]
    chol = COLUMNS.index("chol")
    by_name = {path.name.split(".")[1]: table(path) for path in twin}
    assert (by_name["switzerland"][:, chol] == 0).all()
    assert not (by_name["cleveland"][:, chol] == 0).any()
    for hospital in HOSPITALS:
        grades = np.bincount(by_name[hospital.name][:, -1].astype(int), minlength=5)
        assert tuple(grades) == hospital.grades


def test_the_schema_prepares_it(twin: list[Path], tmp_path: Path) -> None:
    made = prepare(read_schema(SCHEMA, files=[str(path) for path in twin]), tmp_path / "prepared")
    assert [holding.records for holding in made.holdings] == [303, 294, 123, 200]
    assert all(h.figures is not None and h.figures.k >= 5 for h in made.holdings)


@pytest.mark.data
def test_it_is_like_the_real_files_and_copies_no_record(twin: list[Path]) -> None:
    folder = Path(os.environ["CODEX_RAY_DATA"]) / "heart"
    for path in twin:
        real, made = table(folder / path.name), table(path)
        assert real.shape == made.shape
        kept = {tuple(np.nan_to_num(row[:FIXED], nan=-1.0)) for row in real}
        assert not kept & {tuple(np.nan_to_num(row[:FIXED], nan=-1.0)) for row in made}
        gaps = np.abs(np.isnan(real).mean(0) - np.isnan(made).mean(0))
        assert gaps.max() < 0.12, (path.name, COLUMNS[int(gaps.argmax())])
        for state in (False, True):
            ours, theirs = made[(made[:, -1] > 0) == state], real[(real[:, -1] > 0) == state]
            if len(theirs) < 40:
                continue
            for place in range(FIXED):
                far = abs(np.nanmean(ours[:, place]) - np.nanmean(theirs[:, place]))
                spread = max(float(np.nanstd(theirs[:, place])), 0.1)
                assert far < 0.45 * spread, (path.name, COLUMNS[place], state)
