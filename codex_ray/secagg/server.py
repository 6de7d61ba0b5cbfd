"""The server's half of SecAgg and SecAgg+: one generator with one yield for each trip of the paper.

Each yield hands out `{client: message}` and is sent the replies that came in time; a client that is
missing, or that replied with something else, has dropped. From the masked inputs of the survivors
the server takes off their self masks and the pair masks that dropped clients left over, and has the
sum modulo 2^bits. That the sum of the true values does not wrap is up to whoever encoded them.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Collection, Generator
from dataclasses import dataclass

from codex_ray.errors import ProtocolError
from codex_ray.randomness import fresh_secret
from codex_ray.secagg.client import FEWEST_PEERS
from codex_ray.secagg.graph import Neighbourhoods, draw_graph, holders, sustainable
from codex_ray.secagg.identity import Enrolment
from codex_ray.secagg.keys import DIGEST_BYTES, usable
from codex_ray.secagg.messages import (
    AdvertisedKeys,
    FoldedInput,
    KeyDirectory,
    MaskedInput,
    NonceCommitments,
    RevealedNonce,
    SealedShares,
    ShareDelivery,
    SignedSurvivors,
    SurvivorClaim,
    UnmaskRequest,
    UnmaskShares,
)
from codex_ray.secagg.parameters import Plan
from codex_ray.secagg.roster import NONCE_BYTES, Opening, roster_of, roster_of_nonces
from codex_ray.secagg.trips import Inbox, Outbox, Session, add_up, need, only
from codex_ray.secagg.unmask import Alone, Owner, Workers, remove, tasks_for
from codex_ray.types import (
    ClientId,
    GroupSum,
    Residues,
    SessionContext,
    SessionResult,
    Stage,
    word_type,
)
from codex_ray.types import reduce as reduce_words


@dataclass(frozen=True)
class _Roster:
    """Who advertised keys, and what follows from that.

    Attributes:
        opening: what was fixed before.
        adverts: each client's advertisement, as the frame that it sent.
        nonces: under `malicious`, everyone's revealed nonce.
        digest: over all of them.
        graph: everyone's neighbours, the silent included.
    """

    opening: Opening
    adverts: dict[ClientId, bytes]
    nonces: dict[ClientId, bytes]
    digest: bytes
    graph: Neighbourhoods

    @property
    def session(self) -> bytes:
        """The digest that the session is bound to."""
        return self.opening.session(self.digest)

    @property
    def peers_needed(self) -> int:
        """How many neighbours must stay for a client's secrets to be rebuilt."""
        plan = self.opening.plan
        return max(FEWEST_PEERS, plan.threshold - 1 if plan.complete else plan.threshold)

    def around(self, one: ClientId, some: Collection[ClientId]) -> tuple[ClientId, ...]:
        """Those of `some` that are `one` or a neighbour of it, in increasing order."""
        near = [peer for peer in self.graph[one] if peer in some]  # in increasing order
        if one in some:
            insort(near, one)
        return tuple(near)

    def sustainable(self, some: Collection[ClientId], stage: Stage) -> tuple[ClientId, ...]:
        """Those of `some` that have neighbours enough to go on, if there are enough of them."""
        kept = sustainable(self.graph, some, needed=self.peers_needed)
        need(kept, self.opening.plan.minimum, stage)
        return kept


@dataclass(frozen=True)
class _Sharing:
    """Who shared keys: what each sent, and with whom it shared."""

    sent: dict[ClientId, SealedShares]
    near: dict[ClientId, tuple[ClientId, ...]]


