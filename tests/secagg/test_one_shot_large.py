"""Large cohorts and wide words: the one-shot sum is exact where products need two limbs."""

from __future__ import annotations

import time

import numpy as np
import pytest
from one_shot_network import SHARED, a_context
from secagg_network import a_membership, a_session

from codex_ray.federation.folding import Folding
from codex_ray.randomness import Stream
from codex_ray.secagg import lattice, ring
from codex_ray.secagg.lattice import Modulus
from codex_ray.secagg.protocols import OneShot
from codex_ray.types import Stage, word_type
from codex_ray.wire import read_frame


def a_summand(one, context):
    """Uniform residues [d] that follow from the client's number."""
    words = Stream(one.to_bytes(32, "little")).words(context.dimension)
    return (words >> np.uint64(64 - context.bits)).astype(word_type(context.bits))


def ask(protocol, members, context, outbox, silent):
    """Trip 1: the replies, folded as they come, and the clients that will be asked once more."""
    folding, spoken, committee = Folding(bits=context.bits), {}, {}
    for one, request in outbox.items():
        client = protocol.client(
            one,
            context,
            a_summand(one, context),
            membership=a_membership(one, members),
            shared=SHARED,
        )
        if one in request.committee:
            committee[one] = client
        if one not in silent:
            spoken[one] = folding.fold(read_frame(client.answer(request).to_frame()))
        elif one in committee:
            client.answer(request)  # Too late to be counted, but it knows the session.
    return spoken, committee


def run_a_round(protocol, members, context, *, drop):
    """Who is in the sum, whether it is exact, and CPU seconds; a fraction `drop` never speaks."""
    began = time.process_time()
    session = a_session(protocol, members, context)
    silent = set(members[:: round(1 / drop)])
    outbox = next(session)
    spoken, committee = ask(protocol, members, context, outbox, silent)
    asked = session.send(spoken)
    late = len(asked) - protocol.plan(len(members)).threshold
    away = sorted(asked)[: late // 2]
    sums = {one: committee[one].answer(it) for one, it in asked.items() if one not in away}
    with pytest.raises(StopIteration) as end:
        session.send(sums)
    (group,) = end.value.value.groups
    took = time.process_time() - began
    want = sum(a_summand(one, context).astype(np.uint64) for one in members if one not in silent)
    assert group.members == tuple(one for one in members if one not in silent)
    np.testing.assert_array_equal(group.total, want & np.uint64((1 << context.bits) - 1))
    assert next(iter(asked.values())).stage == Stage.UNMASK
    return took


def limbs(members, context, *, keys):
    """Into how many parts the public matrix is cut for a product with the sum of so many keys."""
    width = Modulus.of_sum(members, context.bits).width
    norm = lattice._KEY_MARGIN * lattice.key_distribution().sigma * (ring.DEGREE * keys) ** 0.5
    return lattice.public_matrix.__wrapped__(context, width, norm).limbs


def test_a_sum_with_two_limbs_on_either_side_is_exact():
    members, context = tuple(range(150)), a_context(2_100, 32)
    assert Modulus.of_sum(150, 32).width == 42
    assert limbs(150, context, keys=1) == limbs(150, context, keys=105) == 2
    run_a_round(OneShot(packing=8), members, context, drop=0.3)


def test_a_sum_with_two_limbs_on_the_servers_side_only_is_exact():
    members, context = tuple(range(150)), a_context(2_100, 22)
    assert limbs(150, context, keys=1) == 1 and limbs(150, context, keys=105) == 2
    run_a_round(OneShot(packing=8), members, context, drop=0.3)


@pytest.mark.slow
def test_a_sum_over_ten_thousand_clients_is_exact():
    """30 bits and 10 000 clients make words of 43 bits; a tenth never speaks."""
    members, context = tuple(range(10_000)), a_context(2_100, 30)
    assert Modulus.of_sum(10_000, 30).width == 43
    assert limbs(10_000, context, keys=1) == limbs(10_000, context, keys=9_000) == 2
    protocol = OneShot(packing=8)
    assert protocol.plan(10_000).size == 64
    took = run_a_round(protocol, members, context, drop=0.1)
    print(f"{took:.1f} CPU s")
