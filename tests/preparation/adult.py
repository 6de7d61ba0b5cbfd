"""UCI Adult: its schema, and a twin with the same columns for where the file is not at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np


def words(text: str) -> list[str]:
    """The words of a text."""
    return text.split()


EDUCATION = {
    "school": {
        "early": ["Preschool", "1st-4th", "5th-6th", "7th-8th"],
        "late": ["9th", "10th", "11th", "12th"],
    },
    "finished": {
        "graduate": ["HS-grad"],
        "some": ["Some-college", "Assoc-voc", "Assoc-acdm"],
    },
    "degree": {"first": ["Bachelors"], "higher": ["Masters", "Prof-school", "Doctorate"]},
}
WORK = words(
    "Private Self-emp-not-inc Self-emp-inc Federal-gov Local-gov State-gov Without-pay Never-worked"
)
MARITAL = words(
    "Married-civ-spouse Divorced Never-married Separated Widowed Married-spouse-absent "
    "Married-AF-spouse"
)
OCCUPATION = words(
    "Tech-support Craft-repair Other-service Sales Exec-managerial Prof-specialty "
    "Handlers-cleaners Machine-op-inspct Adm-clerical Farming-fishing Transport-moving "
    "Priv-house-serv Protective-serv Armed-Forces"
)
RELATION = words("Wife Own-child Husband Not-in-family Other-relative Unmarried")
RACE = words("White Asian-Pac-Islander Amer-Indian-Eskimo Other Black")
COUNTRY = words(
    "United-States Canada Puerto-Rico Outlying-US(Guam-USVI-etc) Mexico Cuba Jamaica Haiti "
    "Dominican-Republic Trinadad&Tobago Guatemala Honduras El-Salvador Nicaragua Columbia Ecuador "
    "Peru England Ireland Scotland Germany France Italy Portugal Greece Poland Hungary Yugoslavia "
    "Holand-Netherlands India Iran China Japan Taiwan Hong South Philippines Vietnam Cambodia "
    "Thailand Laos"
)
NAMES = [
    *("age", "workclass", "fnlwgt", "education", "education-num", "marital-status", "occupation"),
    *("relationship", "race", "sex", "capital-gain", "capital-loss", "hours-per-week"),
    *("native-country", "income"),
]
QUASI = ("age", "education", "race", "sex", "native-country")
SENSITIVE = ("occupation", "income")


def adult_schema(file: Path, **changed: Any) -> dict[str, Any]:
    """Ten clients with k = 10 and l = 2; fnlwgt stands for a direct identifier."""

    def category(role: str, values: list[str], **more: Any) -> dict[str, Any]:
        return {"type": "category", "role": role, "values": values, **more}

    columns = {
        "age": {"type": "integer", "role": "quasi_identifier", "range": [17, 90]},
        "workclass": category("feature", WORK, required=False),
        "fnlwgt": {"type": "text", "role": "identifier", "pseudonym": True},
        "education": {
            "type": "category", "role": "quasi_identifier", "hierarchy": EDUCATION,
        },
        "education-num": {"type": "integer", "role": "drop"},
        "marital-status": category("feature", MARITAL),
        "occupation": category("sensitive", OCCUPATION, required=False),
        "relationship": category("feature", RELATION),
        "race": category("quasi_identifier", RACE),
        "sex": category("quasi_identifier", ["Female", "Male"]),
        "capital-gain": {"type": "number", "role": "feature", "range": [0, 100000]},
        "capital-loss": {"type": "number", "role": "feature", "range": [0, 5000]},
        "hours-per-week": {"type": "integer", "role": "feature", "range": [0, 100]},
        "native-country": category("quasi_identifier", COUNTRY, required=False),
        "income": category("label", ["<=50K", ">50K"]),
    }  # fmt: skip
    return {
        "name": "adult",
        "purpose": "income-study",
        "consents": {"census": ["income-study"]},
        "consent": "census",
        "missing": ["?"],
        "columns": columns,
        "anonymity": {"k": 10, "l": 2},
        "source": {"kind": "csv", "files": str(file), "names": NAMES},
        "clients": {"kind": "iid", "clients": 10, "seed": 1},
    } | changed


def write_twin(file: Path, *, records: int, seed: int = 0) -> Path:
    """A file with the columns of Adult, in which age, education and hours tell of the income."""
    rng = np.random.default_rng(seed)
    levels = [v for part in EDUCATION.values() for values in part.values() for v in values]
    age = np.clip(rng.gamma(6, 6.5, records), 17, 90).astype(int)
    level = np.minimum(rng.binomial(len(levels), 0.6, records), len(levels) - 1)
    hours = np.clip(rng.normal(40, 12, records), 1, 99).astype(int)
    country = np.minimum(rng.geometric(0.6, records) - 1, len(COUNTRY) - 1)
    score = 0.04 * (age - 38) + 0.35 * (level - 9) + 0.03 * (hours - 40) - 1.0
    rich = rng.random(records) < 1 / (1 + np.exp(-2 * score))
    weight = rng.permutation(np.arange(100_000, 100_000 + 7 * records, 7))
    lines = []
    for i in range(records):
        lines.append(
            ", ".join(
                map(
                    str,
                    (
                        age[i],
                        "?" if rng.random() < 0.05 else WORK[rng.integers(len(WORK))],
                        f"{weight[i]}",
                        levels[level[i]],
                        level[i] + 1,
                        MARITAL[rng.integers(len(MARITAL))],
                        "?" if rng.random() < 0.05 else OCCUPATION[rng.integers(len(OCCUPATION))],
                        RELATION[rng.integers(len(RELATION))],
                        RACE[min(rng.geometric(0.8) - 1, 4)],
                        ("Female", "Male")[int(rng.random() < 0.67)],
                        int(rng.random() < 0.08) * int(rng.integers(100, 20000)),
                        0,
                        hours[i],
                        "?" if rng.random() < 0.02 else COUNTRY[country[i]],
                        ">50K" if rich[i] else "<=50K",
                    ),
                )
            )
        )
    file.write_text("\n".join(lines) + "\n")
    return file
