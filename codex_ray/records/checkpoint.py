"""Checkpoints: a server state as one safetensors file, replaced whole or not at all.

A process that dies loses nothing. That a machine does not either takes a disk that is waited for,
some milliseconds a time. A run that can be replayed to the bit waits about once a second: a machine
that goes down costs it that second's work. One that cannot waits each time, because what it has
released is released.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from codex_ray.errors import PrivacyError, RunDirectoryError
from codex_ray.federation.state import RoundResult, ServerState, Totals
from codex_ray.privacy.ledger import Ledger
from codex_ray.records.run_directory import write_atomically

KEPT = 2
FORMAT = "codex_ray checkpoint 1"
REPLAYED = 1.0
"""Seconds of rounds that a run which can be replayed may lose with its machine."""


class Checkpoints:
    """The states of a run after its last rounds, the newest of which it resumes from."""

    def __init__(
        self,
        folder: Path,
        *,
        replayable: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Those in a folder.

        Args:
            folder: that holds them.
            replayable: whether losing a second's rounds loses nothing but the second.
            clock: tells seconds.
        """
        self._folder = folder
        self._replayable = replayable
        self._clock = clock
        self._waited: tuple[Path, float] | None = None

    def save(self, state: ServerState) -> None:
        """Persists the state and lets go of the oldest, but never of the last that is on disk.

        Raises:
            RunDirectoryError: the disk refuses; the earlier checkpoints are kept.
        """
        about = {
            "format": FORMAT,
            "run": state.run.hex(),
            "round": state.round,
            "ledgers": [ledger.to_json() for ledger in state.ledgers],
            "mechanism": list(state.mechanism),
            "plan": state.plan,
            "totals": state.totals.to_json(),
            "last": state.last.to_json() if state.last is not None else None,
        }
        tensors = {"params": state.params, "optimiser": state.optimiser}
        words = json.dumps(about)
        metadata = {"state": words, "sha256": _digest(words, tensors)}
        file = self._folder / f"round-{state.round:06d}.safetensors"
        wait = not self._replayable or self._last_wait() >= REPLAYED
        write_atomically(file, save(tensors, metadata=metadata), sync=wait)
        if wait:
            self._waited = (file, self._clock())
        for old in self._files()[:-KEPT]:
            if self._waited is None or old != self._waited[0]:
                old.unlink()

    def _last_wait(self) -> float:
        """Seconds since the disk was waited for."""
        return self._clock() - self._waited[1] if self._waited is not None else REPLAYED

    def load(self) -> ServerState:
        """The newest state.

        Raises:
            RunDirectoryError: there is none, or it cannot be read.
        """
        files = self._files()
        if not files:
            raise RunDirectoryError(
                f"{self._folder}: holds no checkpoint, so there is nothing to resume"
            )
        return _read(files[-1])

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("round-*.safetensors"))


def _digest(words: str, tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 of all that a checkpoint holds; those of earlier versions had none."""
    found = hashlib.sha256(words.encode())
    for name in sorted(tensors):
        found.update(tensors[name].contiguous().numpy().data)
    return found.hexdigest()


def _read(file: Path) -> ServerState:
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            about = json.loads(metadata["state"])
            tensors = {name: opened.get_tensor(name) for name in ("params", "optimiser")}
        if metadata.get("sha256", "") not in ("", _digest(metadata["state"], tensors)):
            raise ValueError("its checksum is another")
        if about["format"] != FORMAT:
            raise RunDirectoryError(f"{file}: was written by another version ({about['format']})")
        return ServerState(
            run=bytes.fromhex(about["run"]),
            round=int(about["round"]),
            params=tensors["params"].to(torch.float32),
            optimiser=tensors["optimiser"].to(torch.float64),
            ledgers=[Ledger.from_json(data) for data in about["ledgers"]],
            mechanism=tuple(float(number) for number in about.get("mechanism", ())),
            plan=about.get("plan", ""),
            totals=Totals.from_json(about["totals"]),
            last=RoundResult(**about["last"]) if about["last"] is not None else None,
        )
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, PrivacyError) as error:
        raise RunDirectoryError(
            f"{file}: is no readable checkpoint ({type(error).__name__}: {error}): delete it to "
            "resume from the one before it"
        ) from error