def run_session(
    members: Collection[ClientId],
    context: SessionContext,
    plan: Plan,
    *,
    enrolment: Enrolment | None = None,
    workers: Workers | None = None,
) -> Session:
    """The sum over the members that survive, and how many pair masks had to be rebuilt.

    Args:
        members: who is invited.
        context: what the session is bound to.
        plan: its sizes and rules.
        enrolment: the list of clients that may take part, where the rules ask for one.
        workers: who expands the masks that come off the sum.

    Raises:
        ProtocolError: the rules ask for an enrolment list, and none is given.
        SumAborted: too few clients answered a trip, or a secret cannot be rebuilt from their
            shares.
    """
    if plan.identified and enrolment is None:
        raise ProtocolError(f"{plan.adversary} with {plan.keys} keys needs an enrolment list")
    known = enrolment if plan.identified else None
    digest = known.digest if known else b""
    opening = Opening(context, plan, fresh_secret(NONCE_BYTES), digest)
    roster = yield from _advertise_keys(members, opening, known)
    sharing = yield from _share_keys(roster)
    survivors, total = yield from _masked_input(roster, sharing)
    signatures = yield from _confirm_survivors(roster, survivors, known)
    answers = yield from _unmask(roster, sharing, survivors=survivors, signatures=signatures)
    owners = _owners(roster, sharing, survivors)
    workers = workers or Alone()
    tasks = tasks_for(
        owners,
        {one: answer.shares for one, answer in answers.items()},
        session=roster.session,
        plan=plan,
        context=context,
        pieces=workers.width,
    )
    recovered = remove(total, owners, tasks, workers)
    return SessionResult((GroupSum(survivors, reduce_words(total, context.bits)),), recovered)


def _advertise_keys(
    members: Collection[ClientId], opening: Opening, enrolment: Enrolment | None
) -> Generator[Outbox, Inbox, _Roster]:
    """Trip 1, and under `malicious` 1b: keys and nonces in, the graph out.

    The silent stay in the graph, as dropouts: so the bounds count them. One bad signature, or a key
    that cannot be used or is another's, would make all its neighbours refuse, so whoever sent it
    has dropped.
    """
    plan = opening.plan
    inbox = yield dict.fromkeys(sorted(members), opening.request)
    keys = {
        one: it
        for one, it in only(AdvertisedKeys, inbox, members).items()
        if opening.well_formed(it)
        and _signed(enrolment, one, opening.statement(one, it), it.signature, plan=plan)
    }
    if plan.keys == "session":
        seen = Counter(it.public for it in keys.values())
        keys = {one: it for one, it in keys.items() if seen[it.public] == 1 and usable(it.public)}
    need(keys, plan.minimum, Stage.ADVERTISE_KEYS)
    adverts = {one: it.to_frame() for one, it in keys.items()}
    nonces: dict[ClientId, bytes] = {}
    if not plan.checks_roster:
        digest = roster_of(adverts)
    else:
        committed = {one: keys[one].nonce if one in keys else b"" for one in members}
        inbox = yield dict.fromkeys(keys, NonceCommitments(committed))
        nonces = {
            one: it.nonce
            for one, it in only(RevealedNonce, inbox, keys).items()
            if len(it.nonce) == NONCE_BYTES and opening.commitment(one, it.nonce) == committed[one]
        }
        need(nonces, plan.minimum, Stage.REVEAL_NONCES)
        adverts = {one: adverts[one] for one in nonces}
        digest = roster_of_nonces(opening, committed, nonces)
    seed = opening.graph_seed(opening.session(digest))
    graph = draw_graph(members, seed, degree=plan.degree)
    return _Roster(opening, adverts, nonces, digest, graph)


def _share_keys(roster: _Roster) -> Generator[Outbox, Inbox, _Sharing]:
    """Trip 2: each client learns its neighbours, and deals them shares of its two secrets."""
    asked = roster.sustainable(roster.adverts, Stage.ADVERTISE_KEYS)
    invited = set(asked)
    near = {one: roster.around(one, invited) for one in asked}
    shown = b"" if roster.opening.plan.checks_roster else roster.digest
    outbox: Outbox = {
        one: KeyDirectory({peer: roster.adverts[peer] for peer in near[one]}, shown, roster.nonces)
        for one in asked
    }
    sent = {
        one: it
        for one, it in only(SealedShares, (yield outbox), asked).items()
        if set(it.sealed) == set(near[one]) - {one} and len(it.commitments) == 2 * DIGEST_BYTES
    }
    stay = roster.sustainable(sent, Stage.SHARE_KEYS)
    return _Sharing({one: sent[one] for one in stay}, near)


