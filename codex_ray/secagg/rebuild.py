"""Secrets rebuilt from the shares of survivors, each checked against what its owner promised.

A mask key must belong to the advertised public key, a seed must have the digest that came with the
shares. So a wrong share is noticed, and left out if enough others came. Should the owner itself
have dealt shares that do not fit, the session aborts: owners are assumed to follow the protocol or
to drop.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain, combinations

from codex_ray.errors import ProtocolError, SumAborted
from codex_ray.secagg import shamir
from codex_ray.secagg.keys import SECRET_BYTES, KeyPair, commit
from codex_ray.secagg.messages import UnmaskShares
from codex_ray.types import ClientId, SessionContext

WRONG_SHARES = 2
"""How many wrong shares of a secret are worked around, if so many came beyond the threshold."""


@dataclass(frozen=True)
class Promise:
    """What the server noted of a client: share holders by number, mask key and seed digest."""

    holders: tuple[ClientId, ...]
    mask_public: bytes
    commitment: bytes


@dataclass(frozen=True)
class Rebuild:
    """The secrets of one session, as far as `answers` give them."""

    context: SessionContext
    threshold: int
    promises: Mapping[ClientId, Promise]
    answers: Mapping[ClientId, UnmaskShares]

    def seed(self, owner: ClientId) -> bytes:
        """The self-mask seed of a survivor.

        Raises:
            SumAborted: too few shares came, or they do not fit together.
        """
        promised = self.promises[owner].commitment
        return self._secret(
            owner, lambda seed: hmac.compare_digest(commit(seed, self.context, me=owner), promised)
        )

    def mask_pair(self, owner: ClientId) -> KeyPair:
        """The mask key pair of a client that dropped.

        Raises:
            SumAborted: too few shares came, or they do not fit together.
        """
        promised = self.promises[owner].mask_public
        return KeyPair.of(self._secret(owner, lambda key: KeyPair.of(key).public == promised))

    def _secret(self, owner: ClientId, genuine: Callable[[bytes], bool]) -> bytes:
        shares = {
            number: self.answers[holder].shares[owner]
            for number, holder in enumerate(self.promises[owner].holders, start=1)
            if holder in self.answers and owner in self.answers[holder].shares
        }
        spare = len(shares) - self.threshold
        if spare < 0:
            raise SumAborted(
                f"unmask: {len(shares)} shares of client {owner} came of {self.threshold} needed: "
                "wait longer for answers, or raise federation.protocol.assumed_dropout"
            )
        sizes = range(min(WRONG_SHARES, spare) + 1)
        suspects = sorted(shares)[: self.threshold + WRONG_SHARES]
        for left_out in chain.from_iterable(combinations(suspects, size) for size in sizes):
            some = {number: share for number, share in shares.items() if number not in left_out}
            try:
                secret = shamir.reconstruct(
                    some, threshold=self.threshold, secret_bytes=SECRET_BYTES
                )
            except ProtocolError:
                continue
            if genuine(secret):
                return secret
        raise SumAborted(
            f"unmask: {len(shares)} shares of client {owner} came, but they do not fit together: "
            f"more than {min(WRONG_SHARES, spare)} of them are wrong"
        )
