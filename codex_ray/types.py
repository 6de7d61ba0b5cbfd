"""The nouns that flow between the layers, and the base of every configured component."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

ClientId: TypeAlias = int
"""A client's number in its population, from 0. Never a Ray handle."""

Residues: TypeAlias = npt.NDArray[np.uint32]
"""A vector over Z_{2^32}: all that is ever summed, and its sums do not depend on the order."""

WORD_BITS = 32


class Component(BaseModel):
    """A frozen, validated object whose fields are its configuration: the base of every plug-in."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True
    )


class Stage(IntEnum):
    """The trips of one round, in order: a client that is silent at one is silent to the end."""

    TRAIN = 0
    ADVERTISE_KEYS = 1
    SHARE_KEYS = 2
    MASKED_INPUT = 3
    UNMASK = 4
    DEBUG = 5


@dataclass(frozen=True)
class SessionContext:
    """What one summation session is bound to; every derived key depends on every field.

    Attributes:
        run: 16 bytes that name the run.
        round: the round, from 0.
        attempt: how often this round was begun before: a retry never meets the keys of the first
        try.
        model_digest: SHA-256 of the parameters that the clients trained on. A server that sends two
            models gets masks that do not cancel (Pasquini et al. 2022).
        dimension: length of every summand.
    """

    run: bytes
    round: int
    attempt: int
    model_digest: bytes
    dimension: int


@dataclass(frozen=True)
class GroupSum:
    """All that the server ever learns: who is in the sum, and the sum [d] modulo 2^32."""

    members: tuple[ClientId, ...]
    total: Residues  # [d]


@dataclass(frozen=True)
class SessionResult:
    """What a session returns: the group sums, and how many lost pair masks were rebuilt."""

    groups: tuple[GroupSum, ...]
    masks_recovered: int = 0

    @property
    def members(self) -> tuple[ClientId, ...]:
        """Everyone whose summand is in a group, in increasing order."""
        return tuple(sorted(client for group in self.groups for client in group.members))
