"""The client's half of SecAgg and SecAgg+: an answer to each trip in order, and silence otherwise.

Bonawitz et al. (2017), Figure 4, on the graph of Bell et al. (2020). The client hides its summand x
under a mask of its own and one for each pair, PRG(b) + sum over peers of +-PRG(s), the lower id
adding. The server may learn b (if the client survives) or the pair seeds s (if it drops), never
both: with both it has x. So whatever the server asks that could lead there ends the session on this
side, and what ended gives nothing.

One thing differs from the papers. They share out the private key that the pair seeds come from;
here the client seals its pair seeds of this session under an escrow key, deposits that with the
server, and shares out the escrow key. So what is revealed for a dropped client is this session's
pair seeds and nothing that lives longer, and one key agreement serves masks and channels alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NoReturn

from codex_ray.errors import ConfigError, ProtocolError
from codex_ray.randomness import fresh_secret
from codex_ray.secagg import shamir
from codex_ray.secagg.directory import Directory, read_directory
from codex_ray.secagg.graph import holders
from codex_ray.secagg.identity import Membership, SharedWork
from codex_ray.secagg.keys import (
    SECRET_BYTES,
    KeyPair,
    PairKeys,
    commit,
    pair_keys,
    seal,
    self_mask_key,
    told,
    unseal,
)
from codex_ray.secagg.messages import (
    AdvertisedKeys,
    AdvertiseRequest,
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
from codex_ray.secagg.parameters import SMALLEST_COHORT, Plan
from codex_ray.secagg.prg import apply_masks
from codex_ray.secagg.roster import NONCE_BYTES, Opening, Survivors
from codex_ray.secagg.summand import Summand, check_early, take
from codex_ray.types import ClientId, SessionContext, Stage
from codex_ray.types import reduce as reduce_words
from codex_ray.wire import Message

FEWEST_PEERS = 2
"""With one peer only, that peer knows every pair mask."""

_SHARE_BYTES = shamir.share_bytes(SECRET_BYTES)


@dataclass(frozen=True)
class _Held:
    """The shares of one owner: of its self-mask seed and of its escrow key."""

    seed: bytes = field(repr=False)
    escrow: bytes = field(repr=False)

    @classmethod
    def of(cls, both: bytes) -> _Held:
        """The two shares that an envelope holds one after the other."""
        return cls(both[:_SHARE_BYTES], both[_SHARE_BYTES:])


@dataclass(frozen=True)
class _Secrets:
    """All that must not leave the client; it goes as soon as the last answer or a refusal is out.

    Attributes:
        agreement: the key pair that pairs agree by.
        nonce: the client's own.
        seed: b, the key of the self mask.
        pairs: for each neighbour the keys shared with it.
        held: for each owner the shares that this client keeps.
    """

    agreement: KeyPair = field(repr=False)
    nonce: bytes = field(repr=False)
    seed: bytes = field(repr=False)
    pairs: dict[ClientId, PairKeys] = field(default_factory=dict, repr=False)
    held: dict[ClientId, _Held] = field(default_factory=dict, repr=False)


class SecAggClient:
    """One client in one session: `answer` each message of the server, once and in order."""

    def __init__(
        self,
        me: ClientId,
        context: SessionContext,
        summand: Summand,
        *,
        plan: Callable[[int], Plan],
        membership: Membership | None = None,
        shared: SharedWork | None = None,
    ) -> None:
        """Enter a session.

        Args:
            me: the client's own id.
            context: what the session is bound to.
            summand: words [d] of residues modulo 2^bits, which the session takes over, or a
                function that makes them, called when the masked input is asked for.
            plan: the sizes and rules that the client's own settings give for so many members; a
                session with any others is refused.
            membership: the client's identity and enrolment list, where the rules ask for one.
            shared: what the clients of one host compute once for all of them.
        """
        self._me = me
        self._context = context
        self._summand: Summand | None = summand
        check_early(summand, context, me=me)
        self._plan = plan
        self._membership = membership
        self._shared = shared or SharedWork()
        self._secrets: _Secrets | None = None
        self._opening: Opening | None = None
        self._advert: AdvertisedKeys | None = None
        self._committed: dict[ClientId, bytes] = {}
        self._directory: Directory | None = None
        self._claim: Survivors | None = None
        self._expected: Stage | None = Stage.ADVERTISE_KEYS

    def answer(self, message: Message) -> Message:
        """The reply to `message`; each request is answered once, in their order.

        Raises:
            ProtocolError: the message is out of turn or would endanger the summand. The session is
                then over for this client, and its secrets are gone.
        """
        try:
            reply, self._expected = self._step(message)
        except BaseException:
            self._forget()
            raise
        if self._expected is None:
            self._forget()
        return reply

    def __reduce__(self) -> NoReturn:
        """Refuses to be pickled or copied: a copy has the secrets, and would answer again."""
        raise TypeError(f"client {self._me} holds secrets of a session and cannot be pickled")

    def _step(self, message: Message) -> tuple[Message, Stage | None]:
        match self._expected, message:
            case Stage.ADVERTISE_KEYS, AdvertiseRequest() as request:
                advert = self._advertise(request)
                return advert, Stage.REVEAL_NONCES if self._reveals else Stage.SHARE_KEYS
            case Stage.REVEAL_NONCES, NonceCommitments() as listed:
                return self._reveal(listed), Stage.SHARE_KEYS
            case Stage.SHARE_KEYS, KeyDirectory() as directory:
                return self._share(directory), Stage.MASKED_INPUT
            case Stage.MASKED_INPUT, ShareDelivery() as delivery:
                masked = self._mask(delivery)
                return masked, Stage.CONFIRM_SURVIVORS if self._confirms else Stage.UNMASK
            case Stage.CONFIRM_SURVIVORS, SurvivorClaim() as claim:
                return self._confirm(claim), Stage.UNMASK
            case Stage.UNMASK, UnmaskRequest() as request:
                return self._unmask(request), None
        turn = self._expected.name.lower() if self._expected else "over"
        raise self._refusal(f"{type(message).__name__} is out of turn, the session is at: {turn}")

    def _forget(self) -> None:
        self._expected = None
        self._summand = None
        self._secrets = None

    def _refusal(self, why: str) -> ProtocolError:
        return ProtocolError(f"client {self._me} refuses: {why}")

    # Trip 1: advertise keys.

    def _advertise(self, request: AdvertiseRequest) -> AdvertisedKeys:
        sizes = self._agreed(request)
        membership = self._membership
        if sizes.identified and membership is None:
            raise self._refusal(f"{sizes.adversary} needs an identity and an enrolment list")
        enrolment = membership.enrolment.digest if sizes.identified and membership else b""
        opening = Opening(self._context, sizes, request.nonce, enrolment)
        if sizes.keys == "enrolled" and membership:
            agreement, public = membership.identity.agreement, b""
        else:
            agreement = KeyPair.fresh()
            public = agreement.public
        nonce = fresh_secret(NONCE_BYTES)
        shown = opening.commitment(self._me, nonce) if sizes.checks_roster else nonce
        advert = AdvertisedKeys(public, shown, b"")
        if sizes.signed and membership:
            signature = membership.identity.sign(opening.statement(self._me, advert))
            advert = replace(advert, signature=signature)
        self._opening, self._advert = opening, advert
        self._secrets = _Secrets(agreement, nonce, fresh_secret(SECRET_BYTES))
        return advert

    def _agreed(self, request: AdvertiseRequest) -> Plan:
        """The sizes of the session, if they are those of the client's own settings."""
        if request.members < SMALLEST_COHORT:
            raise self._refusal(f"a sum of {request.members} clients hides nobody")
        if not FEWEST_PEERS <= request.degree < request.members:
            raise self._refusal(f"{request.degree} neighbours among {request.members} members")
        if len(request.nonce) != NONCE_BYTES:
            raise self._refusal(f"the server's nonce has {len(request.nonce)} bytes")
        try:
            sizes = self._plan(request.members)
        except ConfigError as error:
            raise self._refusal(str(error)) from error
        # A majority of the shares is not enough: conspirators answer both of two survivor claims,
        # and only the plan knows how many of them to expect.
        announced = (request.members, request.degree, request.threshold)
        if announced != (sizes.members, sizes.degree, sizes.threshold):
            raise self._refusal(
                f"degree {request.degree} and threshold {request.threshold} were announced for "
                f"{request.members} members, its own settings give {sizes.degree} and "
                f"{sizes.threshold}: give server and clients one federation.protocol"
            )
        return sizes

    # Trip 1b, malicious only: reveal nonces.

    def _reveal(self, listed: NonceCommitments) -> RevealedNonce:
        secrets, opening = self._open()
        assert self._advert is not None and self._membership is not None
        if len(listed.committed) != opening.plan.members:
            raise self._refusal(
                f"{len(listed.committed)} clients are listed, {opening.plan.members} were announced"
            )
        if listed.committed.get(self._me) != self._advert.nonce:
            raise self._refusal("its own commitment is not listed")
        strangers = set(listed.committed) - set(self._membership.enrolment)
        if strangers:
            raise self._refusal(f"{sorted(strangers)[:5]} are not enrolled")
        self._committed = listed.committed
        return RevealedNonce(secrets.nonce)

    # Trip 2: share keys.

    def _share(self, message: KeyDirectory) -> SealedShares:
        secrets, opening = self._open()
        assert self._advert is not None
        try:
            directory = read_directory(
                message,
                opening,
                me=self._me,
                own=self._advert,
                committed=self._committed,
                enrolment=self._membership.enrolment if self._membership else None,
                shared=self._shared,
            )
        except ProtocolError as error:
            raise self._refusal(str(error)) from error
        session, sizes = directory.session, opening.plan
        if len(directory.peers) < FEWEST_PEERS:
            raise self._refusal(f"{len(directory.peers)} neighbours cannot hide it")
        adverts = {peer: it.advert for peer, it in directory.peers.items()}
        adverts[self._me] = told(self._me, message.adverts[self._me])
        lasting = sizes.keys == "enrolled"
        pairs = {
            peer: pair_keys(
                self._shared.agree(secrets.agreement, it.public, lasting=lasting),
                session,
                me=self._me,
                peer=peer,
                adverts=adverts,
            )
            for peer, it in directory.peers.items()
        }
        escrow_key = fresh_secret(SECRET_BYTES)
        held = self._deal(secrets.seed, escrow_key, tuple(pairs), sizes)
        sealed = {
            peer: seal(
                keys.outward,
                held[peer].seed + held[peer].escrow,
                session,
                sender=self._me,
                receiver=peer,
            )
            for peer, keys in pairs.items()
        }
        # Sender and receiver are one only here: an escrow cannot pass for an envelope.
        seeds = b"".join(pairs[peer].mask for peer in sorted(pairs))
        escrow = seal(escrow_key, seeds, session, sender=self._me, receiver=self._me)
        own = {self._me: held[self._me]} if self._me in held else {}
        self._directory = directory
        self._secrets = replace(secrets, pairs=pairs, held=own)
        return SealedShares(
            sealed,
            escrow,
            commit(secrets.seed, session, purpose="seed", me=self._me)
            + commit(escrow_key, session, purpose="escrow", me=self._me),
        )

    def _deal(
        self, seed: bytes, escrow_key: bytes, peers: tuple[ClientId, ...], sizes: Plan
    ) -> dict[ClientId, _Held]:
        """The shares of both secrets, by holder."""
        share_holders = holders(self._me, peers, complete=sizes.complete)
        count, threshold = len(share_holders), sizes.threshold
        if count < threshold:
            raise self._refusal(f"{count} share holders cannot give {threshold} shares")
        shares = shamir.split(seed, escrow_key, holders=count, threshold=threshold)
        return dict(zip(share_holders, map(_Held.of, shares), strict=True))

    # Trip 3: masked input.

    def _mask(self, delivery: ShareDelivery) -> MaskedInput:
        secrets, opening = self._open()
        session = self._session
        senders = set(delivery.sealed)
        strangers = senders - set(secrets.pairs)
        if strangers:
            raise self._refusal(f"shares of {sorted(strangers)}, which are not its neighbours")
        if len(senders) < FEWEST_PEERS:
            raise self._refusal(f"{len(senders)} neighbours with shares cannot hide it")
        if len(senders) + opening.plan.complete < opening.plan.threshold:
            raise self._refusal(
                f"{len(senders)} neighbours are too few for {opening.plan.threshold} shares"
            )
        held = {
            peer: self._open_shares(secrets.pairs[peer], session, box, sender=peer)
            for peer, box in delivery.sealed.items()
        }
        masks = [(self_mask_key(secrets.seed, session, me=self._me), False)]
        masks += [(secrets.pairs[peer].mask, self._me > peer) for peer in sorted(senders)]
        summand, self._summand = self._summand, None
        words = take(summand, self._context, me=self._me)
        apply_masks(words, masks)
        self._secrets = replace(secrets, pairs={}, held=secrets.held | held)
        return MaskedInput(reduce_words(words, self._context.bits))

    def _open_shares(
        self, keys: PairKeys, session: bytes, sealed: bytes, *, sender: ClientId
    ) -> _Held:
        plain = unseal(keys.inward, sealed, session, sender=sender, receiver=self._me)
        if len(plain) != 2 * _SHARE_BYTES:
            raise self._refusal(f"client {sender} sealed {len(plain)} bytes instead of two shares")
        return _Held.of(plain)

    # Trip 3b, where the server may lie: confirm survivors.

    def _confirm(self, claim: SurvivorClaim) -> SignedSurvivors:
        _, opening = self._open()
        assert self._membership is not None
        said = self._shared.once(claim, lambda: Survivors.of(claim.survivors))
        if not said.ordered:
            raise self._refusal("survivors are not listed once each, in increasing order")
        if self._me not in said.ids:
            raise self._refusal("it is in the sum, but not among the survivors")
        # Under `malicious` the members are known; before that, who could be one.
        known = self._committed or self._membership.enrolment.entries
        if not known.keys() >= said.ids:
            raise self._refusal("there are survivors that never could take part")
        if len(said.ids) < opening.plan.minimum:
            raise self._refusal(f"{len(said.ids)} survivors, {opening.plan.minimum} are needed")
        self._check_heard(said)
        self._claim = said
        return SignedSurvivors(self._membership.identity.sign(said.statement(self._session)))

    def _check_heard(self, said: Survivors) -> None:
        """Nothing, if shares came from every neighbour that is said to survive.

        Who survived has shared its keys. A server that keeps its envelope back leaves it out of
        this client's mask, and could sum the two apart under one claim that all sign.
        """
        secrets, opening = self._open()
        others = said.ids - {self._me}
        around = others if opening.plan.complete else others & self._peers
        unheard = around - secrets.held.keys()
        if unheard:
            raise self._refusal(
                f"{sorted(unheard)[:5]} are said to survive, but no shares of them came"
            )

    # Trip 4: unmask.

    def _unmask(self, request: UnmaskRequest) -> UnmaskShares:
        secrets, opening = self._open()
        survivors, dropped = set(request.survivors), set(request.dropped)
        if survivors & dropped:
            raise self._refusal(
                f"{sorted(survivors & dropped)} are said to survive and to have dropped"
            )
        if self._me not in survivors:
            raise self._refusal("it is in the sum, but not among the survivors")
        strangers = (survivors | dropped) - set(secrets.held) - {self._me}
        if strangers:
            raise self._refusal(f"it never got shares of {sorted(strangers)}")
        if len(survivors) < opening.plan.threshold:
            raise self._refusal(
                f"{len(survivors)} survivors around it, {opening.plan.threshold} are needed"
            )
        if self._confirms:
            self._check_confirmed(request)
        shares = {one: secrets.held[one].seed for one in survivors if one in secrets.held}
        shares |= {one: secrets.held[one].escrow for one in dropped}
        return UnmaskShares(shares)

    def _check_confirmed(self, request: UnmaskRequest) -> None:
        """Nothing, if enough neighbours signed the claim that this request follows from."""
        secrets, opening = self._open()
        assert self._membership is not None and self._claim is not None
        around = set(secrets.held) | {self._me}
        if set(request.survivors) != around & self._claim.ids:
            raise self._refusal("the survivors around it are not those that it signed for")
        if set(request.dropped) != around - self._claim.ids:
            raise self._refusal("the dropped around it are not those that it signed for")
        statement = self._claim.statement(self._session)
        signed = sorted(set(request.signatures) & set(request.survivors) - {self._me})
        needed = opening.plan.threshold - opening.plan.complete
        if len(signed) < needed:
            raise self._refusal(
                f"{len(signed)} neighbours signed the survivors, {opening.plan.threshold} are "
                "needed"
            )
        for peer in signed[:needed]:  # more would prove nothing more
            self._shared.verify(
                self._membership.enrolment, peer, statement, request.signatures[peer]
            )

    @property
    def _reveals(self) -> bool:
        return self._opening is not None and self._opening.plan.checks_roster

    @property
    def _confirms(self) -> bool:
        return self._opening is not None and self._opening.plan.confirms

    @property
    def _peers(self) -> set[ClientId]:
        assert self._directory is not None  # It is there from trip 2 on.
        return set(self._directory.peers)

    @property
    def _session(self) -> bytes:
        assert self._directory is not None  # It is there from trip 2 on.
        return self._directory.session

    def _open(self) -> tuple[_Secrets, Opening]:
        assert self._secrets is not None  # They are there from the first answer to the end,
        assert self._opening is not None  # and out of that time no request gets this far.
        return self._secrets, self._opening
