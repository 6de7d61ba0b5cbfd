"""Checkpoints: a server state as one safetensors file, replaced whole or not at all."""

from __future__ import annotations

import json
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


class Checkpoints:
    """The states of a run after its last rounds, the newest of which it resumes from."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, state: ServerState) -> None:
        """Persists the state and lets go of the oldest.

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
        content = save(tensors, metadata={"state": json.dumps(about)})
        write_atomically(self._folder / f"round-{state.round:06d}.safetensors", content)
        for old in self._files()[:-KEPT]:
            old.unlink()

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


def _read(file: Path) -> ServerState:
    try:
        with safe_open(file, framework="pt") as opened:
            about = json.loads((opened.metadata() or {})["state"])
            tensors = {name: opened.get_tensor(name) for name in ("params", "optimiser")}
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
            f"{file}: is no readable checkpoint ({type(error).__name__}): delete it to resume from "
            "the one before it"
        ) from error
