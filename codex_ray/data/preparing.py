"""`data.prepare`: by whose figures numbers are scaled and gaps are filled, and what these came to.

A run that pools its clients' figures writes them into its own configuration before round 0. From
there every host, a resumed run, a served model and whoever checks the certificate take them.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from codex_ray.errors import ConfigError
from codex_ray.types import Component

Scaling = Literal["fixed", "pooled", "per_client"]
Imputation = Literal["middle", "mean", "median"]


class Statistics(Component):
    """What a run found, in the units of the columns: one row for all, or one for each client."""

    columns: tuple[str, ...] = Field(description="Names of the columns [m].")
    centre: tuple[tuple[float, ...], ...] = Field(description="What becomes 0 [1 or clients, m].")
    spread: tuple[tuple[float, ...], ...] = Field(description="What becomes 1 from there.")
    fill: tuple[tuple[float, ...], ...] = Field(description="What stands where a value is missing.")
    resolution: tuple[float, ...] = Field(
        default=(), description="How far a quantile may be off [m]; empty where none is used."
    )

    @model_validator(mode="after")
    def _whole(self) -> Statistics:
        width = len(self.columns)
        tables = (self.centre, self.spread, self.fill)
        if len({len(table) for table in tables}) > 1 or not self.centre:
            raise ConfigError("data.prepare.statistics: as many rows of each figure, at least one")
        if any(len(row) != width for table in tables for row in table):
            raise ConfigError(f"data.prepare.statistics: each row needs {width} figures")
        if any(not spread > 0 for row in self.spread for spread in row):
            raise ConfigError("data.prepare.statistics.spread: every spread must be above 0")
        return self


class Prepare(Component):
    """How numbers are scaled, and what stands where one is missing."""

    scaling: Scaling = Field(
        default="fixed",
        description="fixed: to [-1, 1] by public ranges; pooled: by figures of all clients' "
        "training records, found by secure aggregation; per_client: by each client's own.",
    )
    by: Literal["moments", "quartiles"] = Field(
        default="moments",
        description="Pooled or own: (x - mean) / standard deviation, or (x - median) / (0.7413 "
        "(third - first quartile)).",
    )
    imputation: Imputation | None = Field(
        default=None,
        description="What stands for a missing number: the middle of its public range (0 for a "
        "flag of prepared records), or the mean or median of those by whose figures it is scaled. "
        "Left out, data.missing decides.",
    )
    cut: float = Field(
        default=5.0, gt=0, description="Pooled or own: scaled values are cut to [-cut, cut]."
    )
    bins: int = Field(
        default=64,
        ge=4,
        le=4096,
        description="Cells of a public range, whose counts quantiles are found by; without noise "
        "the cell that holds one is divided into as many again.",
    )
    noise_multiplier: float | None = Field(
        default=None,
        gt=0,
        description="Standard deviation of the noise on released figures, in units of the most "
        "that a record (or, under a client-level claim, a client) adds to them. Needed where the "
        "run makes a claim that they would break.",
    )
    insecure_generalised: bool = Field(
        default=False,
        description="Train on generalised columns under a record-level claim, although their "
        "intervals and groups were chosen from a client's records without noise, which no epsilon "
        "covers; result, certificate and model card say so.",
    )
    statistics: Statistics | None = Field(
        default=None, description="What a run found; it is written there by the run itself."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Prepare:
        fixed = self.scaling == "fixed"
        if fixed and self.imputation in ("mean", "median"):
            raise ConfigError(
                f"data.prepare.imputation is {self.imputation}, and with scaling: fixed nothing is "
                "computed: set it to middle, or data.prepare.scaling to pooled or per_client"
            )
        if fixed and self.noise_multiplier is not None:
            raise ConfigError(
                "data.prepare.noise_multiplier: with scaling: fixed nothing is released: leave it "
                "out, or set data.prepare.scaling to pooled"
            )
        if fixed and self.statistics is not None:
            raise ConfigError(
                "data.prepare.statistics: with scaling: fixed there are none: leave them out"
            )
        return self

    @property
    def quantiles(self) -> bool:
        """Whether quantiles are needed."""
        return self.scaling != "fixed" and (self.by == "quartiles" or self.imputation == "median")

    @property
    def moments(self) -> bool:
        """Whether means and variances are needed."""
        return self.scaling != "fixed" and (self.by == "moments" or self.imputation == "mean")

    @property
    def released(self) -> bool:
        """Whether figures leave a client, or, noised, are written down: then there are rows."""
        return self.scaling == "pooled" or (
            self.scaling == "per_client" and self.noise_multiplier is not None
        )

    @property
    def unsettled(self) -> bool:
        """Whether the figures are still to be computed before anything may be trained."""
        return self.released and self.statistics is None


FIXED = Prepare()
"""What holds where nothing is said."""


def check_missing(prepare: Prepare | None, missing: str) -> None:
    """Refuses two answers to what happens to a missing number.

    Raises:
        ConfigError: both are given.
    """
    if prepare is not None and prepare.imputation is not None and missing != "refuse":
        raise ConfigError(
            f"data.missing is {missing}, and data.prepare.imputation {prepare.imputation}: leave "
            "one of them out"
        )
