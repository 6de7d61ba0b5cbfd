"""What a one-shot session is, as both sides compute it: its digest, its committee, its keys.

Shares travel under keys that follow from the long-lived X25519 keys of the enrolment list, by
HKDF over the session's digest, the direction and the sender's fresh nonce. Whoever can seal or open
is one of the two ends: that authenticates a share without a signature. It has no forward secrecy:
who learns a committee member's long-lived key later can open what was sealed for it, and with R
such keys the mask of every client. Keys of the session alone would need one more trip and m n
signature checks.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np

from codex_ray.secagg.committee import CommitteePlan, draw_committee
from codex_ray.secagg.identity import Enrolment
from codex_ray.secagg.keys import bind, derive, join
from codex_ray.secagg.lattice import KEY_ELEMENTS, Modulus
from codex_ray.secagg.one_shot_messages import SpeakRequest
from codex_ray.secagg.packed_shamir import share_length
from codex_ray.types import ClientId, SessionContext

NONCE_BYTES = 32
_TAG_BYTES = 16


@dataclass(frozen=True)
class OneShotOpening:
    """What is fixed before anybody speaks; the clients of a host share one (see `open_one_shot`).

    Attributes:
        context: the run, round, attempt and model.
        plan: sizes and rules.
        listed: everyone invited, 4 little-endian bytes each, increasing.
        nonce: the server's.
        enrolment: digest of the enrolment list.
    """

    context: SessionContext
    plan: CommitteePlan
    listed: bytes
    nonce: bytes
    enrolment: bytes
    _unknown: dict[bytes, tuple[ClientId, ...]] = field(
        default_factory=dict, repr=False, compare=False
    )

    @cached_property
    def members(self) -> tuple[ClientId, ...]:
        """Everyone invited."""
        return tuple(np.frombuffer(self.listed, dtype="<u4").tolist())

    @cached_property
    def member_set(self) -> frozenset[ClientId]:
        """The same, to look one up."""
        return frozenset(self.members)

    @cached_property
    def committee(self) -> tuple[ClientId, ...]:
        """Who holds the shares, in the order of their numbers 1, 2, ...

        Nothing that the server draws is in the seed, so it cannot draw again.
        """
        return committee_of(self.context, self.plan, self.members, enrolment=self.enrolment)

    @cached_property
    def session(self) -> bytes:
        """The digest [32] that every key is bound to."""
        plan = self.plan
        opened = bind(
            self.context,
            "one shot",
            self.enrolment,
            self.nonce,
            plan.adversary,
            plan.threshold,
            plan.packing,
            plan.minimum,
        )
        return hashlib.sha256(join(opened, self.listed, *self.committee)).digest()

    @cached_property
    def modulus(self) -> Modulus:
        """The word of a masked input.

        Raises:
            ConfigError: there are too many members.
        """
        return Modulus.of_sum(len(self.members), self.context.bits)

    @property
    def request(self) -> SpeakRequest:
        """The server's first message."""
        members = np.frombuffer(self.listed, dtype="<u4")
        return SpeakRequest(
            members, self.committee, self.plan.threshold, self.plan.packing, self.nonce
        )

    @property
    def share_words(self) -> int:
        """Field elements in a share."""
        return share_length(KEY_ELEMENTS, self.plan.packing)

    @property
    def sealed_bytes(self) -> int:
        """The length of a sealed share."""
        return sealed_length(self.plan.packing)

    def strangers(self, enrolment: Enrolment) -> tuple[ClientId, ...]:
        """Those invited whom the list does not have, looked up once for all who read that list."""
        if enrolment.digest not in self._unknown:
            missing = self.member_set - enrolment.entries.keys()
            self._unknown[enrolment.digest] = tuple(sorted(missing))
        return self._unknown[enrolment.digest]


def sealed_length(packing: int) -> int:
    """The bytes of one client's share for one committee member, sealed."""
    return 4 * share_length(KEY_ELEMENTS, packing) + _TAG_BYTES


def committee_of(
    context: SessionContext,
    plan: CommitteePlan,
    members: tuple[ClientId, ...],
    *,
    enrolment: bytes,
) -> tuple[ClientId, ...]:
    """The committee of the session with these beginnings, in increasing order."""
    seed = bind(context, "committee", enrolment, plan.size, plan.threshold, plan.packing)
    return draw_committee(members, seed, size=plan.size)


@lru_cache(maxsize=4)
def open_one_shot(
    context: SessionContext, plan: CommitteePlan, listed: bytes, *, nonce: bytes, enrolment: bytes
) -> OneShotOpening:
    """The session with these beginnings: the same object for the clients of one host."""
    return OneShotOpening(context, plan, listed, nonce, enrolment)


def share_key(
    secret: bytes, session: bytes, *, sender: ClientId, receiver: ClientId, nonce: bytes
) -> bytes:
    """The key that seals the share which `sender` deals `receiver`, from their X25519 secret.

    `nonce` is the sender's and fresh: should a server play a session again, it still gets no two
    shares under one key.
    """
    return derive(secret, join(session, "share", sender, receiver, nonce))[0]
