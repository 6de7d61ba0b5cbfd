"""What a round is said to cost, against what real rounds take."""

from __future__ import annotations

import pytest
from secagg_network import Network, a_context, a_membership, a_session, summands

from codex_ray.secagg import client as client_module
from codex_ray.secagg import unmask as unmask_module
from codex_ray.secagg.cost import Attendance, Rates, count, price
from codex_ray.secagg.identity import SharedWork
from codex_ray.secagg.protocols import Ideal, SecAgg, SecAggPlus
from codex_ray.types import Stage
from codex_ray.wire import Message

DIMENSION = 40


class Counting(SharedWork):
    """Does everything itself, and counts it."""

    def __init__(self) -> None:
        super().__init__()
        self.agreements = self.verifications = 0

    def agree(self, *args, **options) -> bytes:
        self.agreements += 1
        return super().agree(*args, **options)

    def verify(self, *args) -> None:
        self.verifications += 1
        super().verify(*args)


def a_counted_round(protocol, members, drops, monkeypatch):
    """The attendance of a round, its operations as they happened, and the bytes of its clients."""
    context, shared = a_context(DIMENSION), Counting()
    parts = summands(members, DIMENSION)
    clients = {
        one: protocol.client(
            one,
            context,
            parts[one].copy(),
            membership=a_membership(one, members),
            shared=shared,
        )
        for one in members
    }
    masks = {"client": 0, "server": 0}
    for module, side in ((client_module, "client"), (unmask_module, "server")):
        original = module.apply_masks

        def counted(words, some, *, original=original, side=side):
            listed = list(some)
            masks[side] += len(listed)
            original(words, listed)

        monkeypatch.setattr(module, "apply_masks", counted)
    network = Network(clients, drops)
    network.run(a_session(protocol, members, context))
    answered = {stage: len(replies) for stage, replies in network.answered.items()}
    seen = Attendance(
        answered[Stage.ADVERTISE_KEYS],
        answered[Stage.SHARE_KEYS],
        answered[Stage.MASKED_INPUT],
        answered[Stage.UNMASK],
    )
    replies: list[Message] = [it for some in network.answered.values() for it in some.values()]
    return seen, shared, masks, sum(len(reply.to_frame()) for reply in replies)


@pytest.mark.parametrize("adversary", ["semi_honest", "semi_malicious", "malicious"])
@pytest.mark.parametrize("keys", ["session", "enrolled"])
@pytest.mark.parametrize("members", [12, 100])
def test_without_dropouts_every_count_is_exact(adversary, keys, members, monkeypatch) -> None:
    protocol = SecAggPlus(adversary=adversary, keys=keys)
    everyone, plan = tuple(range(members)), protocol.plan(members)
    seen, shared, masks, sent = a_counted_round(protocol, everyone, {}, monkeypatch)
    said = count(plan, seen, dimension=DIMENSION, bits=32)
    assert said.bytes_up == sent
    assert said.agreements == shared.agreements
    assert said.verifications == shared.verifications
    assert (said.client_masks, said.server_masks) == (masks["client"], masks["server"])


def test_on_the_complete_graph_dropouts_are_counted_exactly_too(monkeypatch) -> None:
    protocol, everyone = SecAgg(), tuple(range(20))
    drops = {3: Stage.MASKED_INPUT, 7: Stage.SHARE_KEYS, 9: Stage.UNMASK}
    plan = protocol.plan(20)
    seen, _, masks, sent = a_counted_round(protocol, everyone, drops, monkeypatch)
    said = count(plan, seen, dimension=DIMENSION, bits=32)
    # A masked input that came too late was made, and sent, all the same.
    assert masks["client"] - said.client_masks == 19
    assert masks["server"] == said.server_masks
    assert said.bytes_up == sent


def test_on_a_sparse_graph_dropouts_are_counted_within_a_tenth(monkeypatch) -> None:
    protocol, everyone = SecAggPlus(), tuple(range(100))
    drops = dict.fromkeys(everyone[::12], Stage.MASKED_INPUT)
    seen, _, masks, sent = a_counted_round(protocol, everyone, drops, monkeypatch)
    said = count(protocol.plan(100), seen, dimension=DIMENSION, bits=32)
    assert said.bytes_up == pytest.approx(sent, rel=0.01)
    assert said.server_masks == pytest.approx(masks["server"], rel=0.1)


def test_halving_the_words_halves_the_vectors_only() -> None:
    plan, seen = SecAggPlus().plan(100), Attendance(100, 100, 95, 95)
    wide = count(plan, seen, dimension=1000, bits=32)
    narrow = count(plan, seen, dimension=1000, bits=16)
    assert wide.bytes_up - narrow.bytes_up == 95 * 2000
    assert wide.client_masks == narrow.client_masks


def test_the_price_is_the_counts_at_the_rates() -> None:
    plan, seen = SecAggPlus().plan(100), Attendance(100, 100, 95, 95)
    counted = count(plan, seen, dimension=1000, bits=32)
    only_masks = Rates(0, 0, 0, 0, 0, 0, 0, mask=1e-9, add=0)
    took = price(counted, seen, only_masks, dimension=1000, bits=32)
    assert took.clients == pytest.approx(counted.client_masks * 4e-6)
    assert took.server == pytest.approx(counted.server_masks * 4e-6)
    assert took.round == took.clients + took.server


def test_an_ideal_sum_says_what_the_real_one_costs(monkeypatch) -> None:
    seen = Attendance(100, 100, 100, 100)
    said = Ideal().would_cost(seen, a_context(DIMENSION))
    _, _, masks, sent = a_counted_round(SecAggPlus(), tuple(range(100)), {}, monkeypatch)
    assert (said.client_masks, said.bytes_up) == (masks["client"], sent)
