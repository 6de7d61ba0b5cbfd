"""What a run came to, as one object: `result.json`, and what the Python door returns."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save

from codex_ray.errors import RunDirectoryError
from codex_ray.records.run_directory import RunDirectory, write_atomically

SIMULATION = (
    "SIMULATION: every stream of randomness is derived from the seed, so the noise can be "
    "reproduced by anyone who knows it and protects nobody; set seed: null to draw it from the "
    "operating system"
)
DEBUG = "debug: norms of clients' own updates were written down under debug/, without any noise"
UNPROTECTED = "no cryptographic protection"
"""What `protection` begins with where the server sees updates, or is only trusted not to."""
UNSEEDED = "noise was drawn from the operating system and never written down"


class RunResult(BaseModel):
    """The outcome of a run.

    Attributes:
        rounds: rounds run; `rounds_planned` is what the experiment asked for, and `stopped` says
        why the
            run ended: "rounds" or "budget".
        seconds: time spent in training, summing and releasing, over all resumes.
        field_seconds: what all rounds would have taken on the clients' devices and networks, less
            what the server computes; None where the experiment describes no devices.
        metrics: of the final model on the pooled test set.
        privacy: one spend for each unit and holder, with its assumptions.
        protocol: the kind of the sum protocol.
        protection: what stands between the server and a single update, in words.
        dropped_total: times that a client fell silent in a round.
        masks_recovered: pair masks rebuilt from shares because a client dropped out.
        bytes_up_per_client: mean over the population. `bytes_up` has each client's, unless the
            claim rests on hidden cohorts, or there are more than 1000 clients: then it is empty.
        randomness: whether the noise can be replayed, in words.
        baselines: alone, alone_worst and pooled, outside the guarantee; empty when not asked for.
        alone: the first clients, each training alone.
        wrap_probability: of any coordinate in a round, where noise is inside the sum.
        extrapolated: the epsilon of a larger run that noise was scaled for, with the cohort and
            population that it presumes; `privacy` has the literal one of this run.
        audit: the verdicts on the run, where its experiment asks for an audit.
        preparation: by whose figures features were scaled, what that cost, and the hash of the data
            card, as in the certificate; None for data without such numbers.
        overlooked: what was open to strangers about the Ray that it ran on, in words; whoever
            started it said that it may be.
        unsafe: every safeguard that was off, a line each; what stands before the colon names it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    name: str
    question: str
    rounds: int
    rounds_planned: int
    rounds_aborted: int
    stopped: str
    seconds: float
    metrics: dict[str, float]
    privacy: list[dict[str, Any]]
    protocol: str
    protection: str
    clients: int
    dropped_total: int
    masks_recovered: int
    bytes_up_per_client: int
    bytes_up: dict[int, int]
    model_sha256: str
    seed: int | None
    randomness: str
    baselines: dict[str, dict[str, float]] = Field(default_factory=dict)
    alone: list[dict[str, float]] = Field(default_factory=list)
    audit: list[dict[str, Any]] = Field(default_factory=list)
    wrap_probability: float = 0.0
    field_seconds: float | None = None
    extrapolated: dict[str, Any] | None = None
    overlooked: list[str] = Field(default_factory=list)
    unsafe: list[str] = Field(default_factory=list)
    preparation: dict[str, Any] | None = None
    directory: str = ""

    @property
    def epsilon(self) -> float:
        """The largest epsilon of any spend (`privacy` has its unit); infinite without a claim."""
        return max((float(spend["epsilon"]) for spend in self.privacy), default=math.inf)

    @classmethod
    def read(cls, directory: str | Path) -> RunResult:
        """The result that a finished run left in its directory.

        Raises:
            RunDirectoryError: there is none, or it cannot be read.
        """
        file = RunDirectory(Path(directory)).result
        try:
            return cls.model_validate(json.loads(file.read_text()) | {"directory": str(directory)})
        except FileNotFoundError:
            raise RunDirectoryError(f"{file}: there is no result: the run has not ended") from None
        except ValueError as error:
            raise RunDirectoryError(f"{file}: is no result of a run: {error}") from error


def parameters_sha256(params: torch.Tensor) -> str:
    """SHA-256 of the parameters [d] as little-endian float32."""
    return hashlib.sha256(params.numpy().astype("<f4").tobytes()).hexdigest()


def write_model(
    directory: RunDirectory, params: torch.Tensor, names: list[tuple[str, torch.Size]]
) -> None:
    """Writes the parameters [d] by name, in the module's own shapes."""
    tensors, at = {}, 0
    for name, shape in names:
        tensors[name] = params[at : at + shape.numel()].reshape(shape).clone()
        at += shape.numel()
    about = {"sha256_of_vector": parameters_sha256(params)}
    write_atomically(directory.model, save(tensors, metadata=about))
