"""The client's half of the one-shot sum: it speaks once; on the committee, it answers once more.

What it says holds its summand under a lattice mask, and the mask's key in shares, one sealed for
each member of a committee that the client draws itself. A committee member is shown who survived,
and returns the sum of their shares. Two such sums over different survivors would show a summand, so
it answers one request in a context, ever: that is what the memory `spent` is for, which outlives a
session's object, because the keys that open shares do too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableSet
from itertools import islice, pairwise
from typing import NoReturn

import numpy as np

from codex_ray.errors import ConfigError, ProtocolError
from codex_ray.randomness import fresh_secret
from codex_ray.secagg.committee import CommitteePlan
from codex_ray.secagg.identity import Membership, SharedWork
from codex_ray.secagg.keys import bind, seal, unseal
from codex_ray.secagg.lattice import fresh_key, key_to_field, mask
from codex_ray.secagg.one_shot_messages import (
    Complaint,
    MaskedUpload,
    OpenRequest,
    ShareSum,
    SpeakRequest,
)
from codex_ray.secagg.one_shot_session import (
    NONCE_BYTES,
    OneShotOpening,
    open_one_shot,
    share_key,
)
from codex_ray.secagg.packed_shamir import split
from codex_ray.secagg.shamir import PRIME
from codex_ray.secagg.summand import Summand, check_early, take
from codex_ray.types import ClientId, SessionContext, Stage
from codex_ray.wire import Message

_AT_ONCE = 64
"""Shares that are open in memory together."""


class OneShotClient:
    """One client in one session: `answer` each message of the server, once and in order."""

    def __init__(
        self,
        me: ClientId,
        context: SessionContext,
        summand: Summand,
        *,
        membership: Membership,
        plan: Callable[[int], CommitteePlan],
        shared: SharedWork | None = None,
        spent: MutableSet[bytes] | None = None,
    ) -> None:
        """Enter a session.

        Args:
            me: the client's own id.
            context: what the session is bound to.
            summand: words [d] of residues modulo 2^bits, or a function that makes them, called when
                the masked input is asked for.
            membership: the client's identity and enrolment list.
            plan: the sizes and rules that the client's own settings give for so many members; a
                session with any others is refused.
            shared: what the clients of one host compute once for all of them.
            spent: what this client (or this host's clients) did in every context so far, to be
                given to its next session too. Without it, see to it that a context gets one object.
        """
        self._me = me
        self._context = context
        self._summand: Summand | None = summand
        check_early(summand, context, me=me)
        self._membership = membership
        self._plan = plan
        self._shared = shared or SharedWork()
        self._spent: MutableSet[bytes] = set() if spent is None else spent
        self._opening: OneShotOpening | None = None
        self._expected: Stage | None = Stage.MASKED_INPUT

    def answer(self, message: Message) -> Message:
        """The reply to `message`; each request is answered once, in their order.

        Raises:
            ProtocolError: the message is out of turn or would endanger a summand. The session is
                then over for this client.
        """
        try:
            reply, self._expected = self._step(message)
        except BaseException:
            self._expected = self._summand = None
            raise
        return reply

    def __reduce__(self) -> NoReturn:
        """Refuses to be pickled or copied: a copy would answer again."""
        raise TypeError(f"client {self._me} holds secrets of a session and cannot be pickled")

    def _step(self, message: Message) -> tuple[Message, Stage | None]:
        match self._expected, message:
            case Stage.MASKED_INPUT, SpeakRequest() as request:
                opening = self._opening = self._agreed(request)
                self._spend("speak")
                on_committee = self._me in opening.committee
                return self._speak(opening), Stage.UNMASK if on_committee else None
            case Stage.UNMASK, OpenRequest() as request:
                self._check_survivors(request)
                self._spend("open")
                return self._open(request), None
        turn = self._expected.name.lower() if self._expected else "over"
        raise self._refusal(f"{type(message).__name__} is out of turn, the session is at: {turn}")

    def _refusal(self, why: str) -> ProtocolError:
        return ProtocolError(f"client {self._me} refuses: {why}")

    def _spend(self, what: str) -> None:
        """Nothing, the first time in this context."""
        mark = bind(self._context, "spent", what, self._me)
        if mark in self._spent:
            raise self._refusal(
                f"it was asked before, in this context, to {what}: raise the attempt"
            )
        self._spent.add(mark)

    # Trip 1: speak.

    def _agreed(self, request: SpeakRequest) -> OneShotOpening:
        """The session, if it is the one that the client's own settings and draw give."""
        if len(request.nonce) != NONCE_BYTES:
            raise self._refusal(f"the server's nonce has {len(request.nonce)} bytes")
        if request.members.dtype != np.uint32 or np.any(
            request.members[:-1] >= request.members[1:]
        ):
            raise self._refusal("members are not listed once each, in increasing order")
        try:
            plan = self._plan(request.members.size)
        except ConfigError as error:
            raise self._refusal(str(error)) from error
        announced = (len(request.committee), request.threshold, request.packing)
        if announced != (plan.size, plan.threshold, plan.packing):
            raise self._refusal(
                f"a committee of {announced[0]} with threshold {announced[1]} and packing "
                f"{announced[2]} was announced for {plan.members} members, its own settings give "
                f"{plan.size}, {plan.threshold} and {plan.packing}: give server and clients one "
                "federation.protocol"
            )
        enrolment = self._membership.enrolment
        opening = open_one_shot(
            self._context,
            plan,
            request.members.tobytes(),
            nonce=request.nonce,
            enrolment=enrolment.digest,
        )
        if self._me not in opening.member_set:
            raise self._refusal("it is not among the members")
        strangers = opening.strangers(enrolment)
        if strangers:
            raise self._refusal(f"{list(strangers[:5])} are not enrolled")
        if request.committee != opening.committee:
            raise self._refusal("the committee is not the one that its own shuffle draws")
        return opening

    def _speak(self, opening: OneShotOpening) -> MaskedUpload:
        summand, self._summand = self._summand, None
        words = take(summand, self._context, me=self._me)
        key, nonce = fresh_key(), fresh_secret(NONCE_BYTES)
        masked = mask(words, key, context=self._context, modulus=opening.modulus)
        plan = opening.plan
        shares = split(
            key_to_field(key), members=plan.size, threshold=plan.threshold, packing=plan.packing
        )
        sealed = [
            seal(
                self._share_key(self._me, receiver, nonce=nonce),
                share.tobytes(),
                opening.session,
                sender=self._me,
                receiver=receiver,
            )
            for receiver, share in zip(opening.committee, shares, strict=True)
        ]
        return MaskedUpload(masked.low, masked.high, nonce, b"".join(sealed))

    # Trip 2, committee only: open.

    def _check_survivors(self, request: OpenRequest) -> None:
        opening, survivors = self._session, request.survivors
        if any(one >= other for one, other in pairwise(survivors)):
            raise self._refusal("survivors are not listed once each, in increasing order")
        if not opening.member_set.issuperset(survivors):
            raise self._refusal("there are survivors that were not invited")
        if len(survivors) < opening.plan.minimum:
            raise self._refusal(f"{len(survivors)} survivors, {opening.plan.minimum} are needed")
        lengths = (len(request.nonces), len(request.sealed))
        if lengths != (NONCE_BYTES * len(survivors), opening.sealed_bytes * len(survivors)):
            raise self._refusal(f"{lengths} bytes are not a nonce and a share for each survivor")

    def _open(self, request: OpenRequest) -> Message:
        """The sum of the survivors' shares; if one does not open, its name and nothing else."""
        opening = self._session
        total = np.zeros(opening.share_words, dtype=np.uint64)
        unreadable: list[ClientId] = []
        shares = self._opened(request, unreadable)
        while some := list(islice(shares, _AT_ONCE)):
            read = np.frombuffer(b"".join(some), dtype="<u4").reshape(len(some), -1)
            total += read.sum(axis=0, dtype=np.uint64)
        if unreadable:
            return Complaint(tuple(unreadable))
        return ShareSum((total % np.uint64(PRIME)).astype(np.uint32))

    def _opened(self, request: OpenRequest, unreadable: list[ClientId]) -> Iterator[bytes]:
        """The shares of the survivors, in their order, but for the `unreadable`."""
        opening = self._session
        size, sealed, nonces = opening.sealed_bytes, memoryview(request.sealed), request.nonces
        for at, sender in enumerate(request.survivors):
            nonce = nonces[NONCE_BYTES * at : NONCE_BYTES * (at + 1)]
            try:
                yield unseal(
                    self._share_key(sender, self._me, nonce=nonce),
                    bytes(sealed[size * at : size * (at + 1)]),
                    opening.session,
                    sender=sender,
                    receiver=self._me,
                )
            except ProtocolError:
                unreadable.append(sender)

    def _share_key(self, sender: ClientId, receiver: ClientId, *, nonce: bytes) -> bytes:
        """The key of one share; the client deals itself one too, by its secret with itself."""
        peer = receiver if sender == self._me else sender
        known = self._membership
        secret = self._shared.agree(known.identity.agreement, known.enrolment.agreement_key(peer))
        return share_key(
            secret, self._session.session, sender=sender, receiver=receiver, nonce=nonce
        )

    @property
    def _session(self) -> OneShotOpening:
        assert self._opening is not None  # It is there from the first answer on.
        return self._opening
