"""The client's half of SecAgg and SecAgg+: four answers in order, and silence to everything else.

Bonawitz et al. (2017), Figure 4, on the graph of Bell et al. (2020). The client hides its summand x
under a mask of its own and one for each pair, PRG(b) + sum over peers of +-PRG(s), the lower id
adding. The server may learn b (if the client survives) or the pair keys (if it drops), never both:
with both it has x. So whatever the server asks that could lead there ends the session on this side,
and what ended gives nothing.

Nor does the server choose degree and threshold: the client plans them from its own settings, and
takes no others. The first trip it is taken to run honestly (see `codex_ray.secagg.protocols`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from codex_ray.errors import ConfigError, ProtocolError
from codex_ray.randomness import fresh_secret
from codex_ray.secagg import shamir
from codex_ray.secagg.graph import holders
from codex_ray.secagg.keys import (
    SECRET_BYTES,
    KeyPair,
    channel_key,
    commit,
    pair_mask_key,
    seal,
    self_mask_key,
    unseal,
)
from codex_ray.secagg.messages import (
    KEY_BYTES,
    AdvertisedKeys,
    AdvertiseRequest,
    KeyDirectory,
    MaskedInput,
    SealedShares,
    ShareDelivery,
    UnmaskRequest,
    UnmaskShares,
)
from codex_ray.secagg.parameters import SMALLEST_COHORT, Plan
from codex_ray.secagg.prg import apply_mask
from codex_ray.types import ClientId, Residues, SessionContext, Stage
from codex_ray.wire import Message

FEWEST_PEERS = 2
"""With one peer only, that peer knows every pair mask."""


@dataclass(frozen=True)
class _Held:
    """The shares of one owner: of its mask private key and of its seed."""

    mask: bytes = field(repr=False)
    seed: bytes = field(repr=False)


@dataclass(frozen=True)
class _Secrets:
    """All that must not leave the client; it goes as soon as the last answer or a refusal is out.

    Attributes:
        channel, mask: the key pairs; the mask pair's private key is what the peers hold shares of.
        seed: b, the key of the self mask.
        openers: for each peer the key that opens what it sealed for this client.
        held: for each owner the shares that this client keeps.
    """

    channel: KeyPair
    mask: KeyPair
    seed: bytes = field(repr=False)
    openers: dict[ClientId, bytes] = field(default_factory=dict, repr=False)
    held: dict[ClientId, _Held] = field(default_factory=dict, repr=False)


class SecAggClient:
    """One client in one session: `answer` each message of the server, once and in order."""

    def __init__(
        self,
        me: ClientId,
        context: SessionContext,
        summand: Residues,
        *,
        plan: Callable[[int], Plan],
    ) -> None:
        """Enter a session with the summand [d], which is copied.

        Args:
            me: the client's own id.
            context: what the session is bound to.
            summand: uint32 [d].
            plan: the sizes that the client's own settings give for so many members; a session with
                any others is refused.

        Raises:
            ProtocolError: the summand is not a uint32 vector of the context's dimension.
        """
        self._me = me
        self._context = context
        self._plan = plan
        if summand.dtype != np.uint32 or summand.shape != (context.dimension,):
            raise self._refusal(
                f"the summand is {summand.dtype} {summand.shape}, the session sums uint32 "
                f"({context.dimension},)"
            )
        self._summand: Residues | None = summand.copy()
        self._secrets: _Secrets | None = None
        self._sizes: Plan | None = None
        self._directory: dict[ClientId, bytes] = {}
        self._expected: Stage | None = Stage.ADVERTISE_KEYS

    def answer(self, message: Message) -> Message:
        """The reply to `message`; the four requests are answered once each, in their order.

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

    def _step(self, message: Message) -> tuple[Message, Stage | None]:
        match self._expected, message:
            case Stage.ADVERTISE_KEYS, AdvertiseRequest() as request:
                return self._advertise(request), Stage.SHARE_KEYS
            case Stage.SHARE_KEYS, KeyDirectory() as directory:
                return self._share(directory), Stage.MASKED_INPUT
            case Stage.MASKED_INPUT, ShareDelivery() as delivery:
                return self._mask(delivery), Stage.UNMASK
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
        if request.members < SMALLEST_COHORT:
            raise self._refusal(f"a sum of {request.members} clients hides nobody")
        if not FEWEST_PEERS <= request.degree < request.members:
            raise self._refusal(f"{request.degree} neighbours among {request.members} members")
        try:
            sizes = self._plan(request.members)
        except ConfigError as error:
            raise self._refusal(str(error)) from error
        # A majority of the shares is not enough: conspirators answer both of two survivor claims,
        # and only the plan knows how many of them to expect.
        if request != AdvertiseRequest(sizes.members, sizes.degree, sizes.threshold):
            raise self._refusal(
                f"degree {request.degree} and threshold {request.threshold} were announced for "
                f"{request.members} members, its own settings give {sizes.degree} and "
                f"{sizes.threshold}: give server and clients one federation.protocol"
            )
        self._sizes = sizes
        self._secrets = _Secrets(KeyPair.fresh(), KeyPair.fresh(), fresh_secret(SECRET_BYTES))
        return AdvertisedKeys(self._secrets.channel.public, self._secrets.mask.public)

    # Trip 2: share keys.

    def _share(self, directory: KeyDirectory) -> SealedShares:
        secrets, sizes = self._open()
        self._check_directory(directory.keys, sizes, secrets)
        share_holders = holders(self._me, directory.keys, complete=sizes.complete)
        count, threshold = len(share_holders), sizes.threshold
        if count < threshold:
            raise self._refusal(f"{count} share holders cannot give {threshold} shares")
        mask_shares = shamir.split(secrets.mask.private, holders=count, threshold=threshold)
        seed_shares = shamir.split(secrets.seed, holders=count, threshold=threshold)
        shares = dict(zip(share_holders, map(_Held, mask_shares, seed_shares), strict=True))
        sealed, openers = {}, {}
        for peer in sorted(set(directory.keys) - {self._me}):
            outward, openers[peer] = channel_key(
                secrets.channel,
                directory.keys[peer][:KEY_BYTES],
                self._context,
                directions=((self._me, peer), (peer, self._me)),
            )
            plain = shares[peer].mask + shares[peer].seed
            sealed[peer] = seal(outward, plain, self._context, sender=self._me, receiver=peer)
        own = {self._me: shares[self._me]} if self._me in shares else {}
        self._directory = directory.keys
        self._secrets = replace(secrets, openers=openers, held=own)
        return SealedShares(sealed, commit(secrets.seed, self._context, me=self._me))

    def _check_directory(
        self, listed: dict[ClientId, bytes], sizes: Plan, secrets: _Secrets
    ) -> None:
        if listed.get(self._me) != secrets.channel.public + secrets.mask.public:
            raise self._refusal("the key directory does not hold its own keys")
        if len(listed) - 1 > sizes.degree:
            raise self._refusal(f"{len(listed) - 1} neighbours, {sizes.degree} were announced")
        if len(listed) - 1 < FEWEST_PEERS:
            raise self._refusal(f"{len(listed) - 1} neighbours cannot hide it")
        if any(len(keys) != 2 * KEY_BYTES for keys in listed.values()):
            raise self._refusal("a directory entry is not two keys")
        keys = [half for both in listed.values() for half in (both[:KEY_BYTES], both[KEY_BYTES:])]
        if len(set(keys)) != len(keys):
            raise self._refusal("a public key is listed twice")

    # Trip 3: masked input.

    def _mask(self, delivery: ShareDelivery) -> MaskedInput:
        secrets, sizes = self._open()
        assert self._summand is not None  # It goes with this trip, or with the secrets.
        strangers = set(delivery.sealed) - set(secrets.openers)
        if strangers:
            raise self._refusal(f"shares of {sorted(strangers)}, which are not its neighbours")
        if len(delivery.sealed) < FEWEST_PEERS:
            raise self._refusal(f"{len(delivery.sealed)} neighbours with shares cannot hide it")
        if len(delivery.sealed) + sizes.complete < sizes.threshold:
            raise self._refusal(
                f"{len(delivery.sealed)} neighbours are too few for {sizes.threshold} shares"
            )
        held = {peer: self._open_shares(peer, box) for peer, box in delivery.sealed.items()}
        words = self._summand
        apply_mask(words, self_mask_key(secrets.seed, self._context, me=self._me))
        for peer in sorted(delivery.sealed):
            mask_public = self._directory[peer][KEY_BYTES:]
            key = pair_mask_key(secrets.mask, mask_public, self._context, me=self._me, peer=peer)
            apply_mask(words, key, negative=self._me > peer)
        self._summand = None
        self._secrets = replace(secrets, openers={}, held=secrets.held | held)
        return MaskedInput(words)

    def _open_shares(self, sender: ClientId, sealed: bytes) -> _Held:
        secrets, _ = self._open()
        opener = secrets.openers[sender]
        plain = unseal(opener, sealed, self._context, sender=sender, receiver=self._me)
        size = shamir.share_bytes(SECRET_BYTES)
        if len(plain) != 2 * size:
            raise self._refusal(f"client {sender} sealed {len(plain)} bytes instead of two shares")
        return _Held(mask=plain[:size], seed=plain[size:])

    # Trip 4: unmask.

    def _unmask(self, request: UnmaskRequest) -> UnmaskShares:
        secrets, sizes = self._open()
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
        if len(survivors) < sizes.threshold:
            raise self._refusal(
                f"{len(survivors)} survivors around it, {sizes.threshold} are needed"
            )
        shares = {one: secrets.held[one].seed for one in survivors if one in secrets.held}
        shares |= {one: secrets.held[one].mask for one in dropped}
        return UnmaskShares(shares)

    def _open(self) -> tuple[_Secrets, Plan]:
        assert self._secrets is not None  # They are there from the first answer to the end,
        assert self._sizes is not None  # and out of that time no request gets this far.
        return self._secrets, self._sizes
