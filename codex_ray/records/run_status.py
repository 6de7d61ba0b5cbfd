"""How far a run has come: read from its directory alone, from any terminal, at any time."""

from __future__ import annotations

import fcntl
import json
import math
import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from codex_ray.errors import RunDirectoryError
from codex_ray.records.run_directory import RunDirectory
from codex_ray.records.tally import EXTRAPOLATED, Following
from codex_ray.records.underway import Underway

State = Literal["running", "stopped", "finished"]


@dataclass(frozen=True)
class RunStatus:
    """A run at one moment.

    Attributes:
        run: its name; that of a trial has its sweep's before it.
        state: a run is running while a process holds its lock, and finished once it has a result.
        phase: what it is at, in words.
        rounds, rounds_planned: done, and asked for.
        seconds: spent in rounds, over all resumes.
        rounds_per_second, clients_per_second: over the last rounds; None before there is one.
        seconds_left: at that rate; the budget may end the run earlier.
        since_round: seconds since the last round was told of.
        field_seconds: that the rounds would have taken on the clients' devices; None without any.
        retries, aborted: attempts beyond the first, and rounds without a sum.
        cohort, survivors: of the last round.
        dropped: times that a client fell silent, by stage, over all rounds.
        metrics, metrics_round: the last figures, and the round that the newest are of.
        epsilon: so far, by unit; `extrapolated` is that of a larger run.
        budget, delta: of epsilon, and what it is stated at.
        hidden: whether cohorts are the coordinator's own.
        model_sha256: of a finished run.
        underway: the round that has not ended, where it takes its time and is on Ray.
        go_on: the command that resumes a stopped run.
    """

    run: str
    path: str
    state: State
    phase: str
    protocol: str
    hosts: int
    rounds: int
    rounds_planned: int
    seconds: float
    rounds_per_second: float | None = None
    clients_per_second: float | None = None
    seconds_left: float | None = None
    since_round: float | None = None
    field_seconds: float | None = None
    retries: int = 0
    aborted: int = 0
    cohort: int | None = None
    survivors: int | None = None
    dropped: dict[str, int] = field(default_factory=dict)
    masks_recovered: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    metrics_round: int | None = None
    epsilon: dict[str, float] = field(default_factory=dict)
    extrapolated: float | None = None
    budget: float | None = None
    delta: float | None = None
    hidden: bool = False
    model_sha256: str | None = None
    underway: Underway | None = None
    go_on: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The status as plain data."""
        return asdict(self)


class Watched:
    """A run that is looked at more than once; of its journal only what is new is read."""

    def __init__(self, path: Path, *, config: Mapping[str, Any]) -> None:
        """The run at `path`, whose configuration somebody has read.

        Raises:
            RunDirectoryError: there is no run.
        """
        self.directory = RunDirectory.open(path)
        if not isinstance(config.get("rounds"), int):
            raise RunDirectoryError(
                f"{self.directory.config}: does not say how many rounds there are: it is no run's"
            )
        self._config = config
        self._following = Following(self.directory.rounds)
        self._looked = False

    def status(self, *, now: float) -> RunStatus:
        """The run as it is.

        Args:
            now: in seconds since the epoch, as files have it.

        Raises:
            RunDirectoryError: its journal or its result cannot be read.
        """
        # Whoever has told of a round since the last look is there, and need not be asked. The lock
        # comes before the result: what lets go of it in between has left its result by then.
        news = self._following.read() and self._looked
        held = news or is_locked(self.directory.checkpoint)
        result = result_of(self.directory)
        self._following.read()
        self._looked = True
        tally = self._following.tally
        planned: int = self._config["rounds"]
        state: State = "finished" if result else "running" if held else "stopped"
        rate, last = tally.rate, tally.last
        left = max(0, planned - tally.rounds)
        known = {unit: e for unit, e in tally.epsilon.items() if unit != EXTRAPOLATED}
        budget = self._config.get("budget") or {}
        return RunStatus(
            run=run_name(self.directory.path),
            path=str(self.directory.path),
            state=state,
            phase=self._phase(state, rounds=tally.rounds, planned=planned, result=result),
            protocol=_kind(self._config, "federation", "protocol"),
            hosts=int((self._config.get("cluster") or {}).get("hosts", 0)),
            rounds=tally.rounds,
            rounds_planned=planned,
            seconds=round(result["seconds"] if result else tally.seconds_total, 3),
            rounds_per_second=None if rate is None else rate[0],
            clients_per_second=None if rate is None else rate[1],
            seconds_left=left / rate[0] if rate is not None and state == "running" else None,
            since_round=self._since_round(now),
            field_seconds=tally.field_seconds,
            retries=tally.retries,
            aborted=tally.aborted,
            cohort=last.get("cohort"),
            survivors=last.get("survivors"),
            dropped=dict(tally.dropped),
            masks_recovered=tally.masks_recovered,
            metrics=dict(result["metrics"]) if result else dict(tally.metrics),
            metrics_round=tally.metrics_round,
            epsilon=spent_in(result) if result else known,
            extrapolated=tally.epsilon.get(EXTRAPOLATED),
            budget=budget.get("epsilon"),
            delta=budget.get("delta"),
            hidden=tally.hidden,
            model_sha256=result["model_sha256"] if result else None,
            underway=Underway.read(self.directory.path, now=now) if state == "running" else None,
            go_on=go_on(self.directory) if state == "stopped" else None,
        )

    def _phase(
        self, state: State, *, rounds: int, planned: int, result: Mapping[str, Any] | None
    ) -> str:
        if result:
            by_budget = result["stopped"] == "budget"
            return "finished: the privacy budget is spent" if by_budget else "finished"
        if state == "stopped":
            return "stopped: no process is at it"
        if rounds >= planned:
            return "all rounds done: working out the result"
        return "running" if rounds else "before its first round"

    def _since_round(self, now: float) -> float | None:
        if not self._following.tally.rounds:
            return None
        try:
            return max(0.0, now - self.directory.rounds.stat().st_mtime)
        except OSError:
            return None


def is_locked(folder: Path) -> bool:
    """Whether a process is at the run whose checkpoints, or the sweep which, are in `folder`.

    It asks for a share of the lock and gives it back at once.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return False  # it has not been made yet
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # the folder is on a disk that knows no locks
        return False
    else:
        return False
    finally:
        os.close(descriptor)


