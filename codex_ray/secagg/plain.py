"""The two sessions that hide nothing in transit: `clear`, and `ideal`, the masked ones' oracle.

Ideal is the trusted third party of the security definition: it adds up what the real protocol
would, under the same survivor rule and the same two last trips, and returns the same bits. Of the
second trip only who is silent in it matters, so whoever carries frames need not make it
(`Ideal.standing`).
"""

from __future__ import annotations

from collections.abc import Collection

from codex_ray.errors import ProtocolError
from codex_ray.secagg.messages import (
    FoldedInput,
    PlainSummand,
    SummandRequest,
    SurvivorAck,
    SurvivorCheck,
)
from codex_ray.secagg.summand import Summand, check_early, take
from codex_ray.secagg.trips import Outbox, Session, add_up, need, only
from codex_ray.types import ClientId, GroupSum, SessionContext, SessionResult, Stage, word_type
from codex_ray.wire import Message


def run_clear(members: Collection[ClientId], context: SessionContext) -> Session:
    """One group for each member that answers: the server sees every summand.

    Raises:
        SumAborted: nobody answered.
    """
    came = only(PlainSummand, (yield dict.fromkeys(sorted(members), SummandRequest())), members)
    groups = tuple(
        GroupSum((one,), add_up([it.words], context))
        for one, it in came.items()
        if _fits(it, context)
    )
    need(groups, 1, Stage.MASKED_INPUT)
    return SessionResult(groups)


def run_ideal(members: Collection[ClientId], context: SessionContext, *, minimum: int) -> Session:
    """The sum over the members that answer, as secure aggregation gives it, without cryptography.

    Raises:
        SumAborted: fewer than `minimum` sent a summand, or fewer than that were still there
        afterwards.
    """
    inbox = yield dict.fromkeys(sorted(members), SummandRequest())
    came = only(PlainSummand, inbox, members)
    summands = {one: it.words for one, it in came.items() if _fits(it, context)}
    survivors = tuple(sorted({*summands, *only(FoldedInput, inbox, members)}))
    need(survivors, minimum, Stage.MASKED_INPUT)
    outbox: Outbox = dict.fromkeys(survivors, SurvivorCheck(survivors))
    need(only(SurvivorAck, (yield outbox), survivors), minimum, Stage.UNMASK)
    return SessionResult((GroupSum(survivors, add_up(summands.values(), context)),))


def _fits(reply: PlainSummand, context: SessionContext) -> bool:
    return reply.words.shape == (context.dimension,) and reply.words.dtype == word_type(
        context.bits
    )


class PlainClient:
    """A client of a clear or ideal session: it sends its summand as it is, once."""

    def __init__(self, me: ClientId, context: SessionContext, summand: Summand) -> None:
        """Enter a session with the summand [d].

        Raises:
            ProtocolError: the summand is no vector of the session's words and length.
        """
        check_early(summand, context, me=me)
        self._me = me
        self._context = context
        self._summand: Summand | None = summand

    def answer(self, message: Message) -> Message:
        """The summand, and afterwards that the client is still there.

        Raises:
            ProtocolError: the message is of another protocol, or asks for the summand again.
        """
        match message:
            case SummandRequest() if self._summand is not None:
                summand, self._summand = self._summand, None
                return PlainSummand(take(summand, self._context, me=self._me))
            case SurvivorCheck() if self._summand is None:
                return SurvivorAck()
            case _:
                raise ProtocolError(
                    f"client {self._me} refuses: {type(message).__name__} is out of turn"
                )
