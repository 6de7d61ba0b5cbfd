"""The server's half of the one-shot sum: one trip to everyone, one to the committee.

Masked inputs add up to the masked sum. The committee's sums of shares give the sum of the keys, and
with it the sum of the summands modulo 2^bits, and nothing of any one of them. Clients that drop
before they speak cost nothing, and of m committee members m - R may be silent.

A wrong share or answer cannot make the sum wrong unnoticed. A committee member that cannot open one
of its shares names the client and answers nothing. Answers beyond the R-th must lie on the same
polynomials. The sum of the keys and what is left of the noise must be as small as sums of honest
ones are. Each of these ends the session without a sum: whom to leave out next time is said where it
is known. To leave somebody out at once would take a second set of survivors, which nobody may ask a
committee for that has begun to answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Generator, Iterator

import numpy as np

from codex_ray.errors import ProtocolError, SumAborted
from codex_ray.randomness import fresh_secret
from codex_ray.secagg.committee import CommitteePlan
from codex_ray.secagg.lattice import KEY_ELEMENTS, Masked, keys_from_field, unmask
from codex_ray.secagg.one_shot_messages import (
    Complaint,
    FoldedUpload,
    MaskedUpload,
    OpenRequest,
    ShareSum,
)
from codex_ray.secagg.one_shot_session import NONCE_BYTES, OneShotOpening, open_one_shot
from codex_ray.secagg.packed_shamir import rebuild
from codex_ray.secagg.trips import Inbox, Outbox, Session, need, only
from codex_ray.types import ClientId, GroupSum, SessionContext, SessionResult, Stage
from codex_ray.wire import Words

_Spoken = dict[ClientId, MaskedUpload | FoldedUpload]


def run_one_shot(
    members: Collection[ClientId],
    context: SessionContext,
    plan: CommitteePlan,
    *,
    enrolment: bytes,
) -> Session:
    """The sum over the members that spoke.

    Args:
        members: who is invited.
        context: what the session is bound to.
        plan: its sizes and rules.
        enrolment: digest of the enrolment list.

    Raises:
        SumAborted: too few clients spoke, too few of the committee answered, or what came does not
            decode.
    """
    listed = np.array(sorted(members), dtype="<u4").tobytes()
    opening = open_one_shot(
        context, plan, listed, nonce=fresh_secret(NONCE_BYTES), enrolment=enrolment
    )
    spoken, total = yield from _speak(opening)
    shares = yield from _ask_committee(opening, spoken)
    try:
        keys = rebuild(shares, count=KEY_ELEMENTS, threshold=plan.threshold, packing=plan.packing)
        result = unmask(
            total,
            keys_from_field(keys),
            context=context,
            modulus=opening.modulus,
            summed=len(spoken),
        )
    except ProtocolError as error:
        raise SumAborted(f"unmask: {error}") from error
    return SessionResult((GroupSum(tuple(spoken), result),))


def _speak(opening: OneShotOpening) -> Generator[Outbox, Inbox, tuple[_Spoken, Masked]]:
    """Trip 1: who spoke, in increasing order, and the sum of their masked inputs."""
    members, plan = opening.members, opening.plan
    inbox = yield dict.fromkeys(members, opening.request)
    total = Masked.nothing(opening.context.dimension, opening.modulus)
    spoken: _Spoken = {}
    for one, reply in sorted(inbox.items()):
        if one not in opening.member_set or not isinstance(reply, MaskedUpload | FoldedUpload):
            continue
        if len(reply.nonce) != NONCE_BYTES or len(reply.sealed) != plan.size * opening.sealed_bytes:
            continue
        if isinstance(reply, MaskedUpload):
            if not total.fits(reply.low, reply.high):
                continue
            total.add(reply.low, reply.high)
        spoken[one] = reply
    need(spoken, plan.minimum, Stage.MASKED_INPUT)
    return spoken, total


def _ask_committee(
    opening: OneShotOpening, spoken: _Spoken
) -> Generator[Outbox, Inbox, dict[int, Words]]:
    """Trip 2: sums of shares by member number. From here on the survivors are final.

    A member that spoke too late is asked like the others: it has seen the session.
    """
    committee, plan = opening.committee, opening.plan
    inbox = yield dict(zip(committee, _requests(opening, spoken), strict=True))
    sums = {
        one: it.share
        for one, it in only(ShareSum, inbox, committee).items()
        if it.share.shape == (opening.share_words,) and it.share.dtype == np.uint32
    }
    if len(sums) < plan.threshold:
        complaints = only(Complaint, inbox, committee)
        named = Counter(one for it in complaints.values() for one in {*it.clients} & spoken.keys())
        # Fewer voices than that may all be corrupt.
        proven = sorted(one for one, voices in named.items() if voices > plan.corrupt)
        raise SumAborted(
            f"unmask: {len(sums)} of a committee of {plan.size} gave a sum, {plan.threshold} are "
            f"needed, and {len(complaints)} could not open their shares: "
            + (f"leave out clients {proven}" if proven else "wait longer for its answers")
        )
    return {number: sums[one] for number, one in enumerate(committee, 1) if one in sums}


def _requests(opening: OneShotOpening, spoken: _Spoken) -> Iterator[OpenRequest]:
    """What each committee member gets, in their order."""
    survivors, size = tuple(spoken), opening.sealed_bytes
    nonces = b"".join(it.nonce for it in spoken.values())
    for at in range(opening.plan.size):
        mine = slice(size * at, size * (at + 1))
        yield OpenRequest(survivors, nonces, b"".join(it.sealed[mine] for it in spoken.values()))
