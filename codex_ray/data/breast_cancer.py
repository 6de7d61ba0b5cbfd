"""The Wisconsin breast-cancer records, split over hospitals that see different patients."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from codex_ray.data.dataset import FederatedDataset, Records
from codex_ray.data.in_memory import InMemory, as_records
from codex_ray.data.partition import check_sizes, dirichlet_split, draw_sizes, stratified_holdout
from codex_ray.data.scaling import PublicScaling, Ranges
from codex_ray.errors import DataError
from codex_ray.randomness import SeedTree
from codex_ray.types import Component

NUCLEI = (
    "radius",
    "texture",
    "perimeter",
    "area",
    "smoothness",
    "compactness",
    "concavity",
    "concave points",
    "symmetry",
    "fractal dimension",
)


def _load() -> tuple[list[str], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Feature names, values [569, 30] and labels [569], 1 = malignant (0 in scikit-learn).

    The records are read from the file that scikit-learn ships, without importing scikit-learn: that
    takes longer than everything else a host does before its first round, and a host needs no more
    of it.
    """
    found = find_spec("sklearn")
    if found is None or found.origin is None:
        raise DataError("data: the breast-cancer records come with scikit-learn: install it")
    file = Path(found.origin).parent / "datasets" / "data" / "breast_cancer.csv"
    try:
        rows = np.loadtxt(file, delimiter=",", skiprows=1)
    except OSError as error:
        raise DataError(f"data: {file} cannot be read: reinstall scikit-learn") from error
    names = [f"mean {what}" for what in NUCLEI]
    names += [f"{what} error" for what in NUCLEI]
    names += [f"worst {what}" for what in NUCLEI]
    return names, rows[:, :-1], 1 - rows[:, -1].astype(np.int64)


class BreastCancer(Component):
    """569 fine-needle aspirates, 212 of them malignant (label 1), bundled with scikit-learn.

    The pooled test set is drawn first, with the labels' own proportions. Then every hospital draws
    its number of records and its share of malignant ones. All draws come from public streams.
    """

    kind: Literal["breast_cancer"] = "breast_cancer"
    clients: int = Field(10, ge=1, description="How many hospitals hold the records.")
    records: tuple[int, int] = Field(
        (20, 80),
        description="Fewest and most records of a hospital, drawn uniformly; when the hospitals "
        "ask for more than the pool holds, what each has above the fewest shrinks by one common "
        "factor.",
    )
    label_skew: float = Field(
        0.5,
        gt=0,
        description="Dirichlet parameter of a hospital's share of malignant records: "
        "0.1 gives hospitals with one label, 100 the same share to all.",
    )
    test_records: int = Field(
        120, ge=1, description="Size of the pooled test set, drawn first and held by no hospital."
    )
    ranges: Ranges = Field(
        description="Public range of each chosen feature, as name: [low, high], by which it is "
        "scaled to [-1, 1] and clipped. Only the features named here are used, in this order."
    )

    @model_validator(mode="after")
    def _bounds(self) -> BreastCancer:
        check_sizes(self.records, field="data.records")
        return self

    def open(self, public: SeedTree) -> FederatedDataset:
        """The hospitals and the test set of this seed.

        Raises:
            ConfigError: a range names no feature.
            DataError: there are too few records for so many hospitals.
        """
        names, values, labels = _load()
        features = PublicScaling.of(self.ranges, names, where=self.kind)
        scaled = features.scale(values[:, features.columns])

        def rng(purpose: str) -> np.random.Generator:
            return public.stream("data", self.kind, purpose).numpy()

        def records(indices: npt.NDArray[np.int64], where: str) -> Records:
            return as_records(scaled[indices], labels[indices], where=f"breast_cancer, {where}")

        test, pool = stratified_holdout(labels, self.test_records, rng=rng("test"))
        sizes = draw_sizes(self.clients, self.records, pool=len(pool), rng=rng("sizes"))
        split = dirichlet_split(labels[pool], sizes, alpha=self.label_skew, rng=rng("labels"))
        hospitals = [
            records(pool[indices], f"hospital {client}") for client, indices in enumerate(split)
        ]
        return InMemory(hospitals, records(test, "test set"))
