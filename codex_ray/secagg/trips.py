"""What every session does with a trip's replies: keep the right ones, count them, add them up."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable
from typing import TypeAlias, TypeVar

import numpy as np

from codex_ray.errors import SumAborted
from codex_ray.types import (
    ClientId,
    Residues,
    SessionContext,
    SessionResult,
    Stage,
    word_type,
)
from codex_ray.types import reduce as reduce_words
from codex_ray.wire import Message, Words

Outbox: TypeAlias = dict[ClientId, Message]
Inbox: TypeAlias = dict[ClientId, Message]
Session: TypeAlias = Generator[Outbox, Inbox, SessionResult]
"""Yields what goes out on a trip, is sent what came back in time, returns the sums."""

_Reply = TypeVar("_Reply", bound=Message)


def only(kind: type[_Reply], inbox: Inbox, asked: Collection[ClientId]) -> dict[ClientId, _Reply]:
    """The replies of that kind from those who were asked: anything else counts as silence."""
    wanted = frozenset(asked)  # a tuple of ten thousand takes as long to look through
    return {one: it for one, it in sorted(inbox.items()) if one in wanted and isinstance(it, kind)}


def need(answered: Collection[object], minimum: int, stage: Stage) -> None:
    """Nothing, if enough clients can go on.

    Raises:
        SumAborted: fewer than `minimum` can.
    """
    if len(answered) < minimum:
        raise SumAborted(
            f"{stage.name.lower()}: {len(answered)} clients can go on, {minimum} are needed: raise "
            "the cohort, or wait longer for its answers"
        )


def add_up(summands: Iterable[Words], context: SessionContext) -> Residues:
    """The sum [d] of the summands modulo 2^bits."""
    total = np.zeros(context.dimension, dtype=word_type(context.bits))
    for summand in summands:
        np.add(total, summand, out=total)
    return reduce_words(total, context.bits)
