"""The words that client and server exchange, one frozen class for each half of each trip."""

from __future__ import annotations

from dataclasses import dataclass, field

from codex_ray.types import ClientId, Stage
from codex_ray.wire import Message, Words


@dataclass(frozen=True)
class AdvertiseRequest(Message, tag=16, stage=Stage.ADVERTISE_KEYS):
    """Server to client, trip 1: send your public key, and know the session you enter.

    Attributes:
        members: how many clients were invited.
        degree: how many neighbours a client has; members - 1 is the complete graph.
        threshold: how many shares rebuild a secret.
        nonce: 32 fresh bytes of the server's.
    """

    members: int
    degree: int
    threshold: int
    nonce: bytes


@dataclass(frozen=True)
class AdvertisedKeys(Message, tag=17, stage=Stage.ADVERTISE_KEYS):
    """Client to server, trip 1: what it brings to the session, signed.

    Attributes:
        public: the X25519 key of this session; empty where enrolled keys serve.
        nonce: 32 fresh bytes, or under `malicious` the digest that commits to them.
        signature: Ed25519, by the enrolled identity; empty under `semi_honest`.
    """

    public: bytes
    nonce: bytes
    signature: bytes


@dataclass(frozen=True)
class NonceCommitments(Message, tag=28, stage=Stage.REVEAL_NONCES):
    """Server to client, malicious only: everyone invited, and what each committed to, if it did."""

    committed: dict[ClientId, bytes]


@dataclass(frozen=True)
class RevealedNonce(Message, tag=29, stage=Stage.REVEAL_NONCES):
    """Client to server, malicious only: the nonce that it committed to."""

    nonce: bytes


@dataclass(frozen=True)
class KeyDirectory(Message, tag=18, stage=Stage.SHARE_KEYS):
    """Server to client, trip 2: who is around it.

    Attributes:
        adverts: the advertisement of each neighbour and of the client itself, as the frame that it
            sent.
        roster: digest of all advertisements of the session; empty under `malicious`.
        nonces: everyone's revealed nonce, under `malicious`; else empty.
    """

    adverts: dict[ClientId, bytes]
    roster: bytes
    nonces: dict[ClientId, bytes]


@dataclass(frozen=True)
class SealedShares(Message, tag=19, stage=Stage.SHARE_KEYS):
    """Client to server, trip 2: its two secrets in shares, and what the second of them opens.

    Attributes:
        sealed: for each neighbour its share of the self-mask seed and of the escrow key.
        escrow: the client's pair seeds of this session, sealed under the escrow key, in increasing
            order of the neighbours.
        commitments: digest of the self-mask seed || digest of the escrow key.
    """

    sealed: dict[ClientId, bytes]
    escrow: bytes
    commitments: bytes


@dataclass(frozen=True)
class ShareDelivery(Message, tag=20, stage=Stage.MASKED_INPUT):
    """Server to client, trip 3: what each neighbour sealed for you. Its senders are your pairs."""

    sealed: dict[ClientId, bytes]


@dataclass(frozen=True)
class MaskedInput(Message, tag=21, stage=Stage.MASKED_INPUT):
    """Client to server, trip 3: summand plus masks [d], uniform to whoever lacks a key."""

    words: Words


@dataclass(frozen=True)
class FoldedInput(Message, tag=30, stage=Stage.MASKED_INPUT):
    """A simulating host to its server, trip 3: this client's masked input is in another's reply.

    Masked inputs are only ever added up, so a host that carries many clients adds theirs before it
    sends them. `weight` is the length of the frame that the client would have sent by itself.
    """

    weight: int


@dataclass(frozen=True)
class SurvivorClaim(Message, tag=31, stage=Stage.CONFIRM_SURVIVORS):
    """Server to client, where it may lie: everyone whose masked input came."""

    survivors: tuple[ClientId, ...]


@dataclass(frozen=True)
class SignedSurvivors(Message, tag=48, stage=Stage.CONFIRM_SURVIVORS):
    """Client to server, where that may lie: its signature of the claim, for its neighbours."""

    signature: bytes


@dataclass(frozen=True)
class UnmaskRequest(Message, tag=22, stage=Stage.UNMASK):
    """Server to client, trip 4: who around you is in the sum, and who dropped before it.

    `signatures` has, unless the server is `semi_honest`, neighbours' signatures of the claim.
    """

    survivors: tuple[ClientId, ...]
    dropped: tuple[ClientId, ...]
    signatures: dict[ClientId, bytes]


@dataclass(frozen=True)
class UnmaskShares(Message, tag=23, stage=Stage.UNMASK):
    """Client to server, trip 4: seed shares of survivors, escrow-key shares of dropped clients."""

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
