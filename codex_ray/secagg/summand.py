"""What a client brings to be summed: a vector, or a function that makes it when it is needed.

A host that carries ten thousand clients need not hold ten thousand vectors for the trips that come
before the masked input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from codex_ray.errors import ProtocolError
from codex_ray.types import ClientId, Residues, SessionContext, word_type

Summand: TypeAlias = Residues | Callable[[], Residues]
"""Words [d] of residues modulo 2^bits, or what makes them; a session takes them over."""


def check_early(summand: Summand, context: SessionContext, *, me: ClientId) -> None:
    """Nothing, if a summand that is there already fits the session.

    Raises:
        ProtocolError: it has another type or length.
    """
    if not callable(summand):
        take(summand, context, me=me)


def take(summand: Summand | None, context: SessionContext, *, me: ClientId) -> Residues:
    """The words [d] of the summand.

    Raises:
        ProtocolError: they have another type or length than the session sums.
    """
    assert summand is not None  # It goes with the trip that sends it, or with the session.
    words = summand() if callable(summand) else summand
    kind = word_type(context.bits)
    if words.dtype != kind or words.shape != (context.dimension,):
        raise ProtocolError(
            f"client {me} refuses: the summand is {words.dtype} {words.shape}, the session sums "
            f"{kind} ({context.dimension},)"
        )
    return words
