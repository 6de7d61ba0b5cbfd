"""The words that client and server exchange, one frozen class for each half of each trip."""

from __future__ import annotations

from dataclasses import dataclass, field

from codex_ray.types import ClientId, Stage
from codex_ray.wire import Message, Words

KEY_BYTES = 32
"""An X25519 public key; a directory entry is two of them, channel key first."""


@dataclass(frozen=True)
class AdvertiseRequest(Message, tag=16, stage=Stage.ADVERTISE_KEYS):
    """Server to client, trip 1: send your public keys, and know the session you enter.

    Attributes:
        members: how many clients were invited.
        degree: how many neighbours a client has; members - 1 is the complete graph.
        threshold: how many shares rebuild a secret.
    """

    members: int
    degree: int
    threshold: int


@dataclass(frozen=True)
class AdvertisedKeys(Message, tag=17, stage=Stage.ADVERTISE_KEYS):
    """Client to server, trip 1: the two public keys of this session."""

    channel: bytes
    mask: bytes


@dataclass(frozen=True)
class KeyDirectory(Message, tag=18, stage=Stage.SHARE_KEYS):
    """Server to client, trip 2: channel key || mask key of each neighbour and of the client."""

    keys: dict[ClientId, bytes]


@dataclass(frozen=True)
class SealedShares(Message, tag=19, stage=Stage.SHARE_KEYS):
    """Client to server, trip 2: for each neighbour its shares, sealed; and a digest of the seed."""

    sealed: dict[ClientId, bytes]
    commitment: bytes


@dataclass(frozen=True)
class ShareDelivery(Message, tag=20, stage=Stage.MASKED_INPUT):
    """Server to client, trip 3: what each neighbour sealed for you. Its senders are your pairs."""

    sealed: dict[ClientId, bytes]


@dataclass(frozen=True)
class MaskedInput(Message, tag=21, stage=Stage.MASKED_INPUT):
    """Client to server, trip 3: summand plus masks [d], uniform to whoever lacks a key."""

    words: Words


@dataclass(frozen=True)
class UnmaskRequest(Message, tag=22, stage=Stage.UNMASK):
    """Server to client, trip 4: who around you is in the sum, and who dropped before it."""

    survivors: tuple[ClientId, ...]
    dropped: tuple[ClientId, ...]


@dataclass(frozen=True)
class UnmaskShares(Message, tag=23, stage=Stage.UNMASK):
    """Client to server, trip 4: seed shares of survivors, mask-key shares of dropped clients."""

    shares: dict[ClientId, bytes] = field(repr=False)


@dataclass(frozen=True)
class SummandRequest(Message, tag=24, stage=Stage.MASKED_INPUT):
    """Server to client, clear and ideal: send your summand as it is. Masking clients refuse."""


@dataclass(frozen=True)
class PlainSummand(Message, tag=25, stage=Stage.MASKED_INPUT):
    """Client to server, clear and ideal: the summand [d], readable by the server."""

    words: Words


@dataclass(frozen=True)
class SurvivorCheck(Message, tag=26, stage=Stage.UNMASK):
    """Server to client, ideal: are you still there, as the unmask trip would ask?"""

    survivors: tuple[ClientId, ...]


@dataclass(frozen=True)
class SurvivorAck(Message, tag=27, stage=Stage.UNMASK):
    """Client to server, ideal: still here."""
