"""Key pairs, the keys that two clients derive from them, and sealed envelopes between clients.

Every derived key is HKDF-SHA256(secret, info), and info holds the session's digest, what the key is
for, and the ordered pair. The digest covers the whole context, both sides' nonces and everyone's
advertisement, so no two sessions, attempts, models, pairs, directions or purposes share a key, and
each key encrypts one message: that is why the nonce of the cipher may be constant.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from codex_ray.errors import ProtocolError
from codex_ray.randomness import fresh_secret
from codex_ray.types import ClientId, SessionContext

KEY_BYTES = 32
"""Length of a public key."""

SECRET_BYTES = 32
"""Length of a seed, of a private key and of every derived key."""

DIGEST_BYTES = 32

_X25519_PRIME = (1 << 255) - 19
_LOW_ORDER = frozenset(
    {
        *(0, 1, _X25519_PRIME - 1),
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
    }
)
"""All u whose points on Curve25519 and its twist have an order that divides 8: a secret agreed with
one of them is zero, whatever the other key (Bernstein, "Curve25519", how to validate keys)."""

_LABEL = b"codex_ray/secagg/3"
_NONCE = bytes(12)
_SHA256 = hashes.SHA256()
_LENGTH = struct.Struct("<I")
_NUMBER = struct.Struct("<Iq")
_ENDS = struct.Struct("<IqIq")


def join(*parts: bytes | int | str) -> bytes:
    """The parts as bytes, injective: each carries its length."""
    out: list[bytes] = []
    for part in parts:
        if isinstance(part, int):
            out.append(_NUMBER.pack(_NUMBER.size - _LENGTH.size, part))
        else:
            raw = part if isinstance(part, bytes) else part.encode()
            out += (_LENGTH.pack(len(raw)), raw)
    return b"".join(out)


_PAIR = join("pair")


@lru_cache(maxsize=16)
def encode_context(context: SessionContext) -> bytes:
    """The context as bytes, injective: what every signature and every session is bound to."""
    return join(
        _LABEL,
        context.run,
        context.round,
        context.attempt,
        context.model_digest,
        context.dimension,
        context.bits,
    )


def bind(context: SessionContext, *parts: bytes | int | str) -> bytes:
    """SHA-256 [32] over the context and `parts`, in this order."""
    return hashlib.sha256(join(encode_context(context), *parts)).digest()


@dataclass(frozen=True)
class KeyPair:
    """An X25519 key pair. Its private half is never shared out, sent or revealed."""

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

    def agree(self, public: bytes) -> bytes:
        """The X25519 secret shared with the owner of `public`; only ever an input of a derivation.

        Raises:
            ProtocolError: `public` is a point of low order, or no key at all.
        """
        try:
            return self.key.exchange(_read(public))
        except ValueError as error:
            raise ProtocolError(f"public key {public.hex()} cannot be used: {error}") from error


@lru_cache(maxsize=1 << 14)
def _read(public: bytes) -> X25519PublicKey:
    """The key, read once for all of its owner's neighbours on a host."""
    return X25519PublicKey.from_public_bytes(public)


def usable(public: bytes) -> bool:
    """Whether pairs can agree by this key: it is one, and no point of low order.

    X25519 leaves out the highest bit, and takes what is left modulo the prime (RFC 7748, section
    5). So this says beforehand whether `KeyPair.agree` refuses.
    """
    number = int.from_bytes(public, "little") % (1 << 255)
    return len(public) == KEY_BYTES and number % _X25519_PRIME not in _LOW_ORDER


def derive(secret: bytes, info: bytes, *, count: int = 1) -> tuple[bytes, ...]:
    """`count` independent 32-byte keys from `secret` for the use that `info` names (RFC 5869)."""
    okm = HKDF(_SHA256, SECRET_BYTES * count, salt=None, info=info).derive(secret)
    return tuple([okm[at : at + SECRET_BYTES] for at in range(0, len(okm), SECRET_BYTES)])


@dataclass(frozen=True)
class PairKeys:
    """What two clients derive from their X25519 secret for one session.

    Attributes:
        mask: seed of the mask that both put on, one adding and one subtracting. It is all that is
            ever revealed of a pair.
        outward, inward: seal what goes to the peer, and open what comes from it.
    """

    mask: bytes = field(repr=False)
    outward: bytes = field(repr=False)
    inward: bytes = field(repr=False)


def told(client: ClientId, advert: bytes) -> bytes:
    """Who advertised what, as the keys of its pairs are bound to it: `advert` is the frame sent."""
    return join(client, advert)


def pair_keys(
    secret: bytes,
    session: bytes,
    *,
    me: ClientId,
    peer: ClientId,
    adverts: Mapping[ClientId, bytes],
) -> PairKeys:
    """The keys of (me, peer): the peer derives the same, with outward and inward exchanged.

    `adverts` has what both were `told` to have advertised. Each holds a fresh nonce, which counts
    where `secret` is lasting and the server says what the roster is: with its nonce and roster of
    an earlier session it would otherwise get the earlier keys, in use a second time.
    """
    low, high = (me, peer) if me < peer else (peer, me)
    bound = _LENGTH.pack(len(session)) + session + _PAIR
    mask, up, down = derive(secret, bound + adverts[low] + adverts[high], count=3)
    return PairKeys(mask, up, down) if me == low else PairKeys(mask, down, up)


def self_mask_key(seed: bytes, session: bytes, *, me: ClientId) -> bytes:
    """The key of the mask that `me` puts on its own summand, from its seed b."""
    return derive(seed, join(session, "self mask", me))[0]


def commit(secret: bytes, session: bytes, *, purpose: str, me: ClientId) -> bytes:
    """A digest [32] by which the server knows a rebuilt secret; its 256 bits hide it."""
    return hashlib.sha256(join(session, "commitment", purpose, me, secret)).digest()


def seal(
    key: bytes, plain: bytes, session: bytes, *, sender: ClientId, receiver: ClientId
) -> bytes:
    """`plain` under AES-256-GCM, bound to session and direction; `key` seals one message."""
    return AESGCM(key).encrypt(_NONCE, plain, _direction(session, sender, receiver))


def unseal(
    key: bytes, sealed: bytes, session: bytes, *, sender: ClientId, receiver: ClientId
) -> bytes:
    """What `sender` sealed for `receiver` in this session.

    Raises:
        ProtocolError: it was altered, or comes from another session, sender or direction.
    """
    try:
        return AESGCM(key).decrypt(_NONCE, sealed, _direction(session, sender, receiver))
    except (InvalidTag, ValueError) as error:
        raise ProtocolError(
            f"what client {sender} sealed for client {receiver} does not open: altered on the way, "
            "or of another session or model"
        ) from error


def _direction(session: bytes, sender: ClientId, receiver: ClientId) -> bytes:
    """join(session, sender, receiver), in one go because every envelope has one."""
    return _LENGTH.pack(len(session)) + session + _ENDS.pack(8, sender, 8, receiver)
