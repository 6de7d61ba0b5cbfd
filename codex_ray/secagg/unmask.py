"""The server's last step: rebuild what survivors gave shares of, and expand it to masks.

It is most of a server's work, and falls apart by owner: each task holds the shares of some owners,
and its result is the sum of their masks. So a task can be done by any machine of the server, and
carries shares, never a rebuilt secret.

Every rebuilt secret is checked against the commitment that came with the shares. So a wrong share
is noticed, and left out if enough others came. Should the owner itself have dealt shares that do
not fit, the session aborts: owners are assumed to follow the protocol or to drop.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations, islice
from typing import Protocol

import numpy as np

from codex_ray.errors import ProtocolError, SumAborted
from codex_ray.secagg import shamir
from codex_ray.secagg.keys import SECRET_BYTES, commit, self_mask_key, unseal
from codex_ray.secagg.parameters import Plan
from codex_ray.secagg.prg import TOGETHER, Mask, apply_masks
from codex_ray.types import ClientId, Residues, SessionContext, Stage, word_type
from codex_ray.types import reduce as reduce_words
from codex_ray.wire import Message, Words

WRONG_SHARES = 2
"""How many wrong shares of a secret are worked around, if so many came beyond the threshold."""

_SENDER = struct.Struct("<II")
_GIVEN = np.dtype(
    [
        ("number", "<u4"),
        ("holder", "<u4"),
        ("share", "<u4", (shamir.limb_count(SECRET_BYTES),)),
    ]
)
"""A share on its way to whoever rebuilds the secret: its number, and who gave it."""


@dataclass(frozen=True)
class UnmaskTask(Message, tag=49, stage=Stage.UNMASK):
    """A piece of the server's work: the owners whose masks are to be expanded and added up.

    Attributes:
        session: digest of the session.
        threshold: how many shares rebuild a secret.
        dimension, bits: of the sum.
        shares: for each owner, holder's number || its id || share, one after the other.
        commitments: for each owner, the digest of the secret that the shares are of.
        escrows: what the secret opens; empty for a survivor, whose secret is the mask's own seed.
        peers: for each dropped owner everyone in its escrow, 4 bytes of id and one that tells
            whether that peer masked with it.
    """

    session: bytes
    threshold: int
    dimension: int
    bits: int
    shares: dict[ClientId, bytes] = field(repr=False)
    commitments: dict[ClientId, bytes]
    escrows: dict[ClientId, bytes]
    peers: dict[ClientId, bytes]


@dataclass(frozen=True)
class MaskTotal(Message, tag=50, stage=Stage.UNMASK):
    """The sum [d] of the masks of a task, or why there is none."""

    words: Words
    problem: bytes


@dataclass(frozen=True)
class Owner:
    """What the server knows of a client whose masks are in the sum.

    Attributes:
        holders: who got its shares, in the order of the share numbers 1, 2, ...
        commitment: digest of the secret that is to be rebuilt.
        escrow: what that secret opens, for a client that dropped; empty for a survivor.
        sealed_for: for a client that dropped, whose pair seeds its escrow has.
        masked_with: those of them whose masked input came, and holds a mask shared with it.
    """

    holders: tuple[ClientId, ...]
    commitment: bytes
    escrow: bytes = b""
    sealed_for: tuple[ClientId, ...] = ()
    masked_with: frozenset[ClientId] = frozenset()


class Workers(Protocol):
    """Who does the server's work: the process that it runs in, or any number of others."""

    @property
    def width(self) -> int:
        """In how many pieces work is worth splitting."""
        ...

    def work(self, tasks: Sequence[Message]) -> list[Message]:
        """The result of each task, in their order."""
        ...


class Alone:
    """The server's own process does everything."""

    width = 1

    def work(self, tasks: Sequence[Message]) -> list[Message]:
        """The result of each task, in their order."""
        return [do_work(task) for task in tasks]


def do_work(task: Message) -> Message:
    """The result of one piece of the server's work.

    Raises:
        ProtocolError: this is no task.
    """
    if not isinstance(task, UnmaskTask):
        raise ProtocolError(f"{type(task).__name__} is no task of a server")
    total = np.zeros(task.dimension, dtype=word_type(task.bits))
    try:
        apply_masks(total, _masks(task))
    except SumAborted as reason:
        return MaskTotal(total[:0], str(reason).encode())
    return MaskTotal(reduce_words(total, task.bits), b"")


def tasks_for(
    owners: Mapping[ClientId, Owner],
    answers: Mapping[ClientId, Mapping[ClientId, bytes]],
    *,
    session: bytes,
    plan: Plan,
    context: SessionContext,
    pieces: int,
) -> list[UnmaskTask]:
    """The work in `pieces` tasks (or fewer) of about as many masks each.

    `answers` has, for each survivor that answered, the share that it gave of each owner.
    """
    # Longest first, each to the piece with the least so far (Graham 1969).
    weights = {one: max(1, len(owner.masked_with)) for one, owner in owners.items()}
    piles: list[list[ClientId]] = [[] for _ in range(max(1, min(pieces, len(owners))))]
    loads = [0] * len(piles)
    for one in sorted(owners, key=lambda one: (-weights[one], one)):
        lightest = loads.index(min(loads))
        piles[lightest].append(one)
        loads[lightest] += weights[one]
    return [
        UnmaskTask(
            session,
            plan.threshold,
            context.dimension,
            context.bits,
            {one: _pack_shares(one, owners[one], answers) for one in pile},
            {one: owners[one].commitment for one in pile},
            {one: owners[one].escrow for one in pile},
            {one: _pack_peers(owners[one]) for one in pile},
        )
        for pile in piles
    ]


