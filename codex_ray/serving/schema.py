"""What a model takes: numbers in their ranges, words out of a list, and nothing else.

A request is checked against it in full before a number reaches the model, and told where it is
wrong in the schema's own words: neither its values nor the names that it made up come back.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from codex_ray.serving.http import Refused

Features: TypeAlias = npt.NDArray[np.float32]
MOST_PROBLEMS: Final = 20
Kind: TypeAlias = Literal["number", "integer", "category", "date"]
_DAY_0: Final = date(1970, 1, 1).toordinal()
_WRITTEN: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


@dataclass(frozen=True)
class Feature:
    """One value of a record.

    Attributes:
        name: as the prepared data call it.
        low: the least it may be; of a category 0, and of a date in days since 1970-01-01.
        high: the most; of a category its number of values, less one.
        kind: "integer" refuses 1.5, and takes 1.0 for 1; a "category" is one of its values; a
            "date" is written YYYY-MM-DD.
        unit: in words, for people.
        values: of a category, in the order of their numbers from 0.
        may_lack: whether null will do, for a value that nobody knows.
    """

    name: str
    low: float = -1e6
    high: float = 1e6
    kind: Kind = "number"
    unit: str = ""
    values: tuple[str, ...] = ()
    may_lack: bool = False


@dataclass(frozen=True)
class InputSchema:
    """The features of a record in order, the shape they are given to the model in, and how many.

    Attributes:
        features: of one record.
        shape: of one record as the model takes it; its product is the number of features.
        most_records: in one request.
    """

    features: tuple[Feature, ...]
    shape: tuple[int, ...]
    most_records: int = 64

    def __post_init__(self) -> None:
        """Raises ValueError for a shape that is not that of the features, or names that repeat."""
        if int(np.prod(self.shape)) != len(self.features):
            raise ValueError(f"{len(self.features)} features do not fill the shape {self.shape}")
        if len({feature.name for feature in self.features}) < len(self.features):
            raise ValueError("two features have one name")

    @property
    def names(self) -> tuple[str, ...]:
        """Of the features, in order."""
        return tuple(feature.name for feature in self.features)

    def read(self, value: Any) -> Features:
        """The records of a request [n, *shape], float32, n from 1.

        A category is its number from 0, a date its days since 1970-01-01, and NaN is not known.

        Args:
            value: `{"records": [...]}`, each a list of numbers in order or an object by name.

        Raises:
            Refused: 422, and where in the schema it is wrong.
        """
        if not isinstance(value, dict) or set(value) != {"records"}:
            raise _wrong({"in": "body", "is": "not an object with records alone"})
        records = value["records"]
        if not isinstance(records, list) or not records:
            raise _wrong({"in": "records", "is": "not a list with something in it"})
        if len(records) > self.most_records:
            raise _wrong({"in": "records", "is": "too many", "most": self.most_records})
        problems: list[dict[str, Any]] = []
        rows = []
        for number, record in enumerate(records):
            rows.append(self._row(number, record, problems))
            if len(problems) >= MOST_PROBLEMS:
                break
        if problems:
            raise _wrong(*problems[:MOST_PROBLEMS])
        return np.asarray(rows, dtype=np.float32).reshape(len(rows), *self.shape)

    def _row(
        self, number: int, record: Any, problems: list[dict[str, Any]]
    ) -> Sequence[float] | None:
        values = self._in_order(record)
        if isinstance(values, str):
            problems.append({"in": "records", "at": number, "is": values})
            return None
        row = []
        for feature, value in zip(self.features, values, strict=True):
            if said := _problem(feature, value):
                where: dict[str, Any] = {"in": "records", "at": number, "feature": feature.name}
                problems.append({**where, **said})
                if len(problems) >= MOST_PROBLEMS:
                    return None
            else:
                row.append(_number(feature, value))
        return row

    def _in_order(self, record: Any) -> Sequence[Any] | str:
        """A record's values in the order of the features, or what is wrong with it."""
        if isinstance(record, dict):
            unknown = record.keys() - set(self.names)
            missing = [name for name in self.names if name not in record]
            if unknown:
                return "has a field that is no feature"
            if missing:
                return "lacks a feature"
            return [record[name] for name in self.names]
        if not isinstance(record, list):
            return "neither a list nor an object"
        return record if len(record) == len(self.features) else "not as many values as features"


def _problem(feature: Feature, value: Any) -> Mapping[str, Any] | None:
    """What is wrong with a value; None if nothing is."""
    if value is None and feature.may_lack:
        return None
    if feature.kind == "category":
        if isinstance(value, str) and value in feature.values:
            return None
        return {"is": "not one of its values", "values": list(feature.values[:MOST_PROBLEMS])}
    if feature.kind == "date":
        day = _day(value)
        if day is not None and feature.low <= day <= feature.high:
            return None
        ends = {"low": written(feature.low), "high": written(feature.high)}
        return {"is": "not a date YYYY-MM-DD" if day is None else "out of range", **ends}
    if isinstance(value, bool) or not isinstance(value, int | float):
        return {"is": "not a number"}
    # A comparison with NaN is False, so that it fails here as well.
    if not feature.low <= value <= feature.high:
        return {"is": "out of range", "low": feature.low, "high": feature.high}
    if feature.kind == "integer" and value != int(value):
        return {"is": "not an integer"}
    return None


def _number(feature: Feature, value: Any) -> float:
    """What stands for a value in which nothing is wrong."""
    if value is None:
        return math.nan
    if feature.kind == "date":
        return float(_day(value) or 0)
    return float(feature.values.index(value) if feature.kind == "category" else value)


def written(day: float) -> str:
    """A day, counted from 1970-01-01, as YYYY-MM-DD."""
    return date.fromordinal(_DAY_0 + int(day)).isoformat()


def _day(value: Any) -> int | None:
    """The day that a text says; None if it says none."""
    if not isinstance(value, str) or not _WRITTEN.fullmatch(value):
        return None
    try:
        return date.fromisoformat(value).toordinal() - _DAY_0
    except ValueError:
        return None


def _wrong(*problems: Mapping[str, Any]) -> Refused:
    return Refused(422, "input_refused", problems=problems)
