"""The four hospitals of UCI Heart Disease as FLamby has them, and the splits that are measured on.

Ten columns, of which a number of each; records that lack one are left out, which leaves 303, 261,
46 and 130 of them (FLamby, Ogier du Terrail et al. 2022, Fed-Heart-Disease). A third of each
hospital's records is the test set, with the hospital's own share of ill people.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

from codex_ray.errors import ConfigError

Scaling = Literal["fixed", "pooled", "per_client"]
SCALINGS: Final[dict[Scaling, str]] = {
    "fixed": "fixed constants",
    "pooled": "securely pooled",
    "per_client": "per hospital",
}
SPLITS: Final = tuple(range(1000, 1020))
"""Seeds of the twenty splits that figures are from; nothing was chosen on them."""
CHOOSING: Final = tuple(range(2000, 2010))
"""Seeds of the splits that settings were chosen on: other splits, of the same records."""
TEST_FRACTION: Final = 0.34
NAMES: Final = ("cleveland", "hungarian", "switzerland", "va")
RECORDS: Final = (303, 261, 46, 130)
UCI: Final = "https://archive.ics.uci.edu/dataset/45/heart+disease"

RANGES: Final[dict[int, tuple[float, float]]] = {
    0: (20, 80),  # age, years
    1: (0, 1),  # male
    2: (1, 4),  # kind of chest pain, from typical angina to none
    3: (80, 200),  # blood pressure at rest, mmHg
    4: (0, 610),  # cholesterol, mg/dl; 0 where nobody measured it
    5: (0, 1),  # fasting blood sugar above 120 mg/dl
    6: (0, 2),  # electrocardiogram at rest
    7: (60, 220),  # highest heart rate reached
    8: (0, 1),  # angina when exercising
    9: (-3, 7),  # ST depression by exercise, mm
}
"""What each column may hold: nothing is cut by it."""
CONSTANTS: Final[dict[int, tuple[float, float]]] = {
    0: (45, 65),
    1: (0, 1),
    2: (2, 4),
    3: (110, 150),
    4: (100, 400),
    5: (-1, 1),
    6: (-2, 2),
    7: (120, 160),
    8: (0, 1),
    9: (0, 2),
}
"""Round numbers around what is usual, which becomes 0 or near it, while -1 and 1, at which values
are cut, are not rare: so a column takes of a record's norm about what it has to say."""
ALL: Final = tuple(RANGES)
TELLING: Final = (0, 1, 2, 7, 8, 9)
"""Columns that say most: every other one would be noised as well."""


def heart_files(folder: Path | None) -> str:
    """The pattern that finds the four files under a folder, or in it.

    Raises:
        ConfigError: there is no such folder, or the files are not there; it says how to get them.
    """
    places = [] if folder is None else [folder / "heart", folder]
    for place in places:
        if all((place / f"processed.{name}.data").is_file() for name in NAMES):
            return str(place / "processed.*.data")
    where = "no folder is named" if folder is None else f"{folder}: does not hold them"
    wanted = ", ".join(f"processed.{name}.data" for name in NAMES)
    raise ConfigError(
        f"heart needs the four files {wanted}: {where}. Download heart+disease.zip from {UCI} "
        "(CC BY 4.0), unpack it into a folder heart, and give the folder that heart lies in as "
        "--data DIR or CODEX_RAY_DATA. For a look without them: python -m "
        "codex_ray.bench.heart_disease_twin DIR makes files like them, of nobody"
    )


def data_section(
    files: str, scaling: Scaling, *, noise: float | None = None, columns: tuple[int, ...] = ALL
) -> dict[str, Any]:
    """The section `data` of an experiment on these files.

    Args:
        files: the pattern that finds them.
        scaling: by whose figures.
        noise: the noise multiplier of figures that are released, where a claim needs it; they are
            then of values that are cut to the constants, where noise moves them less.
        columns: that are used.
    """
    constants = scaling == "fixed" or noise is not None
    ranges = CONSTANTS if constants else RANGES
    return {
        "kind": "csv",
        "files": files,
        "header": False,
        "label": "13",
        "ranges": {str(column): list(ranges[column]) for column in columns},
        "missing": "drop",
        "positive_above": 0,
        "test_fraction": TEST_FRACTION,
        "prepare": {"scaling": scaling, "noise_multiplier": noise},
    }