def result_of(directory: RunDirectory) -> dict[str, Any] | None:
    """What result.json holds; None as long as there is none.

    Raises:
        RunDirectoryError: it cannot be read.
    """
    try:
        found = json.loads(directory.result.read_bytes())
        if not {"metrics", "privacy", "model_sha256", "seconds", "stopped"} <= found.keys():
            raise ValueError("it is no result of a run")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError) as error:
        raise RunDirectoryError(f"{directory.result}: cannot be read: {error}") from error
    return dict(found)


def spent_in(result: Mapping[str, Any]) -> dict[str, float]:
    """The largest epsilon of each unit in a result; claims of one unit are kept apart."""
    found: dict[str, float] = {}
    claims = [(str(spend["unit"]), claim_of(spend), spend) for spend in result["privacy"]]
    apart = {unit for unit, _, _ in claims if len({c for u, c, _ in claims if u == unit}) > 1}
    for unit, claim, spend in claims:
        name = f"{unit} ({claim})" if unit in apart else unit
        found[name] = max(found.get(name, -math.inf), float(spend["epsilon"]))
    return found


def claim_of(spend: Mapping[str, Any]) -> str:
    """The name of the claim that a spend is stated for, such as U4."""
    for words in spend["assumptions"]:
        if words.startswith("claim "):
            return str(words.split()[1])
    return ""


def sweep_of(path: Path) -> Path | None:
    """The sweep that a run is a trial of."""
    whole = path.resolve()
    folder = whole.parent.parent
    is_trial = whole.parent.name == "trials" and (folder / "description.json").is_file()
    return folder if is_trial else None


def run_name(path: Path) -> str:
    """How a run is called beside others: by its folder, a trial's after its sweep's."""
    sweep, whole = sweep_of(path), path.resolve()
    return whole.name if sweep is None else f"{sweep.name}/{whole.name}"


def go_on(directory: RunDirectory) -> str:
    """The command by which a stopped run is gone on with."""
    sweep = sweep_of(directory.path)
    if sweep is not None:
        shown = directory.path.parent.parent if len(directory.path.parts) > 2 else sweep
        return f"codex-ray sweep --resume {shlex.quote(str(shown))}"
    if not any(directory.checkpoint.glob("round-*.safetensors")):
        return "nothing to go on from: it ended before its first checkpoint"
    return f"codex-ray run --resume {shlex.quote(str(directory.path))}"


def _kind(config: Mapping[str, Any], *path: str) -> str:
    inner: Any = config
    for part in path:
        inner = inner.get(part) if isinstance(inner, Mapping) else None
    return str(inner.get("kind", "")) if isinstance(inner, Mapping) else ""
