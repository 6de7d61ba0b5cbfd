"""The server's half of the one-shot sum: one trip to everyone, one to the committee.

Masked inputs add up to the masked sum. The committee's sums of shares give the sum of the keys, and
with it the sum of the summands modulo 2^bits, and nothing of any one of them. Clients that drop
before they speak cost nothing, and of m committee members m - R may be silent.

A wrong share or answer cannot make the sum wrong unnoticed. A committee member that cannot open one
of its shares names the client and answers nothing. Answers beyond the R-th must lie on the same
polynomials. The sum of the keys and what is left of the noise must be as small as sums of honest
ones are. Up to half as many wrong answers as came beyond R are found and left out (of one to spare,
one), and their members named in the log. Whatever else is wrong ends the session without a sum: who
has to be left out next time is said where it is known. To leave a client out at once would take a
second set of survivors, which nobody may ask a committee for that has begun to answer.
"""

from __future__ import annotations

import logging
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
from codex_ray.secagg.packed_shamir import outliers, rebuild
from codex_ray.secagg.ring import Integers
from codex_ray.secagg.shamir import PRIME
from codex_ray.secagg.trips import Inbox, Outbox, Session, need, only
from codex_ray.types import ClientId, GroupSum, Residues, SessionContext, SessionResult, Stage
from codex_ray.wire import Words

LOG = logging.getLogger(__name__)

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
    sums = yield from _ask_committee(opening, spoken)
    result = _opened(opening, total, sums, summed=len(spoken))
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
) -> Generator[Outbox, Inbox, dict[ClientId, Words]]:
    """Trip 2: the committee's sums of shares. From here on the survivors are final.

    A member that spoke too late is asked like the others: it has seen the session.
    """
    committee, plan = opening.committee, opening.plan
    inbox = yield dict(zip(committee, _requests(opening, spoken), strict=True))
    sums = {
        one: it.share
        for one, it in only(ShareSum, inbox, committee).items()
        if _can_be_a_sum(it.share, opening)
    }
    if len(sums) < plan.threshold:
        raise SumAborted(
            f"unmask: {len(sums)} of a committee of {plan.size} gave a sum, {plan.threshold} are "
            f"needed: {_to_blame(opening, spoken, inbox, sums)}"
        )
    return sums


def _can_be_a_sum(share: Words, opening: OneShotOpening) -> bool:
    """Whether that many field elements came."""
    if share.shape != (opening.share_words,) or share.dtype != np.uint32:
        return False
    return int(share.max()) < PRIME


def _to_blame(
    opening: OneShotOpening, spoken: _Spoken, inbox: Inbox, sums: Collection[ClientId]
) -> str:
    """What is known of why too few sums came, and what to do."""
    about = {
        one: {*it.clients} & spoken.keys()
        for one, it in only(Complaint, inbox, opening.committee).items()
    }
    complaining = sorted(one for one, named in about.items() if named)
    voices = Counter(one for named in about.values() for one in named)
    # Fewer voices than that may all be corrupt.
    proven = sorted(one for one, count in voices.items() if count > opening.plan.corrupt)
    wrong = sorted(set(inbox) & set(opening.committee) - set(sums) - set(complaining))
    blamed = []
    if proven:
        blamed.append(f"leave out clients {proven}, whose shares do not open")
    elif voices:
        blamed.append(
            f"clients {sorted(voices)} sealed what does not open, or committee members "
            f"{complaining} say so falsely"
        )
    if wrong:
        blamed.append(f"leave out committee members {wrong}, who answered with no sum")
    return ", and ".join(blamed) or "wait longer for its answers"


def _opened(
    opening: OneShotOpening, total: Masked, sums: dict[ClientId, Words], *, summed: int
) -> Residues:
    """The sum, from those of the committee's answers that fit together.

    Raises:
        SumAborted: no sum of honest keys and noise comes out.
    """
    for left_out, keys in _sums_of_keys(opening, sums):
        try:
            result = unmask(
                total, keys, context=opening.context, modulus=opening.modulus, summed=summed
            )
        except ProtocolError as error:
            if left_out:
                continue
            raise SumAborted(
                f"unmask: {error}; "
                + (
                    f"the {len(sums)} answers fit together, so a client masked with another key "
                    "than it shared, and nobody can tell which"
                    if len(sums) > opening.plan.threshold
                    else "no answer came beyond those needed, so nobody can tell whose"
                )
            ) from error
        if left_out:
            LOG.warning(
                "unmask: what committee members %s answered does not fit what the others did, and "
                "is left out: they answer wrongly, or clients dealt them wrong shares",
                list(left_out),
            )
        return result
    raise SumAborted(
        f"unmask: too many of the {len(sums)} answers of the committee are wrong to tell whose"
    )


def _sums_of_keys(
    opening: OneShotOpening, sums: dict[ClientId, Words]
) -> Iterator[tuple[tuple[ClientId, ...], Integers]]:
    """What the sum of the keys may be, each with the members whose answers it leaves out.

    Nobody's are, if all lie on the same polynomials. With one answer to spare the polynomials do
    not tell whose is wrong, but the sum does: it is small without that one, and random without any
    other.
    """
    plan = opening.plan
    number = {one: at for at, one in enumerate(opening.committee, start=1)}
    for left_out in _readings({number[one]: share for one, share in sums.items()}, plan.threshold):
        some = {number[one]: it for one, it in sums.items() if number[one] not in left_out}
        try:
            keys = rebuild(some, count=KEY_ELEMENTS, threshold=plan.threshold, packing=plan.packing)
        except ProtocolError:
            continue
        yield tuple(opening.committee[at - 1] for at in left_out), keys_from_field(keys)


def _readings(shares: dict[int, Words], threshold: int) -> Iterator[tuple[int, ...]]:
    """Whose shares to leave out: nobody's, then those off the polynomials of the others."""
    yield ()
    spare = len(shares) - threshold
    if spare == 1:
        yield from ((one,) for one in shares)
    elif spare > 1:
        try:
            yield outliers(shares, threshold=threshold)
        except ProtocolError:
            return


def _requests(opening: OneShotOpening, spoken: _Spoken) -> Iterator[OpenRequest]:
    """What each committee member gets, in their order."""
    survivors, size = tuple(spoken), opening.sealed_bytes
    nonces = b"".join(it.nonce for it in spoken.values())
    for at in range(opening.plan.size):
        mine = slice(size * at, size * (at + 1))
        yield OpenRequest(survivors, nonces, b"".join(it.sealed[mine] for it in spoken.values()))
