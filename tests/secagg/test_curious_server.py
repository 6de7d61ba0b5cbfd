"""What a server can compute from everything it saw: the sum, and no single summand.

Each test has its mutation: with the protection taken out, the same attack reads the summand.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chisquare
from secagg_network import Network, a_context, a_network, a_planned_network, plain_sum

from codex_ray.errors import ProtocolError, SumAborted
from codex_ray.secagg import client as client_module
from codex_ray.secagg import server as server_module
from codex_ray.secagg import shamir
from codex_ray.secagg.keys import KeyPair, pair_mask_key, self_mask_key
from codex_ray.secagg.messages import AdvertiseRequest, KeyDirectory, ShareDelivery, UnmaskRequest
from codex_ray.secagg.parameters import Plan
from codex_ray.secagg.prg import apply_mask
from codex_ray.secagg.protocols import SecAgg, SecAggPlus
from codex_ray.secagg.server import run_session
from codex_ray.types import Stage

TEN = tuple(range(10))
DIMENSION = 2048
CONTEXT = a_context(DIMENSION)
DROPS = {1: Stage.UNMASK, 4: Stage.MASKED_INPUT, 7: Stage.MASKED_INPUT, 8: Stage.SHARE_KEYS}


def small_summands(members):
    """Summands that are far from uniform, so that a bare one is recognised."""
    return {
        one: (np.arange(DIMENSION, dtype=np.uint32) * (one + 3)) % np.uint32(50) for one in members
    }


def looks_uniform(words):
    counts = np.bincount(np.frombuffer(words.tobytes(), dtype=np.uint8), minlength=256)
    return chisquare(counts).pvalue > 1e-9


def strip(words, *, me, seed, mask_private, publics):
    """Take off a masked input every mask that a seed and the known mask private keys give."""
    left = words.copy()
    if seed is not None:
        apply_mask(left, self_mask_key(seed, CONTEXT, me=me), negative=True)
    for peer in publics:
        if peer == me:
            continue
        for holder, other in ((me, peer), (peer, me)):
            if holder in mask_private:
                pair = KeyPair.of(mask_private[holder])
                key = pair_mask_key(pair, publics[other], CONTEXT, me=holder, peer=other)
                apply_mask(left, key, negative=me < peer)
                break
    return left


def secrets_from(network, threshold, *, complete):
    """Every seed and mask key of which the transcript holds at least `threshold` shares."""
    shares = {"seed": defaultdict(dict), "mask": defaultdict(dict)}
    directory = network.sent[Stage.SHARE_KEYS]
    for holder, reply in network.answered[Stage.UNMASK].items():
        request = network.sent[Stage.UNMASK][holder]
        for owner, share in reply.shares.items():
            kind = "seed" if owner in request.survivors else "mask"
            order = (
                sorted(directory[owner].keys)
                if complete
                else sorted(set(directory[owner].keys) - {owner})
            )
            shares[kind][owner][order.index(holder) + 1] = share
    return {
        kind: {
            owner: shamir.reconstruct(some, threshold=threshold, secret_bytes=32)
            for owner, some in owners.items()
            if len(some) >= threshold
        }
        for kind, owners in shares.items()
    }


@pytest.mark.parametrize(
    ("sizes", "drops"),
    [
        (Plan(10, 9, 6, 6), DROPS),
        (Plan(10, 8, 5, 6), {1: Stage.UNMASK, 4: Stage.MASKED_INPUT, 8: Stage.SHARE_KEYS}),
    ],
    ids=["complete", "sparse"],
)
def test_a_transcript_gives_the_sum_and_no_summand(sizes, drops):
    parts = small_summands(TEN)
    network = a_planned_network(sizes, TEN, CONTEXT, parts, drops=drops)
    result = network.run(run_session(TEN, CONTEXT, sizes))
    known = secrets_from(network, sizes.threshold, complete=sizes.complete)
    inputs = {one: it.words for one, it in network.answered[Stage.MASKED_INPUT].items()}
    assert set(known["seed"]) == set(result.members) and set(known["mask"]) == set(network.late)
    assert set(inputs) == set(result.members) and set(network.late) == {
        one for one, stage in drops.items() if stage == Stage.MASKED_INPUT
    }
    delivered = network.sent[Stage.MASKED_INPUT]
    publics = {
        one: directory.keys[one][32:] for one, directory in network.sent[Stage.SHARE_KEYS].items()
    }
    bare = {}
    for one, words in (inputs | {one: it.words for one, it in network.late.items()}).items():
        assert looks_uniform(words)
        bare[one] = strip(
            words,
            me=one,
            seed=known["seed"].get(one),
            mask_private=known["mask"],
            publics={peer: publics[peer] for peer in (one, *delivered[one].sealed)},
        )
        assert looks_uniform(bare[one])
        assert not np.array_equal(bare[one], parts[one])
    # The attack is the real one: what it leaves on the survivors cancels, and gives the sum.
    np.testing.assert_array_equal(plain_sum(bare, result.members), result.groups[0].total)
    np.testing.assert_array_equal(plain_sum(parts, result.members), result.groups[0].total)


def test_without_masks_the_same_transcript_gives_every_summand(monkeypatch):
    for module in (client_module, server_module):
        monkeypatch.setattr(module, "apply_mask", lambda *_, **__: None)
    parts = small_summands(TEN)
    network = a_network(SecAgg(), TEN, CONTEXT, parts, drops=DROPS)
    network.run(SecAgg().session(TEN, CONTEXT))
    for one, reply in network.answered[Stage.MASKED_INPUT].items():
        np.testing.assert_array_equal(reply.words, parts[one])
        assert not looks_uniform(reply.words)


def split_views(protocol, threshold, believers, *, spies=(9,)):
    """What a lying server leaves of the masked input of client 0, and the summand of client 0.

    It announces that threshold. `believers` hear that client 0 survived, the other honest clients
    that it dropped; `spies` conspire and give both their shares.
    """
    parts = small_summands(TEN)
    clients = {one: protocol.client(one, CONTEXT, parts[one]) for one in TEN}
    keys = {one: it.answer(AdvertiseRequest(10, 9, threshold)) for one, it in clients.items()}
    public = {one: it.channel + it.mask for one, it in keys.items()}
    boxes = {one: it.answer(KeyDirectory(public)).sealed for one, it in clients.items()}
    words = {
        one: it.answer(ShareDelivery({peer: boxes[peer][one] for peer in TEN if peer != one})).words
        for one, it in clients.items()
    }
    spied = {spy + 1: clients[spy]._secrets.held[0] for spy in spies}
    seeds = {number: held.seed for number, held in spied.items()}
    masks = {number: held.mask for number, held in spied.items()}
    for one in set(TEN) - set(spies):
        believes = one == 0 or one in believers
        request = UnmaskRequest(TEN, ()) if believes else UnmaskRequest(TEN[1:], (0,))
        shares = clients[one].answer(request).shares
        if 0 in shares:
            (seeds if believes else masks)[one + 1] = shares[0]
    seed = mask = None
    if len(seeds) >= threshold:
        seed = shamir.reconstruct(seeds, threshold=threshold, secret_bytes=32)
    if len(masks) >= threshold:
        mask = shamir.reconstruct(masks, threshold=threshold, secret_bytes=32)
    left = strip(
        words[0],
        me=0,
        seed=seed,
        mask_private={0: mask} if mask else {},
        publics={one: it[32:] for one, it in public.items()},
    )
    assert not (seed and mask) or np.array_equal(left, parts[0])
    return left, parts[0]


@pytest.mark.parametrize("count", range(9))
def test_two_survivor_claims_never_collect_both_secrets(count):
    left, summand = split_views(SecAgg(), 6, TEN[1 : count + 1])
    assert looks_uniform(left) and not np.array_equal(left, summand)


def test_below_a_majority_two_survivor_claims_read_the_summand():
    """A threshold that takes the server's claims for true falls to a server that lies."""
    left, summand = split_views(SecAggPlus(adversary="semi_honest", threshold=5), 5, TEN[1:5])
    np.testing.assert_array_equal(left, summand)
    with pytest.raises(ProtocolError, match="its own settings give 9 and 6"):
        split_views(SecAgg(), 5, TEN[1:5])


