"""What came out of a sweep: trials, their means over seeds, and which are worth their epsilon."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, overload

from codex_ray.privacy.ledger import Unit
from codex_ray.records.frontier import Point, beaten_by, frontier_of
from codex_ray.sweeping.description import Sweep
from codex_ray.sweeping.selection import RepeatAndSelect, SelectionCost

Status = Literal["finished", "stopped", "failed", "interrupted"]


@dataclass(frozen=True)
class Trial:
    """One trial: the values and the seed, and what came out, or why nothing did.

    Attributes:
        metric: the sweep's test metric at the end; not a number where there is none.
        epsilon: the largest of any claim; infinite without one.
        unit: whose.
        rounds: that were run.
        status: `stopped` where the search ended it early: it then counts for nothing else.
        error: why it failed, in a line.
        metrics: every test metric.
        found: the noise multiplier that was found for it, by dotted key.
        extrapolated: the epsilon of the larger run that its noise was scaled for.
        reference: whether the others are compared with it.
    """

    values: dict[str, Any]
    seed: int
    metric: float
    epsilon: float
    unit: Unit | None
    rounds: int
    error: str = ""
    extrapolated: float | None = None
    number: int = 0
    status: Status = "finished"
    metrics: dict[str, float] = field(default_factory=dict)
    found: dict[str, float] = field(default_factory=dict)
    reference: bool = False

    def to_json(self) -> dict[str, Any]:
        """The trial as plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Trial:
        """The trial that `to_json` wrote."""
        numbers = {name: float(data[name]) for name in ("metric", "epsilon")}
        metrics = {name: float(value) for name, value in data["metrics"].items()}
        return cls(**(data | numbers | {"metrics": metrics}))


@dataclass(frozen=True)
class SweepResult(Sequence[Trial]):
    """The trials of a sweep, in order: a sequence of them, and a table with named columns.

    `result[0]` is a trial, `result["epsilon"]` a column, `result.to_pandas()` a DataFrame.

    Attributes:
        description: the sweep.
        trials: all of them, also those that failed.
        directory: where everything was written.
        costs: of publishing the best trial, where that is accounted.
    """

    description: Sweep
    trials: tuple[Trial, ...]
    directory: Path
    costs: tuple[SelectionCost, ...] = ()

    def __len__(self) -> int:
        return len(self.trials)

    def __iter__(self) -> Iterator[Trial]:
        return iter(self.trials)

    @overload
    def __getitem__(self, which: int) -> Trial: ...
    @overload
    def __getitem__(self, which: slice) -> tuple[Trial, ...]: ...
    @overload
    def __getitem__(self, which: str) -> list[Any]: ...
    def __getitem__(self, which: int | slice | str) -> Any:
        """A trial by its number, or a column by its name."""
        if isinstance(which, str):
            if which not in self.columns:
                raise KeyError(f"{which}: the columns are {', '.join(self.columns)}")
            return [row[which] for row in self.rows()]
        return self.trials[which]

    @property
    def columns(self) -> list[str]:
        """The names of the columns, as in sweep.csv."""
        noise = sorted({key for trial in self.trials for key in trial.found})
        return [
            *self.description.keys,
            *noise,
            "seed",
            self.description.metric,
            "epsilon",
            "unit",
            "rounds",
            "status",
            "error",
            "frontier",
            "selection",
            "extrapolated_epsilon",
        ]

    def rows(self) -> list[dict[str, Any]]:
        """One mapping from column to value for each trial."""
        best = {repr(dict(point.values)) for point in self.frontier}
        return [
            {key: trial.values.get(key) for key in self.description.keys}
            | trial.found
            | {
                "seed": trial.seed,
                self.description.metric: trial.metric,
                "epsilon": trial.epsilon,
                "unit": trial.unit,
                "rounds": trial.rounds,
                "status": "reference" if _counts_as_reference(trial) else trial.status,
                "error": trial.error,
                "frontier": not trial.reference and repr(trial.values) in best,
                "selection": self.selection,
                "extrapolated_epsilon": trial.extrapolated,
            }
            for trial in self.trials
        ]

    def to_pandas(self) -> Any:
        """A pandas DataFrame of the rows."""
        import pandas

        return pandas.DataFrame(self.rows(), columns=self.columns)

    @property
    def interrupted(self) -> bool:
        """Whether there are trials that have still to run."""
        return any(trial.status == "interrupted" for trial in self.trials)

    @property
    def failed(self) -> bool:
        """Whether a trial failed."""
        return any(trial.status == "failed" for trial in self.trials)

    @property
    def points(self) -> list[Point]:
        """The mean over the seeds of each setting whose trials ran to their end."""
        return self._points(reference=False)

    @property
    def reference(self) -> Point | None:
        """The setting that the others are compared with."""
        found = self._points(reference=True)
        return found[0] if found else None

    def _points(self, *, reference: bool) -> list[Point]:
        groups: dict[str, list[Trial]] = {}
        for trial in self.trials:
            if trial.status == "finished" and trial.reference == reference:
                groups.setdefault(repr(trial.values), []).append(trial)
        return [
            Point.of(
                values=same[0].values,
                epsilon=max(trial.epsilon for trial in same),
                scores=[trial.metric for trial in same],
            )
            for same in groups.values()
        ]

    @property
    def frontier(self) -> list[Point]:
        """The points that are worth their epsilon, by increasing epsilon."""
        return frontier_of(self.points, goal=self.description.goal)

    def beaten_by(self, point: Point) -> Point | None:
        """A point that does at least as well for no more epsilon; None on the frontier."""
        return beaten_by(point, self.frontier, goal=self.description.goal)

    @property
    def best(self) -> Trial | None:
        """The trial to run again in full; None if none finished.

        Of the setting with the best mean its first seed; where the choice is accounted, the best
        trial itself, which is all that may be shown.
        """
        sign = 1 if self.description.goal == "max" else -1
        ended = [t for t in self.trials if t.status == "finished" and not t.reference]
        ended = [trial for trial in ended if not math.isnan(trial.metric)]
        if not ended:
            return None
        if isinstance(self.description.selection, RepeatAndSelect):
            return max(ended, key=lambda trial: sign * trial.metric)
        best = max(self.points, key=lambda point: (sign * point.score, -point.epsilon))
        return self.trial_of(best)

    def trial_of(self, point: Point) -> Trial:
        """The first trial of a point."""
        return next(
            trial for trial in self.trials if trial.values == point.values and not trial.reference
        )

    @property
    def selection(self) -> str:
        """The same in a few words, for a column."""
        kind = self.description.selection.kind.replace("_", " ")
        found = [
            f"epsilon {c.epsilon:.4f} ({c.claim}) for the best trial alone" for c in self.costs
        ]
        return ": ".join([kind, "; ".join(found)]) if found else kind

    @property
    def statement(self) -> str:
        """How the choice among the trials was treated, in the words that every artefact bears."""
        said = [self.description.selection.words, *(cost.words for cost in self.costs)]
        if isinstance(self.description.selection, RepeatAndSelect):
            said.append(
                "SIMULATION: the number of trials and all noise follow from known seeds; a real "
                "sweep draws both from the operating system."
            )
        return " ".join(said)


def _counts_as_reference(trial: Trial) -> bool:
    return trial.reference and trial.status == "finished"
