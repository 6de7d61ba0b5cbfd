"""Key pairs, the keys that two clients derive from them, and sealed envelopes between clients.

Every derived key is HKDF-SHA256(X25519, info), and info holds the whole session context, what the
key is for, and the ordered pair. So no two sessions, attempts, models, pairs, directions or
purposes share a key, and each key encrypts one message: that is why the nonce may be constant.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from codex_ray.errors import ProtocolError
from codex_ray.randomness import fresh_secret
from codex_ray.types import ClientId, SessionContext

SECRET_BYTES = 32
"""Length of a mask private key, of a self-mask seed and of every derived key."""

Purpose: TypeAlias = Literal["channel", "mask", "self mask"]

_LABEL = b"codex_ray/secagg/1"
_NONCE = bytes(12)


def _join(*parts: bytes | int | str) -> bytes:
    """The parts as bytes, injective: each carries its length."""
    out = []
    for part in parts:
        if isinstance(part, int):
            raw = part.to_bytes(8, "little", signed=True)
        else:
            raw = part.encode() if isinstance(part, str) else part
        out.append(len(raw).to_bytes(4, "little") + raw)
    return b"".join(out)


@lru_cache(maxsize=16)
def encode_context(context: SessionContext) -> bytes:
    """The context as bytes, injective: what every key, seal and commitment is bound to."""
    return _join(
        _LABEL,
        context.run,
        context.round,
        context.attempt,
        context.model_digest,
        context.dimension,
    )


@dataclass(frozen=True)
class KeyPair:
    """An X25519 key pair; a client has one for its channels and another for its masks.

    The mask private key is what a dropped client's neighbours hand to the server, so it must open
    nothing else.
    """

    key: X25519PrivateKey = field(repr=False, compare=False)
    public: bytes

    @classmethod
    def fresh(cls) -> KeyPair:
        """A new pair from the operating system's randomness."""
        return cls.of(fresh_secret(SECRET_BYTES))

    @classmethod
    def of(cls, private: bytes) -> KeyPair:
        """The pair whose private key is `private`."""
        key = X25519PrivateKey.from_private_bytes(private)
        return cls(key, key.public_key().public_bytes_raw())

    @property
    def private(self) -> bytes:
        """The private key, to be shared out and nothing else."""
        return self.key.private_bytes_raw()

    def agree(self, public: bytes) -> bytes:
        """The X25519 secret shared with the owner of `public`; only ever an input of `derive`.

        Raises:
            ProtocolError: `public` is a point of low order, or no key at all.
        """
        try:
            return self.key.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError as error:
            raise ProtocolError(f"public key {public.hex()} cannot be used: {error}") from error


def derive(
    secret: bytes, context: SessionContext, *, purpose: Purpose, first: ClientId, second: ClientId
) -> bytes:
    """The 32-byte key of (first, second) for `purpose`; the order of the pair is part of it."""
    info = _join(encode_context(context), purpose, first, second)
    return HKDF(hashes.SHA256(), SECRET_BYTES, salt=None, info=info).derive(secret)


def channel_key(
    pair: KeyPair,
    public: bytes,
    context: SessionContext,
    *,
    directions: tuple[tuple[ClientId, ClientId], ...],
) -> tuple[bytes, ...]:
    """One sealing key for each (sender, receiver) of `directions`, from a single exchange."""
    secret = pair.agree(public)
    return tuple(
        derive(secret, context, purpose="channel", first=sender, second=receiver)
        for sender, receiver in directions
    )


def pair_mask_key(
    pair: KeyPair, public: bytes, context: SessionContext, *, me: ClientId, peer: ClientId
) -> bytes:
    """The key of the mask that `me` and `peer` share: the same from either side."""
    low, high = sorted((me, peer))
    return derive(pair.agree(public), context, purpose="mask", first=low, second=high)


def self_mask_key(seed: bytes, context: SessionContext, *, me: ClientId) -> bytes:
    """The key of the mask that `me` puts on its own summand, from its seed b."""
    return derive(seed, context, purpose="self mask", first=me, second=me)


def commit(seed: bytes, context: SessionContext, *, me: ClientId) -> bytes:
    """A digest by which the server recognises the rebuilt seed; the seed's 256 bits hide it."""
    return hashlib.sha256(_join(encode_context(context), "commitment", me, seed)).digest()


def _header(context: SessionContext, sender: ClientId, receiver: ClientId) -> bytes:
    return _join(encode_context(context), sender, receiver)


def seal(
    key: bytes, plain: bytes, context: SessionContext, *, sender: ClientId, receiver: ClientId
) -> bytes:
    """`plain` under AES-256-GCM, bound to session and direction; `key` seals one message."""
    return AESGCM(key).encrypt(_NONCE, plain, _header(context, sender, receiver))


def unseal(
    key: bytes, sealed: bytes, context: SessionContext, *, sender: ClientId, receiver: ClientId
) -> bytes:
    """What `sender` sealed for `receiver` in this session.

    Raises:
        ProtocolError: it was altered, or comes from another session, sender or direction.
    """
    try:
        return AESGCM(key).decrypt(_NONCE, sealed, _header(context, sender, receiver))
    except (InvalidTag, ValueError) as error:
        raise ProtocolError(
            f"shares of client {sender} for client {receiver} do not open: altered on the way, or "
            "of another session or model"
        ) from error