def test_a_majority_that_leaves_the_conspirators_out_reads_the_summand():
    """Three conspirators answer both claims: 6 of 10 falls to them, 7 holds, so 6 is refused."""
    three, spies = SecAgg(assumed_corrupt=0.3), (7, 8, 9)
    left, summand = split_views(SecAgg(), 6, TEN[1:4], spies=spies)
    np.testing.assert_array_equal(left, summand)
    with pytest.raises(ProtocolError, match=r"threshold 6 .* its own settings give 9 and 7"):
        split_views(three, 6, TEN[1:4], spies=spies)
    for count in range(7):
        left, summand = split_views(three, 7, TEN[1 : count + 1], spies=spies)
        assert looks_uniform(left) and not np.array_equal(left, summand)


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (AdvertiseRequest(10, 9, 6), "threshold 6 .* its own settings give 9 and 7"),
        (AdvertiseRequest(10, 9, 8), "threshold 8 .* its own settings give 9 and 7"),
        (AdvertiseRequest(10, 8, 7), "degree 8 .* its own settings give 9 and 7"),
        (AdvertiseRequest(9, 8, 7), "9 neighbours, 8 were announced"),
        (AdvertiseRequest(3, 2, 3), "9 neighbours, 2 were announced"),
    ],
)
def test_a_client_that_is_told_other_sizes_than_the_rest_stays_out(told, why):
    protocol, parts = SecAgg(assumed_corrupt=0.3), small_summands(TEN)
    network = a_network(protocol, TEN, CONTEXT, parts)
    session = protocol.session(TEN, CONTEXT)

    def with_a_lie():
        inbox = yield next(session) | {0: told}
        while True:
            try:
                inbox = yield session.send(inbox)
            except StopIteration as end:
                return end.value

    assert network.run(with_a_lie()).members == TEN[1:]
    assert set(network.refusals) == {0} and re.search(why, network.refusals[0])
    assert 0 not in network.answered[Stage.MASKED_INPUT]


