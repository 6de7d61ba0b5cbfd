"""What a model takes: so many numbers of one type in a range, and nothing else.

A request is checked against it in full before a number reaches the model, and told where it is
wrong in the schema's own words: neither its values nor the names that it made up come back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from codex_ray.serving.http import Refused

Features: TypeAlias = npt.NDArray[np.float32]
MOST_PROBLEMS: Final = 20


@dataclass(frozen=True)
class Feature:
    """One number of a record.

    Attributes:
        name: as the prepared data call it.
        low: the least it may be.
        high: the most.
        kind: "integer" refuses 1.5, and takes 1.0 for 1.
        unit: in words, for people.
    """

    name: str
    low: float = -1e6
    high: float = 1e6
    kind: Literal["number", "integer"] = "number"
    unit: str = ""


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
                row.append(float(value))
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
    if isinstance(value, bool) or not isinstance(value, int | float):
        return {"is": "not a number"}
    # A comparison with NaN is False, so that it fails here as well.
    if not feature.low <= value <= feature.high:
        return {"is": "out of range", "low": feature.low, "high": feature.high}
    if feature.kind == "integer" and value != int(value):
        return {"is": "not an integer"}
    return None


def _wrong(*problems: Mapping[str, Any]) -> Refused:
    return Refused(422, "input_refused", problems=problems)