def _pack_shares(
    one: ClientId, owner: Owner, answers: Mapping[ClientId, Mapping[ClientId, bytes]]
) -> bytes:
    size = shamir.share_bytes(SECRET_BYTES)
    given = []
    for number, holder in enumerate(owner.holders, start=1):
        share = answers[holder].get(one, b"") if holder in answers else b""
        if len(share) == size:
            given += [_SENDER.pack(number, holder), share]
    return b"".join(given)


def _pack_peers(owner: Owner) -> bytes:
    return b"".join(
        peer.to_bytes(4, "little") + bytes([peer in owner.masked_with]) for peer in owner.sealed_for
    )


def _masks(task: UnmaskTask) -> Iterator[Mask]:
    """The masks that are to be added up: what has to come off the sum of masked inputs."""
    liars: set[ClientId] = set()
    owners = iter(task.shares)
    while some := list(islice(owners, TOGETHER)):
        secrets = _from_first_shares(task, some)
        for one in some:
            secret = secrets.get(one) or _rebuild(one, task, liars)
            if not task.escrows[one]:
                yield self_mask_key(secret, task.session, me=one), False
                continue
            for peer, seed in _opened(one, secret, task):
                # The lower id of a pair added the mask: that is what the peer's input has of it.
                yield seed, peer > one


def _from_first_shares(task: UnmaskTask, owners: Sequence[ClientId]) -> dict[ClientId, bytes]:
    """The secrets of those owners whose first shares give the genuine one: all, if nobody lies."""
    size = task.threshold * _GIVEN.itemsize
    first = {one: task.shares[one][:size] for one in owners if len(task.shares[one]) >= size}
    given = np.frombuffer(b"".join(first.values()), dtype=_GIVEN).reshape(-1, task.threshold)
    secrets = shamir.reconstruct_all(given["number"], given["share"], secret_bytes=SECRET_BYTES)
    return {
        one: secret
        for one, secret in zip(first, secrets, strict=True)
        if secret is not None and _is_genuine(secret, one, task)
    }


def _is_genuine(secret: bytes, owner: ClientId, task: UnmaskTask) -> bool:
    """Whether it is what the owner has committed to."""
    purpose = "escrow" if task.escrows[owner] else "seed"
    known = commit(secret, task.session, purpose=purpose, me=owner)
    return hmac.compare_digest(known, task.commitments[owner])


def _opened(one: ClientId, key: bytes, task: UnmaskTask) -> Iterator[tuple[ClientId, bytes]]:
    """The pair seeds in the escrow of a dropped client, of the peers that masked with it."""
    peers = task.peers[one]
    try:
        seeds = unseal(key, task.escrows[one], task.session, sender=one, receiver=one)
    except ProtocolError:
        seeds = b""
    if len(seeds) * 5 != len(peers) * SECRET_BYTES:
        raise SumAborted(f"unmask: the escrow of client {one} does not hold its pair seeds")
    for number in range(len(peers) // 5):
        entry = peers[5 * number : 5 * number + 5]
        if entry[4]:
            seed = seeds[SECRET_BYTES * number : SECRET_BYTES * (number + 1)]
            yield int.from_bytes(entry[:4], "little"), seed


def _rebuild(owner: ClientId, task: UnmaskTask, liars: set[ClientId]) -> bytes:
    """The secret of `owner`, from the first shares that give a genuine one.

    Whoever gave a share that had to be left out joins `liars`, and its shares of later owners are
    used only where too few others came.

    Raises:
        SumAborted: too few shares came, or they do not fit together.
    """
    given, threshold = np.frombuffer(task.shares[owner], dtype=_GIVEN), task.threshold
    numbers, givers = given["number"].tolist(), given["holder"].tolist()
    holder_of = dict(zip(numbers, givers, strict=True))
    shares = {number: one.tobytes() for number, one in zip(numbers, given["share"], strict=True)}
    spare = len(shares) - threshold
    if spare < 0:
        raise SumAborted(
            f"unmask: {len(shares)} shares of client {owner} came of {threshold} needed: "
            "wait longer for answers, or raise federation.protocol.assumed_dropout"
        )
    sizes = range(min(WRONG_SHARES, spare) + 1)
    best_first = sorted(shares, key=lambda number: (holder_of[number] in liars, number))
    suspects = best_first[: threshold + WRONG_SHARES]
    for left_out in chain.from_iterable(combinations(suspects, size) for size in sizes):
        some = [number for number in best_first if number not in left_out][:threshold]
        try:
            secret = shamir.reconstruct(
                {number: shares[number] for number in some},
                threshold=threshold,
                secret_bytes=SECRET_BYTES,
            )
        except ProtocolError:
            continue
        if _is_genuine(secret, owner, task):
            liars.update(holder_of[number] for number in left_out)
            return secret
    raise SumAborted(
        f"unmask: {len(shares)} shares of client {owner} came, but they do not fit together: "
        f"more than {min(WRONG_SHARES, spare)} of them are wrong"
    )


def remove(
    total: Residues, owners: Mapping[ClientId, Owner], tasks: Sequence[Message], workers: Workers
) -> int:
    """Takes the masks of all `tasks` off `total` in place; how many pair masks that took.

    Raises:
        SumAborted: a secret cannot be rebuilt.
    """
    for done in workers.work(tasks):
        if not isinstance(done, MaskTotal) or done.problem:
            raise SumAborted(done.problem.decode() if isinstance(done, MaskTotal) else "no result")
        np.subtract(total, done.words, out=total)
    return sum(len(owner.masked_with) for owner in owners.values())
