"""The label as a class from 0, whatever its column holds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from codex_ray.data.prepared_manifest import Label
from codex_ray.preparation.cells import Cells
from codex_ray.preparation.column import Column


def label_of(name: str, column: Column) -> Label:
    """How many classes there are, and what they are called."""
    if column.type in ("category", "flag"):
        return Label(name=name, classes=len(column.options), values=column.options)
    if column.positive_above is not None:
        above = f"above {column.positive_above:g}"
        return Label(name=name, classes=2, values=(f"not {above}", above))
    classes = int(column.ends[1]) + 1
    return Label(name=name, classes=classes, values=tuple(map(str, range(classes))))


def classes_of(column: Column, values: Cells) -> npt.NDArray[np.int64]:
    """The class of each checked value [n]; a missing one, which was told of, is class 0."""
    assert not isinstance(values, pa.Array)
    if column.positive_above is not None:
        with np.errstate(invalid="ignore"):
            return (values > column.positive_above).astype(np.int64)
    return np.nan_to_num(np.maximum(values, 0)).astype(np.int64)
