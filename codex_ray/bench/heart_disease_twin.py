"""Four files like those of UCI Heart Disease, drawn from a few rounded figures: nobody's records.

What is kept of the real files is what preparing and learning meet: how many patients a hospital
saw, how many of them were ill, roughly where each column lies and how it leans with illness, which
columns a hospital hardly filled in, and in what handwriting ("63.0", "28", ".7", "?"). A record is
drawn column by column from that, so none is a copy of a person.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from codex_ray.randomness import Randomness

Values = npt.NDArray[np.float64]
Shares = tuple[tuple[float, ...], tuple[float, ...]]
"""How often each value occurs, among the healthy and among the ill."""

COLUMNS: Final = (
    *("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak"),
    *("slope", "ca", "thal", "num"),
)
LINES: Final = ("age", "trestbps", "chol", "thalach", "oldpeak")
"""Columns on a line, in the order of every tuple of figures below."""
LEANS: Final = (3.5, 6.0, 14.0, -15.0, 0.95)
"""By how much the ill differ from the healthy, in every hospital."""
SPREADS: Final = (8.5, 18.0, 56.0, 22.0, 1.0)
"""Standard deviations."""
LEAST: Final = (28.0, 80.0, 85.0, 60.0, 0.0)
MOST: Final = (77.0, 200.0, 603.0, 202.0, 6.2)
TOGETHER: Final = (
    (1.0, 0.2, 0.05, -0.28, 0.18),
    (0.2, 1.0, 0.07, -0.07, 0.14),
    (0.05, 0.07, 1.0, 0.0, 0.0),
    (-0.28, -0.07, 0.0, 1.0, -0.1),
    (0.18, 0.14, 0.0, -0.1, 1.0),
)
"""Correlations of these columns among people of the same state."""
CHOICES: Final[dict[str, tuple[int, ...]]] = {
    "sex": (0, 1),
    "cp": (1, 2, 3, 4),
    "fbs": (0, 1),
    "restecg": (0, 1, 2),
    "exang": (0, 1),
    "slope": (1, 2, 3),
    "ca": (0, 1, 2, 3),
    "thal": (3, 6, 7),
}
SLOPE: Final[Shares] = ((0.5, 0.44, 0.06), (0.25, 0.64, 0.11))
VESSELS: Final[Shares] = ((0.8, 0.13, 0.05, 0.02), (0.33, 0.32, 0.22, 0.13))
THAL: Final[Shares] = ((0.75, 0.06, 0.19), (0.25, 0.13, 0.62))


@dataclass(frozen=True)
class Hospital:
    """What is known of a hospital's file.

    Attributes:
        name: as in the name of the file.
        grades: how many patients have each grade of illness, from 0 (healthy) to 4.
        centres: of the columns on a line, among the healthy.
        shares: of the values of the columns with choices.
        absent: the share of missing values by column; what is not named is always there.
        unexercised: the share of patients without an exercise test, and so without any of its
            columns.
        no_cholesterol: the share whose cholesterol stands as 0, because nobody measured it.
        decimals: whether whole numbers are written with a decimal.
        bare: whether the zero before a decimal point is left out.
        absence: how a missing value is written.
    """

    name: str
    grades: tuple[int, int, int, int, int]
    centres: tuple[float, float, float, float, float]
    shares: dict[str, Shares]
    absent: dict[str, float] = field(default_factory=dict)
    unexercised: float = 0.0
    no_cholesterol: float = 0.0
    decimals: bool = False
    bare: bool = False
    absence: tuple[str, ...] = ("?",)


CLEVELAND: Final = Hospital(
    "cleveland",
    (164, 55, 36, 35, 13),
    (52.6, 129.0, 243.0, 158.0, 0.3),
    {
        "sex": ((0.44, 0.56), (0.18, 0.82)),
        "cp": ((0.1, 0.25, 0.41, 0.24), (0.05, 0.07, 0.13, 0.75)),
        "fbs": ((0.86, 0.14), (0.84, 0.16)),
        "restecg": ((0.58, 0.01, 0.41), (0.4, 0.02, 0.58)),
        "exang": ((0.86, 0.14), (0.45, 0.55)),
    },
    absent={"ca": 0.013, "thal": 0.007},
    decimals=True,
)
HUNGARIAN: Final = Hospital(
    "hungarian",
    (188, 106, 0, 0, 0),
    (46.5, 131.0, 244.0, 145.0, -0.2),
    {
        "sex": ((0.37, 0.63), (0.12, 0.88)),
        "cp": ((0.04, 0.52, 0.23, 0.21), (0.04, 0.09, 0.1, 0.77)),
        "fbs": ((0.96, 0.04), (0.88, 0.12)),
        "restecg": ((0.8, 0.17, 0.03), (0.8, 0.18, 0.02)),
        "exang": ((0.9, 0.1), (0.35, 0.65)),
    },
    absent={
        **{"trestbps": 0.004, "chol": 0.08, "fbs": 0.03, "restecg": 0.004, "thalach": 0.004},
        **{"exang": 0.004, "slope": 0.65, "ca": 0.99, "thal": 0.9},
    },
    absence=("?", "-9"),
)
SWITZERLAND: Final = Hospital(
    "switzerland",
    (8, 48, 32, 30, 5),
    (52.0, 125.0, 240.0, 136.0, -0.3),
    {
        "sex": ((0.1, 0.9), (0.09, 0.91)),
        "cp": ((0.05, 0.25, 0.4, 0.3), (0.03, 0.03, 0.12, 0.82)),
        "fbs": ((0.92, 0.08), (0.88, 0.12)),
        "restecg": ((0.68, 0.24, 0.08), (0.7, 0.24, 0.06)),
        "exang": ((0.85, 0.15), (0.54, 0.46)),
    },
    absent={
        **{"trestbps": 0.016, "fbs": 0.61, "restecg": 0.008, "thalach": 0.008, "exang": 0.008},
        **{"oldpeak": 0.05, "slope": 0.14, "ca": 0.96, "thal": 0.42},
    },
    no_cholesterol=1.0,
    bare=True,
)
VETERANS: Final = Hospital(
    "va",
    (51, 56, 41, 42, 10),
    (56.8, 130.0, 230.0, 130.0, 0.5),
    {
        "sex": ((0.05, 0.95), (0.03, 0.97)),
        "cp": ((0.06, 0.18, 0.31, 0.45), (0.03, 0.04, 0.2, 0.73)),
        "fbs": ((0.7, 0.3), (0.63, 0.37)),
        "restecg": ((0.37, 0.48, 0.15), (0.4, 0.46, 0.14)),
        "exang": ((0.62, 0.38), (0.3, 0.7)),
    },
    absent={"trestbps": 0.02, "chol": 0.035, "fbs": 0.035, "slope": 0.3, "ca": 0.99, "thal": 0.83},
    unexercised=0.265,
    no_cholesterol=0.25,
    bare=True,
)
HOSPITALS: Final = (CLEVELAND, HUNGARIAN, SWITZERLAND, VETERANS)
EXERCISE: Final = ("trestbps", "thalach", "exang", "oldpeak", "slope")
"""What a patient without an exercise test lacks at the veterans' hospital."""