def with_another_model():
    """A session in which the server sent client 3 a model of its own."""
    parts = small_summands(TEN)
    clients = {one: SecAgg().client(one, CONTEXT, parts[one]) for one in TEN}
    clients[3] = SecAgg().client(3, replace(CONTEXT, model_digest=b"x" * 32), parts[3])
    return parts, Network(clients)


def test_another_model_for_one_client_gives_no_sum():
    _, network = with_another_model()
    with pytest.raises(SumAborted):
        network.run(SecAgg().session(TEN, CONTEXT))
    assert set(network.refusals) == set(TEN)
    assert all("do not open" in why for why in network.refusals.values())


def test_another_model_makes_garbage_even_if_the_envelopes_open(monkeypatch):
    """Only the pair masks still depend on the model: they do not cancel, no update comes out."""
    for name in ("channel_key", "seal", "unseal", "commit", "self_mask_key"):
        original = getattr(client_module, name)

        def with_one_model(*args, original=original, **options):
            args = [CONTEXT if hasattr(it, "model_digest") else it for it in args]
            return original(*args, **options)

        monkeypatch.setattr(client_module, name, with_one_model)
    parts, network = with_another_model()
    total = network.run(SecAgg().session(TEN, CONTEXT)).groups[0].total
    others = plain_sum(parts, tuple(one for one in TEN if one != 3))
    assert looks_uniform(total) and looks_uniform(total - others)
