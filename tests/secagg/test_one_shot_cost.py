"""What a one-shot round is said to cost, against what real rounds take."""

from __future__ import annotations

import pytest
from one_shot_network import a_context, plain_sum, summands
from secagg_network import Network, a_membership, a_session

from codex_ray.secagg import one_shot_client, one_shot_server, packed_shamir
from codex_ray.secagg.cost import Attendance, Rates
from codex_ray.secagg.identity import SharedWork
from codex_ray.secagg.lattice import Modulus
from codex_ray.secagg.one_shot_cost import count_one_shot, price_one_shot
from codex_ray.secagg.protocols import Ideal, OneShot
from codex_ray.types import SessionContext, Stage

DIMENSION = 40


class Counting(SharedWork):
    """Does everything itself, and counts it."""

    def __init__(self) -> None:
        super().__init__()
        self.agreements = 0

    def agree(self, *args, **options) -> bytes:
        self.agreements += 1
        return super().agree(*args, **options)


def counting(name, original, calls):
    """`original`, whose calls are counted under `name`."""

    def counted(*args, **named):
        calls[name] = calls.get(name, 0) + 1
        return original(*args, **named)

    return counted


def a_counted_round(protocol, members, context, *, drops, monkeypatch):
    """The attendance of a round, its operations as they happened, and the bytes of its clients."""
    parts, shared, calls = summands(members, context), Counting(), {}
    for module, name in [
        (one_shot_client, "seal"),
        (one_shot_client, "unseal"),
        (one_shot_client, "mask"),
        (one_shot_client, "split"),
        (one_shot_server, "rebuild"),
        (one_shot_server, "unmask"),
    ]:
        monkeypatch.setattr(module, name, counting(name, getattr(module, name), calls))
    clients = {
        one: protocol.client(
            one, context, parts[one], membership=a_membership(one, members), shared=shared
        )
        for one in members
    }
    network = Network(clients, drops)
    result = network.run(a_session(protocol, members, context))
    assert (
        result.groups[0].total == plain_sum(parts, result.members, context.bits).astype("u8")
    ).all()
    answered = {stage: len(replies) for stage, replies in network.answered.items()}
    seen = Attendance(0, 0, answered[Stage.MASKED_INPUT], answered[Stage.UNMASK])
    frames = [it.to_frame() for some in network.answered.values() for it in some.values()]
    return seen, shared.agreements, calls, sum(map(len, frames))


EVERY_WIDTH = [
    pytest.param(7, 1, 16, id="23 bits"),
    pytest.param(12, 1, 32, id="39 bits"),
    pytest.param(70, 1, 32, id="41 bits, a drawn committee"),
    pytest.param(70, 8, 16, id="packed shares"),
]


@pytest.mark.parametrize(("members", "packing", "bits"), EVERY_WIDTH)
@pytest.mark.parametrize("dropping", [False, True])
def test_every_count_is_exact(members, packing, bits, dropping, monkeypatch) -> None:
    protocol, everyone = OneShot(packing=packing), tuple(range(members))
    context, plan = a_context(DIMENSION, bits), protocol.plan(members)
    drops = {}
    if dropping:
        committee = next(a_session(protocol, everyone, context))[0].committee
        outside = [one for one in everyone if one not in committee] or [6]
        drops = {outside[0]: Stage.SHARE_KEYS}  # silent before it speaks
        drops |= {next(it for it in committee if it not in drops): Stage.UNMASK}
    seen, agreements, calls, sent = a_counted_round(
        protocol, everyone, context, drops=drops, monkeypatch=monkeypatch
    )
    said = count_one_shot(plan, seen, dimension=DIMENSION, bits=bits)
    assert said.bytes_up == sent
    assert said.agreements == agreements
    assert said.seals == calls["seal"] + calls["unseal"]
    assert said.client_masks == calls["mask"] == said.additions == seen.masked
    assert (said.server_masks, said.rebuilt) == (calls["unmask"], calls["rebuild"])
    assert said.shares == calls["split"] * plan.size
    assert dropping == (seen.masked == members - 1)


def test_what_a_sum_on_trust_would_have_cost_as_a_one_shot_sum(monkeypatch) -> None:
    protocol, everyone = OneShot(packing=8), tuple(range(70))
    context, plan = a_context(DIMENSION), protocol.plan(70)
    _, agreements, _, sent = a_counted_round(
        protocol, everyone, context, drops={}, monkeypatch=monkeypatch
    )
    said = protocol.would_cost(Attendance(70, 70, 70, 70), context)
    assert (said.agreements, said.bytes_up) == (agreements, sent)
    # Of the committee as many open as of the cohort stay; whoever drops before costs nothing.
    later = protocol.would_cost(Attendance(70, 70, 63, 35), context)
    assert later == count_one_shot(
        plan, Attendance(70, 70, 63, plan.size // 2), dimension=DIMENSION, bits=context.bits
    )


def test_packing_makes_uploads_shorter_although_the_committee_grows() -> None:
    seen = Attendance(0, 0, 1_000, 30)
    counts = [
        count_one_shot(OneShot(packing=p).plan(1_000), seen, dimension=1_000, bits=16)
        for p in (1, 8)
    ]
    assert counts[1].bytes_up < counts[0].bytes_up / 4
    assert counts[1].agreements > counts[0].agreements


def test_the_price_is_the_counts_at_the_rates() -> None:
    plan, seen = OneShot().plan(100), Attendance(0, 0, 90, 20)
    counted = count_one_shot(plan, seen, dimension=1_000, bits=32)
    sizes = {"dimension": 1_000, "modulus": Modulus.of_sum(100, 32)}
    free = Rates(0, 0, 0, 0, 0, 0, 0, mask=1, add=0)
    took = price_one_shot(counted, free, coordinate=1e-9, **sizes)
    assert (took.clients, took.server) == pytest.approx((90e-6, 1e-6))
    rates = Rates(2, 1, 1, 1, 3, 5, 7, mask=1, add=1e-3)
    took = price_one_shot(counted, rates, coordinate=0, **sizes)
    both = 90 * plan.size + 90 * 20
    assert took.clients == pytest.approx(2 * both + 3 * both + 5 * 90 * plan.size)
    assert took.server == pytest.approx(7 + 90 * 1_000 * 6 * 1e-3)
    assert packed_shamir.share_length(1_024, plan.packing) == 1_024


def test_an_ideal_sum_tells_the_cost_of_the_one_that_it_stands_for() -> None:
    context = SessionContext(b"r" * 16, 0, 0, b"m" * 32, 50)
    seen = Attendance(40, 40, 38, 38)
    told = Ideal(stands_for="one_shot").would_cost(seen, context)
    assert told == OneShot().would_cost(seen, context)
    assert told != Ideal().would_cost(seen, context)
