"""Who takes part in a session, as both sides see it: signed advertisements and their digest.

The digest of everybody's advertisement (the roster) is part of the session, and the session is part
of every key and the seed of the graph. So clients that were shown different rosters share no key,
and one nonce more or less is another graph.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from codex_ray.errors import ProtocolError
from codex_ray.secagg.identity import SIGNATURE_BYTES
from codex_ray.secagg.keys import KEY_BYTES, bind, join
from codex_ray.secagg.messages import AdvertisedKeys, AdvertiseRequest
from codex_ray.secagg.parameters import Plan
from codex_ray.types import ClientId, SessionContext

NONCE_BYTES = 32


@dataclass(frozen=True)
class Opening:
    """What is fixed before anybody answers.

    Attributes:
        context: the run, round, attempt and model.
        plan: sizes and rules.
        nonce: the server's.
        enrolment: digest of the enrolment list; empty where there is none.
    """

    context: SessionContext
    plan: Plan
    nonce: bytes
    enrolment: bytes

    @property
    def request(self) -> AdvertiseRequest:
        """The server's first message."""
        return AdvertiseRequest(
            self.plan.members, self.plan.degree, self.plan.threshold, self.nonce
        )

    def statement(self, client: ClientId, keys: AdvertisedKeys) -> bytes:
        """What `client` signs when it advertises `keys`."""
        return join("advertise", self.bound, client, keys.public, keys.nonce)

    def session(self, roster: bytes) -> bytes:
        """The digest [32] that everything from trip 2 on is bound to."""
        return hashlib.sha256(join("session", self.bound, roster)).digest()

    def survivors_statement(self, session: bytes, survivors: tuple[ClientId, ...]) -> bytes:
        """What clients sign when they are told who survived."""
        return Survivors.of(survivors).statement(session)

    def commitment(self, client: ClientId, nonce: bytes) -> bytes:
        """The digest by which `client` commits to its nonce."""
        return hashlib.sha256(join("nonce", self.bound, client, nonce)).digest()

    def graph_seed(self, session: bytes) -> bytes:
        """What the neighbourhoods are drawn from: fresh each session, or with the enrolled keys.

        Enrolled keys pay off where pairs meet again, so there the graph is the same for the whole
        run: it follows from the enrolment list, which was fixed before.
        """
        if self.plan.keys == "session":
            return session
        return hashlib.sha256(join(self.context.run, "graph", self.enrolment)).digest()

    @cached_property
    def bound(self) -> bytes:
        """The digest [32] of all of it."""
        plan = self.plan
        return bind(
            self.context,
            plan.adversary,
            plan.keys,
            plan.members,
            plan.degree,
            plan.threshold,
            self.nonce,
            self.enrolment,
        )

    def well_formed(self, keys: AdvertisedKeys) -> bool:
        """Whether the parts of an advertisement have the lengths that the rules ask for."""
        public = KEY_BYTES if self.plan.keys == "session" else 0
        signature = SIGNATURE_BYTES if self.plan.signed else 0
        return (len(keys.public), len(keys.nonce), len(keys.signature)) == (
            public,
            NONCE_BYTES,
            signature,
        )


@dataclass(frozen=True)
class Survivors:
    """A claim about who survived, read once for all clients of a host.

    Attributes:
        ids: everyone claimed.
        digest: SHA-256 [32] of the list as it was claimed.
        ordered: whether it lists each once, in increasing order.
    """

    ids: frozenset[ClientId]
    digest: bytes
    ordered: bool

    @classmethod
    def of(cls, claimed: tuple[ClientId, ...]) -> Survivors:
        """What a claim says."""
        ids = frozenset(claimed)
        listed = np.asarray(claimed, dtype="<u4")
        return cls(ids, hashlib.sha256(listed.tobytes()).digest(), list(claimed) == sorted(ids))

    def statement(self, session: bytes) -> bytes:
        """What clients sign for each other."""
        return join(session, "survivors", self.digest)


def roster_of(adverts: Mapping[ClientId, bytes]) -> bytes:
    """SHA-256 [32] over all signed advertisements, in increasing order of the ids."""
    digest = hashlib.sha256()
    for client in sorted(adverts):
        digest.update(join(client, adverts[client]))
    return digest.digest()


def roster_of_nonces(
    opening: Opening, committed: Mapping[ClientId, bytes], nonces: Mapping[ClientId, bytes]
) -> bytes:
    """The same under `malicious`: over everyone's commitment and, where it came, its nonce.

    Raises:
        ProtocolError: a nonce is not the one that was committed to.
    """
    for client, nonce in nonces.items():
        if opening.commitment(client, nonce) != committed.get(client):
            raise ProtocolError(f"the nonce of client {client} is not the one it committed to")
    digest = hashlib.sha256()
    for client in sorted(committed):
        digest.update(join(client, committed[client], nonces.get(client, b"")))
    return digest.digest()
