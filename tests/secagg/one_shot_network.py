"""One-shot sessions in memory, and what a server can work out from what it got hold of."""

from __future__ import annotations

import numpy as np
from secagg_network import Network, a_membership, an_enrolment

from codex_ray.secagg.committee import CommitteePlan, plan_committee
from codex_ray.secagg.identity import SharedWork
from codex_ray.secagg.lattice import KEY_ELEMENTS, Masked, Modulus, keys_from_field, unmask
from codex_ray.secagg.one_shot_client import OneShotClient
from codex_ray.secagg.one_shot_messages import OpenRequest
from codex_ray.secagg.one_shot_server import run_one_shot
from codex_ray.secagg.packed_shamir import rebuild
from codex_ray.secagg.parameters import Assumptions
from codex_ray.types import SessionContext, word_type

EIGHT = tuple(range(0, 24, 3))
PLAN = plan_committee(8, Assumptions(0.05, 0.1))
SMALL = CommitteePlan(members=8, size=5, corrupt=1, packing=1, threshold=4, minimum=5)
SHARED = SharedWork(remember=True)
RNG = np.random.Generator(np.random.PCG64(11))


def a_context(dimension=6, bits=16, *, round=0):
    return SessionContext(b"r" * 16, round, 0, b"m" * 32, dimension, bits)


def summands(members, context):
    kind = word_type(context.bits)
    return {
        one: RNG.integers(0, 1 << context.bits, context.dimension, dtype=np.uint64).astype(kind)
        for one in members
    }


def plain_sum(parts, members, bits):
    total = sum(parts[one].astype(np.uint64) for one in members)
    return total & np.uint64((1 << bits) - 1)


def a_client(one, context, summand, *, members=EIGHT, plan=PLAN, spent=None):
    return OneShotClient(
        one,
        context,
        summand,
        membership=a_membership(one, members),
        plan=plan if callable(plan) else lambda _: plan,
        shared=SHARED,
        spent=spent,
    )


def a_network(context, parts, *, members=EIGHT, plan=PLAN, drops=None, kind=Network):
    clients = {
        one: a_client(one, context, parts[one], members=members, plan=plan) for one in members
    }
    return kind(clients, drops or {})


def a_session(context, *, members=EIGHT, plan=PLAN):
    return run_one_shot(members, context, plan, enrolment=an_enrolment(members).digest)


def spoken(context, parts, *, plan=PLAN, spent=None):
    """A server's view after trip 1: the request, the clients and what they uploaded."""
    session = a_session(context, plan=plan)
    outbox = next(session)
    clients = {one: a_client(one, context, parts[one], plan=plan, spent=spent) for one in EIGHT}
    uploads = {one: clients[one].answer(outbox[one]) for one in EIGHT}
    return outbox[EIGHT[0]], clients, uploads


def to_open(request, uploads, survivors, member):
    """What the server would ask `member` about those survivors."""
    at = request.committee.index(member)
    size = len(uploads[survivors[0]].sealed) // len(request.committee)
    return OpenRequest(
        tuple(survivors),
        b"".join(uploads[one].nonce for one in survivors),
        b"".join(uploads[one].sealed[at * size : (at + 1) * size] for one in survivors),
    )


def opened(request, uploads, survivors, answers, *, context, packing=1):
    """The sum over `survivors` from however many answers a server got hold of."""
    modulus = Modulus.of_sum(request.members.size, context.bits)
    total = Masked.nothing(context.dimension, modulus)
    for one in survivors:
        total.add(uploads[one].low, uploads[one].high)
    shares = {request.committee.index(one) + 1: it.share for one, it in answers.items()}
    keys = rebuild(shares, count=KEY_ELEMENTS, threshold=request.threshold, packing=packing)
    return unmask(
        total, keys_from_field(keys), context=context, modulus=modulus, summed=len(survivors)
    )


def first_request(context=None, *, plan=PLAN):
    return next(a_session(context or a_context(), plan=plan))[EIGHT[0]]