def write_twin(folder: Path, *, seed: int = 0) -> list[Path]:
    """The four files, in `folder`/heart: the same for the same seed.

    Args:
        folder: made if it is not there; files of these names in it are replaced.
        seed: of all draws.
    """
    place = folder / "heart"
    place.mkdir(parents=True, exist_ok=True)
    written = []
    for hospital in HOSPITALS:
        rng = Randomness.of(seed).public.stream("heart_disease_twin", hospital.name).numpy()
        path = place / f"processed.{hospital.name}.data"
        path.write_text("".join(f"{line}\n" for line in _lines(hospital, rng)), encoding="utf-8")
        written.append(path)
    return written


def _lines(hospital: Hospital, rng: np.random.Generator) -> list[str]:
    """The file's lines: its patients in random order."""
    grades = rng.permutation(np.repeat(np.arange(5), hospital.grades))
    drawn = _drawn(hospital, grades, rng)
    missing = _missing(hospital, len(grades), rng)
    rows = []
    for row in range(len(grades)):
        cells = []
        for place, name in enumerate(COLUMNS):
            if missing[row, place]:
                cells.append(hospital.absence[int(rng.integers(len(hospital.absence)))])
            elif name == "num":
                cells.append(str(grades[row]))
            else:
                cells.append(_written(float(drawn[row, place]), hospital))
        rows.append(",".join(cells))
    return rows


def _drawn(hospital: Hospital, grades: npt.NDArray[np.int64], rng: np.random.Generator) -> Values:
    """Every column but the label [n, 13], nothing missing yet."""
    ill = grades > 0
    found = np.empty((len(grades), len(COLUMNS) - 1))
    bent = np.linalg.cholesky(np.array(TOGETHER))
    noise = rng.standard_normal((len(grades), len(LINES))) @ bent.T
    for at, name in enumerate(LINES):
        values = hospital.centres[at] + LEANS[at] * ill + SPREADS[at] * noise[:, at]
        values = np.clip(values, LEAST[at], MOST[at])
        digits = 1 if name == "oldpeak" else 0
        found[:, COLUMNS.index(name)] = values.round(digits)
    if hospital.no_cholesterol:
        nobody = rng.random(len(grades)) < hospital.no_cholesterol
        found[nobody, COLUMNS.index("chol")] = 0.0
    shares = {"slope": SLOPE, "ca": VESSELS, "thal": THAL} | hospital.shares
    for name, values_of in CHOICES.items():
        for state in (False, True):
            who = np.flatnonzero(ill == state)
            picked = rng.choice(values_of, size=len(who), p=shares[name][int(state)])
            found[who, COLUMNS.index(name)] = picked
    return found


def _missing(hospital: Hospital, patients: int, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Which cells are empty [patients, 14]."""
    rates = np.array([hospital.absent.get(name, 0.0) for name in COLUMNS])
    found = rng.random((patients, len(COLUMNS))) < rates
    away = rng.random(patients) < hospital.unexercised
    for name in EXERCISE:
        found[:, COLUMNS.index(name)] |= away
    return found


def _written(value: float, hospital: Hospital) -> str:
    """A number as the hospital writes it."""
    if value.is_integer():
        return f"{value:.1f}" if hospital.decimals else f"{value:.0f}"
    said = f"{value:.1f}"
    return said.replace("0.", ".", 1) if hospital.bare and abs(value) < 1 else said


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the twin: `python -m codex_ray.bench.heart_disease_twin DIR`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="the files go into its subfolder heart")
    parser.add_argument("--seed", type=int, default=0, help="another twin (default: 0)")
    arguments = parser.parse_args(argv)
    for path in write_twin(Path(arguments.folder), seed=arguments.seed):
        print(path)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
