"""Who a client is: long-lived keys, and the list by which others know them.

An identity is an Ed25519 key that signs and an X25519 key that agrees. Both stay with the client
for as long as it is enrolled, and neither is ever shared out: what a session gives away when a
client drops is that session's alone. The enrolment list comes from whoever admits clients, never
from the server that sums; its digest is part of every session, so two clients with different lists
cannot agree on anything.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NoReturn, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from codex_ray.errors import ProtocolError
from codex_ray.secagg.keys import KEY_BYTES, KeyPair, usable
from codex_ray.types import ClientId

SIGNATURE_BYTES = 64

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Identity:
    """A client's long-lived private keys."""

    signing: Ed25519PrivateKey = field(repr=False, compare=False)
    agreement: KeyPair = field(repr=False)

    @classmethod
    def fresh(cls) -> Identity:
        """A new identity from the operating system's randomness."""
        return cls(Ed25519PrivateKey.generate(), KeyPair.fresh())

    @cached_property
    def public(self) -> bytes:
        """What the enrolment list holds of it: verification key || agreement key."""
        return self.signing.public_key().public_bytes_raw() + self.agreement.public

    def sign(self, message: bytes) -> bytes:
        """The Ed25519 signature of `message` (RFC 8032)."""
        return self.signing.sign(message)


