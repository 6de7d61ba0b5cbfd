"""Masked inputs of one host, added up before they leave it.

A server only ever adds masked inputs. So a host that carries a thousand clients sends their sum and
a note for each of the others, and holds one vector instead of a thousand. What each client would
have sent by itself is still counted: the note says how many bytes that was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from codex_ray.secagg.lattice import Masked
from codex_ray.secagg.messages import FoldedInput, MaskedInput, PlainSummand
from codex_ray.secagg.one_shot_messages import FoldedUpload, MaskedUpload
from codex_ray.wire import Message, Words


class Folding:
    """Takes the replies of one call as they are made; all but the first are folded into it."""

    def __init__(self, *, bits: int) -> None:
        """Fold words of residues modulo 2^bits."""
        self._largest = (1 << bits) - 1
        self._total: Words | None = None
        self._upload: Masked | None = None
        self._weight = 0
        self._note = FoldedInput(0)

    def fold(self, reply: Message) -> Message:
        """The reply to send: itself for the first summand, a note for each that was added to it."""
        if isinstance(reply, MaskedUpload):
            return self._fold_upload(reply)
        if not isinstance(reply, MaskedInput | PlainSummand):
            return reply
        if self._total is None:
            self._note = FoldedInput(len(reply.to_frame()))
            self._total = reply.words.copy()
            return replace(reply, words=self._total)
        if reply.words.shape != self._total.shape or reply.words.dtype != self._total.dtype:
            return reply
        np.add(self._total, reply.words, out=self._total)
        kind = self._total.dtype.type
        if self._largest != np.iinfo(kind).max:  # else words wrap around by themselves
            np.bitwise_and(self._total, kind(self._largest), out=self._total)
        return self._note

    def fold_ahead(self, replies: Sequence[Message]) -> list[Message]:
        """The replies to send, of which the first brings the sum of all, and the others nothing."""
        first = self.fold(replies[0])
        return [first, *[self._note] * (len(replies) - 1)]

    def _fold_upload(self, reply: MaskedUpload) -> Message:
        """The same where a client speaks once: its shares for the committee stay its own."""
        if self._upload is None:
            self._weight = len(reply.to_frame())
            self._upload = _copy(reply)
            return replace(reply, low=self._upload.low, high=self._upload.high)
        if not self._upload.fits(reply.low, reply.high):
            return reply
        self._upload.add(reply.low, reply.high)
        return FoldedUpload(self._weight, reply.nonce, reply.sealed)


def _copy(reply: MaskedUpload) -> Masked:
    """What the client sent, to add others to."""
    if reply.high.dtype == np.uint8:
        return Masked(reply.low.astype(np.uint32), reply.high.astype(np.uint8))
    return Masked(reply.low.astype(np.uint32), reply.high.astype(np.uint16))


def weight_of(reply: Message) -> int:
    """The bytes that a client whose summand was folded would have sent; 0 if it was not."""
    return reply.weight if isinstance(reply, FoldedInput | FoldedUpload) else 0
