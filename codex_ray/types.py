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

Residues: TypeAlias = npt.NDArray[np.uint16] | npt.NDArray[np.uint32]
"""A vector over Z_{2^b}: all that is ever summed, and its sums do not depend on the order.

Its words are uint16 for b = 16 and uint32 for b from 17 to 32, with zeros above the b-th bit.
"""

WORD_BITS = 32
"""The width b of a residue where nothing else is said."""


def word_type(bits: int) -> np.dtype[np.uint16] | np.dtype[np.uint32]:
    """The smallest unsigned word that holds a residue modulo 2^bits.

    Raises:
        ValueError: bits is not from 16 to 32.
    """
    if not 16 <= bits <= 32:
        raise ValueError(f"a residue has 16 to 32 bits, not {bits}")
    return np.dtype(np.uint16) if bits == 16 else np.dtype(np.uint32)


def reduce(words: Residues, bits: int) -> Residues:
    """`words` modulo 2^bits, in place."""
    if bits not in (16, 32):
        np.bitwise_and(words, np.uint32((1 << bits) - 1), out=words)
    return words


class Component(BaseModel):
    """A frozen, validated object whose fields are its configuration: the base of every plug-in."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True
    )


class Stage(IntEnum):
    """The trips of one round, in order: a client that is silent at one is silent to the end."""

    TRAIN = 0
    ENROL = 1
    ADVERTISE_KEYS = 2
    REVEAL_NONCES = 3
    SHARE_KEYS = 4
    MASKED_INPUT = 5
    CONFIRM_SURVIVORS = 6
    UNMASK = 7
    DEBUG = 8


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
        bits: summands are residues modulo 2^bits, from 16 to 32.
    """

    run: bytes
    round: int
    attempt: int
    model_digest: bytes
    dimension: int
    bits: int = WORD_BITS


@dataclass(frozen=True)
class GroupSum:
    """All that the server ever learns: who is in the sum, and the sum [d] modulo 2^bits."""

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
