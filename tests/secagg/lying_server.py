"""A server that lies as it likes, keeps all that it sees, and conspires with some of the clients.

What it says is decided by a test. What it can compute from that is decided here, once for all: it
pools shares, rebuilds every secret of which it has enough, opens every escrow that this opens, and
takes every mask that it then knows off a masked input. An attack reads a summand if nothing is
left on it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping

import numpy as np
from scipy.stats import chisquare
from secagg_network import (
    a_context,
    a_membership,
    a_planned_network,
    a_planned_session,
    an_enrolment,
)

from codex_ray.errors import ProtocolError
from codex_ray.secagg import shamir
from codex_ray.secagg.graph import holders
from codex_ray.secagg.identity import Enrolment
from codex_ray.secagg.keys import SECRET_BYTES, commit, self_mask_key, unseal
from codex_ray.secagg.messages import UnmaskRequest, UnmaskShares
from codex_ray.secagg.parameters import Plan
from codex_ray.secagg.prg import apply_masks
from codex_ray.types import ClientId, Residues, SessionContext, Stage, word_type
from codex_ray.types import reduce as reduce_words
from codex_ray.wire import Message, read_frame

DIMENSION = 512
CONTEXT = a_context(DIMENSION)
TEN = tuple(range(10))


def small_summands(members: Collection[ClientId], context: SessionContext = CONTEXT):
    """A summand [d] for each member, far from uniform: a bare one is recognised."""
    kind, places = word_type(context.bits), np.arange(context.dimension)
    return {one: (places * (one + 3) % 50).astype(kind) for one in members}


def looks_uniform(words: Residues) -> bool:
    """Whether the bytes of `words` [d] are spread like those of a mask."""
    counts = np.bincount(np.frombuffer(words.tobytes(), dtype=np.uint8), minlength=256)
    return bool(chisquare(counts).pvalue > 1e-9)


class Blind(Enrolment):
    """The list of a server that checks no signature, its own lies least of all."""

    def verify(self, *_) -> None:
        """Everything holds."""


class LyingServer:
    """The server of one session, and everything that it and its spies learn.

    Attributes:
        clients: by id; those in `spies` show the server what they hold.
        outbox: what an honest server would send on the present trip.
        replies: what came back, by stage and client.
        refusals: why a client ended the session.
        enough: with how many shares it tries to rebuild a secret; None is the threshold.
        frames: everything that crossed the network, in order.
    """

    def __init__(
        self,
        protocol,
        members: Collection[ClientId] = TEN,
        *,
        context: SessionContext = CONTEXT,
        parts: Mapping[ClientId, Residues] | None = None,
        spies: Collection[ClientId] = (),
        session=None,
        clients=None,
    ) -> None:
        """Begin a session of `protocol`, or one that is given together with its clients."""
        self.context, self.spies = context, frozenset(spies)
        self.parts = parts or small_summands(members, context)
        self.clients = clients or {
            one: protocol.client(
                one,
                context,
                self.parts[one].copy(),
                membership=a_membership(one, tuple(members)),
            )
            for one in members
        }
        self.session = session or protocol.session(
            tuple(members), context, enrolment=Blind(an_enrolment(tuple(members)).entries)
        )
        self.outbox: dict[ClientId, Message] = next(self.session)
        self.asked: dict[Stage, dict[ClientId, Message]] = defaultdict(dict)
        self.replies: dict[Stage, dict[ClientId, Message]] = defaultdict(dict)
        self.refusals: dict[ClientId, str] = {}
        self.enough: int | None = None
        self.frames: list[bytes] = []
        self.shares: dict[str, dict[ClientId, dict[int, bytes]]] = {
            "seed": defaultdict(dict),
            "escrow": defaultdict(dict),
        }
        self._spied_pairs: dict[tuple[ClientId, ClientId], bytes] = {}

    # What it says.

    @property
    def stage(self) -> Stage:
        """The present trip."""
        return next(iter(self.outbox.values())).stage

    def ask(self, one: ClientId, request: Message) -> Message | None:
        """The answer of `one` to `request`, or None if it refuses."""
        self.frames.append(request.to_frame())
        try:
            reply = self.clients[one].answer(read_frame(self.frames[-1]))
        except ProtocolError as error:
            self.refusals[one] = str(error)
            return None
        self.frames.append(reply.to_frame())
        self.asked[request.stage][one] = request
        self.replies[request.stage][one] = reply
        self._spy(one)
        if isinstance(request, UnmaskRequest):
            self._pool(one, request, reply.shares)
        return reply

    def trip(self, change: Callable[[ClientId, Message], Message] | None = None) -> None:
        """Ask everybody what an honest server would, or `change` of it, and go on to the next."""
        inbox = {}
        for one, request in self.outbox.items():
            reply = self.ask(one, change(one, request) if change else request)
            if reply is not None:
                inbox[one] = reply
        self.outbox = self.session.send(inbox)

    def until(self, stage: Stage, changes: Mapping[Stage, Callable] | None = None) -> None:
        """Go on to `stage`, with the lies in `changes` on the trips before it."""
        while self.stage != stage:
            self.trip((changes or {}).get(self.stage))

    def finish(self):
        """Go on honestly to the end; the session's result."""
        while True:
            try:
                self.trip()
            except StopIteration as end:
                return end.value

    # What it learns.

    def _spy(self, one: ClientId) -> None:
        kept = self.clients[one]._secrets if one in self.spies else None
        if kept is None:
            return
        for peer, keys in kept.pairs.items():
            self._spied_pairs[min(one, peer), max(one, peer)] = keys.mask
        for owner, held in kept.held.items():
            self._add("seed", owner, one, held.seed)
            self._add("escrow", owner, one, held.escrow)

    def _pool(self, holder: ClientId, request: UnmaskRequest, shares: Mapping[ClientId, bytes]):
        for owner, share in shares.items():
            self._add("escrow" if owner in request.dropped else "seed", owner, holder, share)

    def _add(self, kind: str, owner: ClientId, holder: ClientId, share: bytes) -> None:
        number = self.holders_of(owner).index(holder) + 1
        self.shares[kind][owner][number] = share

    def shown_to(self, one: ClientId) -> list[ClientId]:
        """The neighbours in the directory of `one`."""
        return sorted(set(self.asked[Stage.SHARE_KEYS][one].adverts) - {one})

    def holders_of(self, owner: ClientId) -> tuple[ClientId, ...]:
        """Who holds shares of `owner`, in the order of their numbers."""
        complete = self.clients[owner]._opening.plan.complete
        return holders(owner, self.shown_to(owner), complete=complete)

    @property
    def sizes(self) -> Plan:
        """The sizes and rules of the session, as its clients plan them."""
        return next(iter(self.clients.values()))._plan(len(self.clients))

    @property
    def last_trips(self) -> Stage:
        """Where it begins to matter who survived: the first trip after the masked input."""
        return Stage.CONFIRM_SURVIVORS if self.sizes.confirms else Stage.UNMASK

    @property
    def threshold(self) -> int:
        """How many shares rebuild a secret."""
        return self.sizes.threshold

    @property
    def digest(self) -> bytes:
        """What the session is bound to, as its clients see it."""
        return next(one._session for one in self.clients.values() if one._directory)

    def rebuilt(self, kind: str, owner: ClientId) -> bytes | None:
        """The seed or escrow key of `owner`, if enough shares of it were had."""
        some, enough = self.shares[kind].get(owner, {}), self.enough or self.threshold
        if len(some) < enough:
            return None
        try:
            secret = shamir.reconstruct(some, threshold=enough, secret_bytes=SECRET_BYTES)
        except ProtocolError:
            return None
        sent = self.replies[Stage.SHARE_KEYS][owner].commitments
        genuine = commit(secret, self.digest, purpose=kind, me=owner)
        return secret if genuine in (sent[:32], sent[32:]) else None

    def has_both(self, one: ClientId) -> bool:
        """Whether both secrets of `one` are open: then its summand is."""
        return None not in (self.rebuilt("seed", one), self.rebuilt("escrow", one))

    def pair_seeds(self, one: ClientId) -> dict[ClientId, bytes]:
        """For each peer of `one` the seed of the mask that they share, if the server knows it."""
        known = {}
        for peer in self.shown_to(one):
            spied = self._spied_pairs.get((min(one, peer), max(one, peer)))
            seed = spied or self._escrowed(one).get(peer) or self._escrowed(peer).get(one)
            if seed:
                known[peer] = seed
        return known

    def _escrowed(self, owner: ClientId) -> dict[ClientId, bytes]:
        """What is in the escrow of `owner`, if its key was rebuilt."""
        key = self.rebuilt("escrow", owner)
        if key is None:
            return {}
        escrow = self.replies[Stage.SHARE_KEYS][owner].escrow
        seeds = unseal(key, escrow, self.digest, sender=owner, receiver=owner)
        pieces = [seeds[at : at + SECRET_BYTES] for at in range(0, len(seeds), SECRET_BYTES)]
        return dict(zip(self.shown_to(owner), pieces, strict=True))

    def bared(self, one: ClientId, words: Residues | None = None) -> Residues:
        """The masked input [d] of `one` without the masks that the server knows."""
        words = self.replies[Stage.MASKED_INPUT][one].words if words is None else words
        left, seed = words.copy(), self.rebuilt("seed", one)
        known = self.pair_seeds(one)
        masks = [(self_mask_key(seed, self.digest, me=one), True)] if seed else []
        # The lower id of a pair added the mask.
        masks += [
            (known[peer], one < peer)
            for peer in self.asked[Stage.MASKED_INPUT][one].sealed
            if peer in known
        ]
        apply_masks(left, masks)
        return reduce_words(left, self.context.bits)

    def reads(self, one: ClientId) -> bool:
        """Whether the attack has the summand of `one`; if not, it has uniform words."""
        left = self.bared(one)
        bare = np.array_equal(left, self.parts[one])
        assert bare or looks_uniform(left)
        return bare


def planned_server(sizes: Plan, *, spies: Collection[ClientId] = ()) -> LyingServer:
    """One whose clients all plan `sizes`, however weak, by hand."""
    members = tuple(range(sizes.members))
    parts = small_summands(members)
    network = a_planned_network(sizes, members, CONTEXT, parts)
    session = a_planned_session(sizes, members, CONTEXT)
    # The clients mask their summands in place: what they were is kept apart.
    return LyingServer(
        None,
        members,
        parts=small_summands(members),
        spies=spies,
        session=session,
        clients=network.clients,
    )


def request_for(server: LyingServer, one: ClientId, dropped: Collection[ClientId], **signed):
    """An unmask request that names `dropped`, and everybody else around `one` as survivors."""
    around = set(server.clients[one]._secrets.held) | {one}
    gone = tuple(sorted(around & set(dropped)))
    return UnmaskRequest(tuple(sorted(around - set(gone))), gone, signed.get("signatures", {}))


def gives_whatever_is_asked(client, request: UnmaskRequest) -> UnmaskShares:
    """A mutation: the unmask trip without a single check."""
    held = client._secrets.held
    shares = {one: held[one].seed for one in request.survivors if one in held}
    return UnmaskShares(shares | {one: held[one].escrow for one in request.dropped})
