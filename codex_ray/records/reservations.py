"""What has been reserved for a round, beside the checkpoint that says it: for when that is harmed.

A run without a seed pays for a round before it asks anything of anyone, and the newest checkpoint
alone knows of it. Going back to the one before would forget that payment, if it did not stand in a
second file: so it does, for every round from the older checkpoint on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from codex_ray.errors import RunDirectoryError
from codex_ray.federation.state import ServerState
from codex_ray.records.run_directory import write_atomically
from codex_ray.types import ClientId

Cohorts = list[list[ClientId]]
"""Cohorts that have paid for an attempt at a round which is not told of, one after the other."""


def note(folder: Path, state: ServerState, *, before: Callable[[], None]) -> None:
    """Writes down what is reserved for round `state.round`; nothing is, before it begins.

    The disk is not waited for: the checkpoint that follows is, and this is for when it is harmed.

    Raises:
        RunDirectoryError: the disk refuses.
    """
    words = json.dumps({"run": state.run.hex(), "unsettled": state.totals.unsettled})
    content = f"{hashlib.sha256(words.encode()).hexdigest()}\n{words}\n"
    write_atomically(_file(folder, state.round), content.encode(), sync=False, before=before)


def owed_since(folder: Path, state: ServerState, *, newest: int) -> Cohorts:
    """What was reserved after `state`, up to the round that the newest checkpoint was before.

    Raises:
        RunDirectoryError: some of it is not known.
    """
    found: Cohorts = []
    for number in range(state.round, newest + 1):
        file = _file(folder, number)
        try:
            told, _, words = file.read_text().partition("\n")
            data = json.loads(words)
            whole = told == hashlib.sha256(words.strip().encode()).hexdigest()
            cohorts = [[int(client) for client in cohort] for cohort in data["unsettled"]]
        except (OSError, ValueError, KeyError, TypeError):
            whole, data, cohorts = False, {}, []
        # A round that a later one followed was begun.
        if not whole or data["run"] != state.run.hex() or (number < newest and not cohorts):
            raise RunDirectoryError(
                f"{folder.parent}: cannot be gone on with: what round {number} showed is not "
                f"known ({file.name} does not tell), and this run has no seed to replay it: bring "
                "back the checkpoint from a copy, or start a new run and count both"
            )
        found += cohorts
    known = state.totals.unsettled
    return found[len(known) :] if found[: len(known)] == known else found


def forget(folder: Path, *, before: int) -> None:
    """Removes what stands for rounds before `before`, which no checkpoint is needed for.

    Raises:
        OSError: the disk refuses.
    """
    for file in folder.glob("reserved-*.json"):
        if file.name < _file(folder, before).name:
            file.unlink()


def _file(folder: Path, number: int) -> Path:
    return folder / f"reserved-{number:06d}.json"
