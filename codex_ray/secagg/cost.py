"""What a round of secure aggregation costs: operations, bytes, and seconds at given rates.

The counts follow from the plan and from who dropped, so they can be had without running anything:
an ideal sum reports what the real one would have cost, and a benchmark has something to be held
against. Neighbourhoods are taken to lose their share of the cohort's dropouts; a real graph spreads
around that.
"""

from __future__ import annotations

from dataclasses import dataclass

from codex_ray.secagg import shamir
from codex_ray.secagg.identity import SIGNATURE_BYTES
from codex_ray.secagg.keys import DIGEST_BYTES, KEY_BYTES, SECRET_BYTES
from codex_ray.secagg.messages import (
    AdvertisedKeys,
    RevealedNonce,
    SealedShares,
    SignedSurvivors,
    UnmaskShares,
)
from codex_ray.secagg.parameters import Plan
from codex_ray.secagg.roster import NONCE_BYTES
from codex_ray.types import word_type

_TAG_BYTES = 16
_VECTOR_HEAD = 12
"""Tag and version, word size and count, before the words of a masked input."""


@dataclass(frozen=True)
class Attendance:
    """How many clients answered each trip: those of the later ones are among the earlier."""

    advertised: int
    shared: int
    masked: int
    unmasked: int


@dataclass(frozen=True)
class Operations:
    """What a round comes to, over all clients and the server; fractions are expectations.

    Attributes:
        agreements: X25519 exchanges.
        signatures, verifications: Ed25519.
        seals: AES-GCM envelopes, sealed or opened.
        shares: Shamir shares dealt.
        rebuilt: secrets rebuilt from shares.
        client_masks, server_masks: expansions of a key to a vector [d].
        additions: vectors [d] added to a sum.
        bytes_up: sent by all clients together.
    """

    agreements: float
    signatures: float
    verifications: float
    seals: float
    shares: float
    rebuilt: float
    client_masks: float
    server_masks: float
    additions: float
    bytes_up: float


@dataclass(frozen=True)
class Rates:
    """Seconds for one operation on one core of a machine.

    `mask` and `add` are by the byte of the vector: keystream and addition together, and an addition
    alone.
    """

    agreement: float
    key_pair: float
    sign: float
    verify: float
    seal: float
    share: float
    rebuild: float
    mask: float
    add: float


def count(plan: Plan, seen: Attendance, *, dimension: int, bits: int) -> Operations:
    """The operations of a round with these sizes and this attendance."""
    among = max(1, plan.members - 1)

    def near(some: float) -> float:
        """The expected neighbours of a client among `some` others."""
        return plan.degree * max(0.0, some - 1) / among

    dropped = seen.shared - seen.masked
    pairs = near(seen.advertised)
    paired = near(seen.shared)
    lost_pairs = dropped * plan.degree * seen.masked / among
    holders = pairs + plan.complete
    confirming = min(plan.threshold - plan.complete, near(seen.masked)) if plan.confirms else 0.0
    return Operations(
        agreements=seen.advertised * pairs,
        signatures=plan.signed * seen.advertised + plan.confirms * seen.masked,
        verifications=plan.signed * seen.advertised * pairs + seen.unmasked * confirming,
        seals=seen.advertised * (pairs + 1) + seen.masked * paired + dropped,
        shares=2 * seen.advertised * holders,
        rebuilt=seen.masked + dropped,
        client_masks=seen.masked * (paired + 1),
        server_masks=seen.masked + lost_pairs,
        additions=seen.masked,
        bytes_up=_bytes_up(plan, seen, pairs=pairs, held=paired + plan.complete)
        + seen.masked * (_VECTOR_HEAD + dimension * word_type(bits).itemsize),
    )


def _bytes_up(plan: Plan, seen: Attendance, *, pairs: float, held: float) -> float:
    """What clients send beside their masked inputs."""
    share = shamir.share_bytes(SECRET_BYTES)
    advert = AdvertisedKeys(
        bytes(KEY_BYTES if plan.keys == "session" else 0),
        bytes(NONCE_BYTES),
        bytes(SIGNATURE_BYTES if plan.signed else 0),
    )
    sealed = SealedShares({}, bytes(_TAG_BYTES), bytes(2 * DIGEST_BYTES))
    per_pair = len(SealedShares({1: bytes(2 * share + _TAG_BYTES)}, b"", b"").to_frame())
    per_pair += SECRET_BYTES - len(SealedShares({}, b"", b"").to_frame())
    per_share = len(UnmaskShares({1: bytes(share)}).to_frame()) - len(UnmaskShares({}).to_frame())
    total: float = seen.advertised * len(advert.to_frame())
    total += seen.shared * (len(sealed.to_frame()) + pairs * per_pair)
    total += seen.unmasked * (len(UnmaskShares({}).to_frame()) + held * per_share)
    if plan.checks_roster:
        total += seen.advertised * len(RevealedNonce(bytes(NONCE_BYTES)).to_frame())
    if plan.confirms:
        total += seen.masked * len(SignedSurvivors(bytes(SIGNATURE_BYTES)).to_frame())
    return total


@dataclass(frozen=True)
class Seconds:
    """CPU seconds of a round on one core: of all clients together, and of the server."""

    clients: float
    server: float

    @property
    def round(self) -> float:
        """Of everybody."""
        return self.clients + self.server


def price(
    counted: Operations, seen: Attendance, rates: Rates, *, dimension: int, bits: int
) -> Seconds:
    """What the operations take at these rates."""
    vector = dimension * word_type(bits).itemsize
    clients = (
        seen.advertised * rates.key_pair
        + counted.agreements * rates.agreement
        + counted.signatures * rates.sign
        + counted.verifications * rates.verify
        + counted.seals * rates.seal
        + counted.shares * rates.share
        + counted.client_masks * vector * rates.mask
    )
    server = (
        counted.additions * vector * rates.add
        + counted.server_masks * vector * rates.mask
        + counted.rebuilt * rates.rebuild
    )
    return Seconds(clients, server)
