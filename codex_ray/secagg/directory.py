"""What a client accepts as its surroundings: checked neighbours, and the session they are in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from codex_ray.errors import ProtocolError
from codex_ray.secagg.graph import neighbours
from codex_ray.secagg.identity import Enrolment, SharedWork
from codex_ray.secagg.keys import DIGEST_BYTES, told
from codex_ray.secagg.messages import AdvertisedKeys, KeyDirectory
from codex_ray.secagg.roster import Opening, roster_of_nonces
from codex_ray.types import ClientId


@dataclass(frozen=True)
class Neighbour:
    """A client around another: the key to agree by, and its advertisement as it was `told`."""

    public: bytes
    advert: bytes


@dataclass(frozen=True)
class Directory:
    """The session's digest, and each neighbour."""

    session: bytes
    peers: dict[ClientId, Neighbour]


def read_directory(
    message: KeyDirectory,
    opening: Opening,
    *,
    me: ClientId,
    own: AdvertisedKeys,
    committed: Mapping[ClientId, bytes],
    enrolment: Enrolment | None,
    shared: SharedWork,
) -> Directory:
    """The neighbours in `message`, if every one of them is who it says.

    Args:
        message: what the server sent.
        opening: what was fixed before.
        me, own: the client and its own advertisement.
        committed: everyone's commitment, under `malicious`.
        enrolment: the client's own list, where the rules ask for one.
        shared: does the verification.

    Raises:
        ProtocolError: own keys are missing, there are too many neighbours, one key is listed twice,
            a signature does not hold, or, under `malicious`, these are not the client's neighbours.
    """
    if message.adverts.get(me) != own.to_frame():
        raise ProtocolError("the key directory does not hold its own keys")
    if len(message.adverts) - 1 > opening.plan.degree:
        raise ProtocolError(
            f"{len(message.adverts) - 1} neighbours, {opening.plan.degree} were announced"
        )
    session = opening.session(_roster(message, opening, committed))
    if opening.plan.checks_roster:
        _check_neighbours(message, opening, me=me, session=session, committed=committed)
    peers = {
        peer: shared.checked(
            opening.bound, peer, frame, partial(_neighbour, peer, frame, opening, enrolment, shared)
        )
        for peer, frame in message.adverts.items()
        if peer != me
    }
    if len({own.public, *(peer.public for peer in peers.values())}) != len(peers) + 1:
        raise ProtocolError("a public key is listed twice")
    return Directory(session, peers)


def _neighbour(
    peer: ClientId,
    frame: bytes,
    opening: Opening,
    enrolment: Enrolment | None,
    shared: SharedWork,
) -> Neighbour:
    """The neighbour that has sent this advertisement.

    Raises:
        ProtocolError: the advertisement is malformed, or not signed by the peer.
    """
    keys = AdvertisedKeys.from_frame(frame)
    if not opening.well_formed(keys):
        raise ProtocolError(f"the advertisement of client {peer} has the wrong lengths")
    public = keys.public
    if opening.plan.signed:
        assert enrolment is not None  # The client would not have answered trip 1.
        shared.verify(enrolment, peer, opening.statement(peer, keys), keys.signature)
    if opening.plan.keys == "enrolled":
        assert enrolment is not None
        public = enrolment.agreement_key(peer)
    return Neighbour(public, told(peer, frame))


def _roster(message: KeyDirectory, opening: Opening, committed: Mapping[ClientId, bytes]) -> bytes:
    """The digest of everyone's advertisement: computed where it can be, else the server's word."""
    if opening.plan.checks_roster:
        return roster_of_nonces(opening, committed, message.nonces)
    if len(message.roster) != DIGEST_BYTES:
        raise ProtocolError(f"the roster's digest has {len(message.roster)} bytes")
    return message.roster


def _check_neighbours(
    message: KeyDirectory,
    opening: Opening,
    *,
    me: ClientId,
    session: bytes,
    committed: Mapping[ClientId, bytes],
) -> None:
    """Nothing, if the directory lists neighbours in the graph that follows from the nonces."""
    seed = opening.graph_seed(session)
    near = neighbours(me, committed, seed=seed, degree=opening.plan.degree)
    strangers = set(message.adverts) - {me, *near}
    if strangers:
        raise ProtocolError(f"{sorted(strangers)} are not its neighbours in the graph")
    for peer, frame in message.adverts.items():
        if AdvertisedKeys.from_frame(frame).nonce != committed[peer]:
            raise ProtocolError(f"client {peer} advertises another commitment than was listed")
        if peer not in message.nonces:
            raise ProtocolError(f"client {peer} did not reveal its nonce")
