"""The server's half of SecAgg and SecAgg+: one generator with one yield for each trip of the paper.

Each yield hands out `{client: message}` and is sent the replies that came in time; a client that is
missing, or that replied with something else, has dropped. From the masked inputs of the survivors
the server takes off their self masks and the pair masks that dropped clients left over, and has the
sum modulo 2^32. That the sum of the true values does not wrap is up to whoever encoded them.
"""

from __future__ import annotations

from collections.abc import Collection

from codex_ray.secagg.client import FEWEST_PEERS
from codex_ray.secagg.graph import Neighbourhoods, draw_graph, holders, sustainable
from codex_ray.secagg.keys import pair_mask_key, self_mask_key
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
from codex_ray.secagg.parameters import Plan
from codex_ray.secagg.prg import apply_mask
from codex_ray.secagg.rebuild import Promise, Rebuild
from codex_ray.secagg.trips import Outbox, Session, add_up, need, only
from codex_ray.types import ClientId, GroupSum, Residues, SessionContext, SessionResult, Stage


def run_session(members: Collection[ClientId], context: SessionContext, plan: Plan) -> Session:
    """The sum over the members that survive, and how many pair masks had to be rebuilt.

    Raises:
        SumAborted: too few clients answered a trip, or a secret cannot be rebuilt from their
        shares.
    """
    graph = draw_graph(members, context, degree=plan.degree)
    peers_needed = max(FEWEST_PEERS, plan.threshold - 1 if plan.complete else plan.threshold)

    # Trip 1: advertise keys. The silent stay in the graph, as dropouts: so the bounds count them.
    sizes = AdvertiseRequest(plan.members, plan.degree, plan.threshold)
    keys = only(AdvertisedKeys, (yield dict.fromkeys(graph, sizes)), graph)
    public = {one: it.channel + it.mask for one, it in keys.items() if _well_formed(it)}
    advertised = sustainable(graph, public, needed=peers_needed)
    need(advertised, plan.minimum, Stage.ADVERTISE_KEYS)

    # Trip 2: share keys.
    near = {one: _around(graph, one, advertised) for one in advertised}
    outbox: Outbox = {
        one: KeyDirectory({peer: public[peer] for peer in near[one]}) for one in advertised
    }
    sent = only(SealedShares, (yield outbox), advertised)
    sent = {one: it for one, it in sent.items() if set(it.sealed) == set(near[one]) - {one}}
    sharing = sustainable(graph, sent, needed=peers_needed)
    need(sharing, plan.minimum, Stage.SHARE_KEYS)

    # Trip 3: masked input. Whoever shared is now in its peers' masks, and may have to be undone.
    outbox = {
        one: ShareDelivery(
            {peer: sent[peer].sealed[one] for peer in _around(graph, one, sharing) if peer != one}
        )
        for one in sharing
    }
    masked = only(MaskedInput, (yield outbox), sharing)
    masked = {one: it for one, it in masked.items() if it.words.shape == (context.dimension,)}
    dropped = set(sharing) - set(masked)
    need(masked, plan.minimum, Stage.MASKED_INPUT)
    total = add_up((it.words for it in masked.values()), context.dimension)

    # Trip 4: unmask. From here on the survivors are final.
    outbox = {
        one: UnmaskRequest(_around(graph, one, masked), _around(graph, one, dropped))
        for one in masked
    }
    answers = only(UnmaskShares, (yield outbox), masked)
    need(answers, plan.minimum, Stage.UNMASK)
    promises = {
        one: Promise(
            holders(one, near[one], complete=plan.complete),
            mask_public=public[one][KEY_BYTES:],
            commitment=sent[one].commitment,
        )
        for one in sharing
    }
    rebuild = Rebuild(context, plan.threshold, promises, answers)
    left_over = {one: _around(graph, one, masked) for one in sorted(dropped)}
    recovered = _unmask(total, rebuild, survivors=masked, left_over=left_over)
    return SessionResult((GroupSum(tuple(masked), total),), masks_recovered=recovered)


def _unmask(
    total: Residues,
    rebuild: Rebuild,
    *,
    survivors: Collection[ClientId],
    left_over: dict[ClientId, tuple[ClientId, ...]],
) -> int:
    """Take all masks off `total` in place; how many pair masks of dropped clients that took.

    `left_over` has the survivors that masked with each dropped client; pairs that both dropped are
    in no masked input.
    """
    for one in survivors:
        key = self_mask_key(rebuild.seed(one), rebuild.context, me=one)
        apply_mask(total, key, negative=True)
    for one, peers in left_over.items():
        if not peers:
            continue
        pair = rebuild.mask_pair(one)
        for peer in peers:
            public = rebuild.promises[peer].mask_public
            key = pair_mask_key(pair, public, rebuild.context, me=one, peer=peer)
            # The lower id of a pair added the mask, so that is what is undone for the peer.
            apply_mask(total, key, negative=peer < one)
    return sum(map(len, left_over.values()))


def _well_formed(keys: AdvertisedKeys) -> bool:
    return len(keys.channel) == len(keys.mask) == KEY_BYTES


def _around(
    graph: Neighbourhoods, one: ClientId, some: Collection[ClientId]
) -> tuple[ClientId, ...]:
    """Those of `some` that are `one` or a neighbour of it, in increasing order."""
    return tuple(sorted(peer for peer in (one, *graph[one]) if peer in some))
