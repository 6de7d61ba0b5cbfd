"""The words of the one-shot sum: one trip to every client, and one to the committee."""

from __future__ import annotations

from dataclasses import dataclass, field

from codex_ray.types import ClientId, Stage
from codex_ray.wire import Message, Words


@dataclass(frozen=True)
class SpeakRequest(Message, tag=32, stage=Stage.MASKED_INPUT):
    """Server to client, trip 1: mask your summand, and know the session it goes into.

    Attributes:
        members: everyone invited, uint32 [n], increasing.
        committee: who is to hold the shares, increasing; the client computes the same.
        threshold: answers that rebuild the sum of the keys.
        packing: field elements in one polynomial.
        nonce: 32 fresh bytes of the server's.
    """

    members: Words
    committee: tuple[int, ...]
    threshold: int
    packing: int
    nonce: bytes


@dataclass(frozen=True)
class MaskedUpload(Message, tag=33, stage=Stage.MASKED_INPUT):
    """Client to server, trip 1: all that it ever says, unless it sits on the committee.

    Attributes:
        low: the masked summand [d] modulo 2^w, its low 32 bits.
        high: the bits above; empty where there are none.
        nonce: 32 fresh bytes of the client's, part of every key that seals a share.
        sealed: shares of the mask's key, one for each committee member in their order, all of one
            length.
    """

    low: Words
    high: Words
    nonce: bytes
    sealed: bytes


@dataclass(frozen=True)
class FoldedUpload(Message, tag=34, stage=Stage.MASKED_INPUT):
    """A simulating host to its server, trip 1: this client's vector is in another's reply.

    `weight` is the length of the frame that the client would have sent by itself.
    """

    weight: int
    nonce: bytes
    sealed: bytes


@dataclass(frozen=True)
class OpenRequest(Message, tag=35, stage=Stage.UNMASK):
    """Server to committee member, trip 2: who survived, and what each of them sealed for you.

    Attributes:
        survivors: increasing.
        nonces: theirs, 32 bytes each, in the same order.
        sealed: theirs, all of one length, in the same order.
    """

    survivors: tuple[ClientId, ...]
    nonces: bytes
    sealed: bytes


@dataclass(frozen=True)
class ShareSum(Message, tag=36, stage=Stage.UNMASK):
    """Committee member to server, trip 2: the sum of the survivors' shares, uint32 field elements.

    No single share leaves a member.
    """

    share: Words = field(repr=False)


@dataclass(frozen=True)
class Complaint(Message, tag=37, stage=Stage.UNMASK):
    """Committee member to server, trip 2: no sum, for what these clients sealed does not open."""

    clients: tuple[ClientId, ...]