def _masked_input(
    roster: _Roster, sharing: _Sharing
) -> Generator[Outbox, Inbox, tuple[tuple[ClientId, ...], Residues]]:
    """Trip 3: the shares are delivered; who survives, and the sum of their masked inputs.

    Whoever shared is now in its peers' masks, and may have to be undone.
    """
    sent, context = sharing.sent, roster.opening.context
    outbox: Outbox = {
        one: ShareDelivery(
            {peer: sent[peer].sealed[one] for peer in roster.around(one, sent) if peer != one}
        )
        for one in sent
    }
    inbox = yield outbox
    masked = {
        one: it.words
        for one, it in only(MaskedInput, inbox, sent).items()
        if it.words.shape == (context.dimension,) and it.words.dtype == word_type(context.bits)
    }
    folded = only(FoldedInput, inbox, sent)
    survivors = tuple(sorted({*masked, *folded}))
    need(survivors, roster.opening.plan.minimum, Stage.MASKED_INPUT)
    return survivors, add_up(masked.values(), context)


def _confirm_survivors(
    roster: _Roster, survivors: tuple[ClientId, ...], enrolment: Enrolment | None
) -> Generator[Outbox, Inbox, dict[ClientId, bytes]]:
    """Trip 3b, where the server may lie: each survivor signs who survived. Else nobody is asked."""
    plan = roster.opening.plan
    if not plan.confirms:
        return {}
    inbox = yield dict.fromkeys(survivors, SurvivorClaim(survivors))
    statement = roster.opening.survivors_statement(roster.session, survivors)
    signatures = {
        one: it.signature
        for one, it in only(SignedSurvivors, inbox, survivors).items()
        if _signed(enrolment, one, statement, it.signature, plan=plan)
    }
    need(signatures, plan.minimum, Stage.CONFIRM_SURVIVORS)
    return signatures


def _signed(
    enrolment: Enrolment | None, one: ClientId, statement: bytes, signature: bytes, *, plan: Plan
) -> bool:
    """Whether the statement bears the client's signature, where the rules ask for one."""
    if enrolment is None or not plan.signed:
        return True
    try:
        enrolment.verify(one, statement, signature)
    except ProtocolError:
        return False
    return True


def _unmask(
    roster: _Roster,
    sharing: _Sharing,
    *,
    survivors: tuple[ClientId, ...],
    signatures: dict[ClientId, bytes],
) -> Generator[Outbox, Inbox, dict[ClientId, UnmaskShares]]:
    """Trip 4: shares of what comes off the sum. From here on the survivors are final."""
    plan, alive = roster.opening.plan, set(survivors)
    dropped = set(sharing.sent) - alive
    outbox: Outbox = {}
    for one in signatures if plan.confirms else survivors:
        signed = {peer: signatures[peer] for peer in roster.around(one, signatures) if peer != one}
        near = roster.around(one, alive)
        if len(near) < plan.threshold:
            continue  # Too few around it survived: it would rightly refuse.
        if plan.confirms and len(signed) + plan.complete < plan.threshold:
            continue  # It could not believe the claim either.
        outbox[one] = UnmaskRequest(near, roster.around(one, dropped), signed)
    answers = only(UnmaskShares, (yield outbox), outbox)
    need(answers, plan.minimum, Stage.UNMASK)
    return answers


def _owners(
    roster: _Roster, sharing: _Sharing, survivors: tuple[ClientId, ...]
) -> dict[ClientId, Owner]:
    """Everyone whose masks are in the sum: survivors, and the dropped that survivors masked with.

    Pairs that both dropped are in no masked input.
    """
    complete, alive = roster.opening.plan.complete, set(survivors)
    owners = {}
    for one, sent in sharing.sent.items():
        share_holders = holders(one, sharing.near[one], complete=complete)
        if one in alive:
            owners[one] = Owner(share_holders, sent.commitments[:DIGEST_BYTES])
        elif masked_with := set(roster.around(one, alive)):
            owners[one] = Owner(
                share_holders,
                sent.commitments[DIGEST_BYTES:],
                escrow=sent.escrow,
                sealed_for=tuple(peer for peer in sharing.near[one] if peer != one),
                masked_with=frozenset(masked_with),
            )
    return owners