@dataclass(frozen=True)
class Enrolment(Mapping[ClientId, bytes]):
    """The public keys of every client that may take part: id -> verification || agreement key."""

    entries: Mapping[ClientId, bytes]

    def __post_init__(self) -> None:
        """Refuses a list that could not tell its clients apart.

        Raises:
            ProtocolError: an entry is not two keys, or a key is listed twice.
        """
        if any(len(entry) != 2 * KEY_BYTES for entry in self.entries.values()):
            raise ProtocolError("an entry of the enrolment list is not two keys")
        keys = [half for it in self.entries.values() for half in (it[:KEY_BYTES], it[KEY_BYTES:])]
        if len(set(keys)) != len(keys):
            raise ProtocolError("a key is enrolled twice")

    def __getitem__(self, client: ClientId) -> bytes:
        return self.entries[client]

    def __iter__(self) -> Iterator[ClientId]:
        return iter(sorted(self.entries))

    def __len__(self) -> int:
        return len(self.entries)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over the whole list, in increasing order of the ids."""
        listed = hashlib.sha256(b"codex_ray/enrolment/2")
        for client in self:
            listed.update(client.to_bytes(8, "little") + self.entries[client])
        return listed.digest()

    def verification_key(self, client: ClientId) -> bytes:
        """The Ed25519 key of an enrolled client.

        Raises:
            ProtocolError: it is not enrolled.
        """
        return self._entry(client)[:KEY_BYTES]

    def agreement_key(self, client: ClientId) -> bytes:
        """The long-lived X25519 key of an enrolled client.

        Raises:
            ProtocolError: it is not enrolled.
        """
        return self._entry(client)[KEY_BYTES:]

    def verify(self, client: ClientId, message: bytes, signature: bytes) -> None:
        """Nothing, if `client` signed `message`.

        Raises:
            ProtocolError: it is not enrolled, or this is not its signature.
        """
        verify(self.verification_key(client), message, signature, of=client)

    def _entry(self, client: ClientId) -> bytes:
        try:
            return self.entries[client]
        except KeyError:
            raise ProtocolError(f"client {client} is not enrolled") from None


def admissible(listed: Mapping[ClientId, bytes]) -> dict[ClientId, bytes]:
    """Those of the public identities that can be enrolled together.

    One that is no pair of usable keys, or has a key that somebody else has as well, would end every
    session for everybody: whoever sent it is not admitted.
    """
    formed = {one: it for one, it in listed.items() if len(it) == 2 * KEY_BYTES}
    halves = Counter(it[at : at + KEY_BYTES] for it in formed.values() for at in (0, KEY_BYTES))
    return {
        one: it
        for one, it in formed.items()
        if halves[it[:KEY_BYTES]] == halves[it[KEY_BYTES:]] == 1 and usable(it[KEY_BYTES:])
    }


def verify(key: bytes, message: bytes, signature: bytes, *, of: ClientId) -> None:
    """Nothing, if `signature` is the one of `message` under the verification key.

    Raises:
        ProtocolError: it is not.
    """
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise ProtocolError(f"the signature of client {of} does not hold") from error


@dataclass(frozen=True)
class Membership:
    """What a client brings to a session: its own identity, and the list that it believes."""

    identity: Identity
    enrolment: Enrolment


class SharedWork:
    """Work that comes out the same for two clients of one host, done once for both.

    Two ends of a pair compute one X25519 secret, and a signature holds for every reader or for
    none. A simulating host may remember that for all its clients. A client in the field has nobody
    to share with, but its own secrets with enrolled keys are the same in every session.
    """

    def __init__(self, *, remember: bool = False) -> None:
        """Share nothing; or, with `remember`, what clients given this object have in common."""
        self._remember = remember
        self._lasting: dict[tuple[bytes, bytes], bytes] = {}
        self._passing: dict[tuple[bytes, bytes], bytes] = {}
        self._signed: set[tuple[bytes, bytes, bytes]] = set()
        self._known: dict[tuple[bytes, ClientId, bytes], Any] = {}
        self._done: dict[int, tuple[object, Any]] = {}
        """By the object's id, which is its own for as long as the object is kept here too."""
        self.spent: set[bytes] = set()
        """What clients did under their lasting keys in this context: not to be done again."""

    def __reduce__(self) -> NoReturn:
        """Refuses to be pickled: it holds the secrets of pairs."""
        raise TypeError("the shared work of a host holds secrets of pairs and cannot be pickled")

    def agree(self, pair: KeyPair, public: bytes, *, lasting: bool = False) -> bytes:
        """The X25519 secret of `pair` and the owner of `public`; `lasting` if both are enrolled.

        Raises:
            ProtocolError: `public` cannot be used.
        """
        if not self._remember:
            return pair.agree(public)
        kept = self._lasting if lasting else self._passing
        ends = (pair.public, public) if pair.public < public else (public, pair.public)
        secret = kept.get(ends)
        if secret is None:
            secret = kept[ends] = pair.agree(public)
        return secret

    def once(self, read: object, work: Callable[[], _Result]) -> _Result:
        """What `work` makes of a message that many clients are given as one and the same object."""
        if not self._remember:
            return work()
        if id(read) not in self._done:
            self._done[id(read)] = (read, work())
        result: _Result = self._done[id(read)][1]
        return result

    def checked(
        self, under: bytes, client: ClientId, frame: bytes, check: Callable[[], _Result]
    ) -> _Result:
        """What `check` makes of a client's frame, which is the same for all that are `under` the
        same rules; what it refuses it is asked again."""
        if not self._remember:
            return check()
        asked = (under, client, frame)
        known: _Result | None = self._known.get(asked)
        if known is None:
            known = self._known[asked] = check()
        return known

    def end_session(self) -> None:
        """Forgets what served one session only.

        Whoever calls sees to it that no context comes again.
        """
        self._passing.clear()
        self._signed.clear()
        self._known.clear()
        self._done.clear()
        self.spent.clear()

    def verify(
        self, enrolment: Enrolment, client: ClientId, message: bytes, signature: bytes
    ) -> None:
        """Nothing, if `client` signed `message`.

        Raises:
            ProtocolError: it is not enrolled, or this is not its signature.
        """
        if not self._remember:
            enrolment.verify(client, message, signature)
            return
        claim = (enrolment.verification_key(client), message, signature)
        if claim not in self._signed:
            enrolment.verify(client, message, signature)
            self._signed.add(claim)
