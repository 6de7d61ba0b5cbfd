"""Many runs beside each other: a line for each, and what two of them differ in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from codex_ray.errors import InputError, RunDirectoryError
from codex_ray.records.run_directory import RunDirectory
from codex_ray.records.run_status import RunStatus, Watched, result_of, run_name, spent_in

ReadConfig = Callable[[Path], Mapping[str, Any]]
"""Reads a YAML file; what knows YAML lies above."""
DAMAGED: Final = "damaged"


@dataclass(frozen=True)
class RunLine:
    """A run in a line.

    Attributes:
        run, path: its name and where it is.
        state: finished, running, stopped, or damaged; `problem` then says in what.
        rounds, rounds_planned: done, and asked for.
        metrics: the last, or those of the final model.
        epsilon: by unit; empty where there is no claim, or none was told yet.
        delta: that it is stated at.
        seconds: spent in rounds.
        model_sha256: of a finished run.
    """

    run: str
    path: str
    state: str
    protocol: str = ""
    rounds: int = 0
    rounds_planned: int = 0
    metrics: Mapping[str, float] | None = None
    epsilon: Mapping[str, float] | None = None
    delta: float | None = None
    seconds: float = 0.0
    model_sha256: str | None = None
    problem: str | None = None

    @property
    def largest(self) -> tuple[float, str] | None:
        """The largest epsilon and its unit; None without one."""
        found = [(float(spent), unit) for unit, spent in (self.epsilon or {}).items()]
        return max(found, default=None)

    def to_json(self) -> dict[str, Any]:
        """The line as plain data."""
        return asdict(self)

    @classmethod
    def of_result(cls, path: Path, result: Mapping[str, Any]) -> RunLine:
        """A finished run, whose journal need not be read."""
        return cls(
            run=run_name(path),
            path=str(path),
            state="finished",
            protocol=str(result["protocol"]),
            rounds=int(result["rounds"]),
            rounds_planned=int(result["rounds_planned"]),
            metrics=dict(result["metrics"]),
            epsilon=spent_in(result),
            delta=next((float(spend["delta"]) for spend in result["privacy"]), None),
            seconds=float(result["seconds"]),
            model_sha256=str(result["model_sha256"]),
        )

    @classmethod
    def of_status(cls, status: RunStatus) -> RunLine:
        """A run that has no result yet."""
        said = vars(status)
        shared = ("run", "path", "state", "protocol", "rounds", "rounds_planned", "metrics")
        rest = ("epsilon", "delta", "seconds", "model_sha256")
        return cls(**{name: said[name] for name in (*shared, *rest)})


class Listing:
    """The runs in a folder; a second look reads only what is new."""

    def __init__(self, folder: Path, *, read_config: ReadConfig) -> None:
        """Those in `folder`, with the trials of its sweeps.

        Raises:
            RunDirectoryError: there is no such folder.
        """
        if not folder.is_dir():
            raise RunDirectoryError(f"{folder}: there is no such folder: give the one with runs")
        self.folder = folder
        self._read_config = read_config
        self._watched: dict[Path, Watched] = {}
        self._ended: dict[Path, tuple[int, RunLine]] = {}

    def lines(self, *, now: float) -> list[RunLine]:
        """A line for each run, by name; a run that cannot be read is said to be damaged."""
        return [self._line(path, now) for path in runs_in(self.folder)]

    def _line(self, path: Path, now: float) -> RunLine:
        directory = RunDirectory(path)
        try:
            written = directory.result.stat().st_mtime_ns if directory.finished() else 0
            if path in self._ended and self._ended[path][0] == written:
                return self._ended[path][1]
            result = result_of(directory)
            if result is not None:
                line = RunLine.of_result(path, result)
                self._ended[path] = (written, line)
                return line
            if path not in self._watched:
                config = self._read_config(directory.config)
                self._watched[path] = Watched(path, config=config)
            return RunLine.of_status(self._watched[path].status(now=now))
        except (InputError, OSError, KeyError, TypeError, ValueError) as error:
            said = str(error) or type(error).__name__
            return RunLine(run_name(path), str(path), DAMAGED, problem=said)


def runs_in(folder: Path) -> Iterator[Path]:
    """The run directories in a folder, by name, with the trials of the sweeps in it."""
    if (folder / "config.yaml").is_file():
        yield folder
        return
    for path in sorted(folder.iterdir()):
        if (path / "config.yaml").is_file():
            yield path
        elif path.name == "trials" or (path / "trials").is_dir():
            trials = path if path.name == "trials" else path / "trials"
            yield from (it for it in sorted(trials.iterdir()) if (it / "config.yaml").is_file())


@dataclass(frozen=True)
class Comparison:
    """What runs differ in.

    Attributes:
        runs: their names.
        settings: by dotted key, one value for each run; only where they differ.
        results: by what it is, one figure for each run.
        same_model: whether all of them ended with one model, to the bit.
    """

    runs: tuple[str, ...]
    settings: dict[str, list[Any]]
    results: dict[str, list[Any]]
    same_model: bool

    def to_json(self) -> dict[str, Any]:
        """The comparison as plain data."""
        return asdict(self)


def compare(
    lines: Sequence[RunLine], configs: Sequence[Mapping[str, Any]], absent: Any = None
) -> Comparison:
    """The keys in which configurations differ, and the results side by side."""
    flat = [dict(flattened(config)) for config in configs]
    keys = list(dict.fromkeys(key for one in flat for key in one))
    columns = {key: [one.get(key, absent) for one in flat] for key in keys}
    models = {line.model_sha256 for line in lines}
    return Comparison(
        runs=tuple(line.run for line in lines),
        settings={
            key: values
            for key, values in columns.items()
            if any((value, type(value)) != (values[0], type(values[0])) for value in values)
        },
        results=_results(lines),
        same_model=len(models) == 1 and None not in models,
    )


def flattened(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a nested mapping by its dotted key; an empty mapping is a value."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _results(lines: Sequence[RunLine]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {"state": [line.state for line in lines]}
    found["rounds"] = [f"{line.rounds} of {line.rounds_planned}" for line in lines]
    names = dict.fromkeys(name for line in lines for name in line.metrics or {})
    for name in names:
        found[name] = [_float((line.metrics or {}).get(name)) for line in lines]
    units = dict.fromkeys(unit for line in lines for unit in line.epsilon or {})
    for unit in units:
        found[f"epsilon a {unit}"] = [_float((line.epsilon or {}).get(unit)) for line in lines]
    found["delta"] = [line.delta for line in lines]
    found["seconds in rounds"] = [line.seconds for line in lines]
    found["model sha256"] = [line.model_sha256 for line in lines]
    return found


def _float(value: Any) -> float | str | None:
    """A figure; what JSON has no number for, and `to_json_bytes` writes as text, stays text."""
    if value is None:
        return None
    number = float(value)
    return number if math.isfinite(number) else str(number)
