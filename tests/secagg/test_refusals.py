"""Whatever would unmask a client ends its session: a case for each check, by its own reason."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from secagg_network import a_context, summands

from codex_ray.errors import ConfigError, ProtocolError
from codex_ray.secagg.client import SecAggClient
from codex_ray.secagg.keys import KeyPair
from codex_ray.secagg.messages import (
    AdvertiseRequest,
    KeyDirectory,
    ShareDelivery,
    SummandRequest,
    SurvivorCheck,
    UnmaskRequest,
)
from codex_ray.secagg.parameters import LARGEST_COHORT, Plan
from codex_ray.secagg.protocols import SecAgg, SecAggPlus
from codex_ray.types import Stage

DIMENSION = 4
MEMBERS = tuple(range(6))
PEERS = MEMBERS[1:]
THRESHOLD = 4
SIZES = AdvertiseRequest(len(MEMBERS), len(PEERS), THRESHOLD)
PROTOCOL = SecAgg()
STAGES = [Stage.ADVERTISE_KEYS, Stage.SHARE_KEYS, Stage.MASKED_INPUT, Stage.UNMASK]


def honest_requests(context):
    """Client 0 of an honest session, and for each stage the request that it should get."""
    parts = summands(MEMBERS, DIMENSION)
    clients = {one: PROTOCOL.client(one, context, parts[one]) for one in MEMBERS}
    peers = {one: clients[one] for one in PEERS}
    keys = {one: peer.answer(SIZES) for one, peer in peers.items()}
    public = {one: it.channel + it.mask for one, it in keys.items()}
    yield clients[0], SIZES
    own = yield
    public[0] = own.channel + own.mask
    yield KeyDirectory(public)
    sealed = {one: peer.answer(KeyDirectory(public)).sealed for one, peer in peers.items()}
    yield ShareDelivery({one: boxes[0] for one, boxes in sealed.items()})
    yield UnmaskRequest(MEMBERS[:5], MEMBERS[5:])


def client_at(stage, context=None):
    """Client 0 with all stages before `stage` behind it, and the honest request of that stage."""
    requests = honest_requests(context or a_context(DIMENSION))
    client, request = next(requests)
    for past in STAGES[: STAGES.index(stage)]:
        reply = client.answer(request)
        if past == Stage.ADVERTISE_KEYS:
            next(requests)
            request = requests.send(reply)
        else:
            request = next(requests)
    return client, request


def refuses(client, request, why, honest):
    """The client refuses `request` for that reason, and afterwards even the honest one."""
    with pytest.raises(ProtocolError, match=why):
        client.answer(request)
    assert client._secrets is None and client._summand is None
    with pytest.raises(ProtocolError, match="session is at: over"):
        client.answer(honest)


@pytest.mark.parametrize("stage", STAGES)
def test_the_honest_request_is_answered(stage):
    client, request = client_at(stage)
    assert client.answer(request).stage == stage


def with_entry(directory, one, keys):
    return KeyDirectory(directory.keys | {one: keys})


def without(message, *gone, field):
    kept = {one: it for one, it in getattr(message, field).items() if one not in gone}
    return replace(message, **{field: kept})


def two_fresh_keys():
    return KeyPair.fresh().public + KeyPair.fresh().public


ADVERTISE = {
    "a sum of 2 clients": AdvertiseRequest(2, 5, 4),
    "1 neighbours among": AdvertiseRequest(6, 1, 2),
    "6 neighbours among 6": AdvertiseRequest(6, 6, 4),
    f"takes {LARGEST_COHORT} clients": AdvertiseRequest(2**62, 2**62 - 1, 2**61),
    "degree 5 and threshold 3 .* its own settings give 5 and 4": AdvertiseRequest(6, 5, 3),
    "degree 5 and threshold 5 .* its own settings give 5 and 4": AdvertiseRequest(6, 5, 5),
    "degree 5 and threshold 1 ": AdvertiseRequest(6, 5, 1),
    "degree 5 and threshold 7 ": AdvertiseRequest(6, 5, 7),
    "degree 4 and threshold 4 ": AdvertiseRequest(6, 4, 4),
    "degree 4 and threshold 3 ": AdvertiseRequest(6, 4, 3),
    "degree 5 and threshold 4 .* for 7 members": AdvertiseRequest(7, 5, 4),
}


@pytest.mark.parametrize("why", ADVERTISE)
def test_sizes_that_could_unmask_are_refused(why):
    client, honest = client_at(Stage.ADVERTISE_KEYS)
    refuses(client, ADVERTISE[why], why, honest)


SERVED = [
    (protocol, members)
    for protocol in (
        SecAgg(),
        SecAgg(assumed_corrupt=0.3),
        SecAggPlus(),
        SecAggPlus(assumed_corrupt=0.3),
        SecAggPlus(adversary="semi_honest"),
    )
    for members in (10, 100, 1000)
]
SERVED += [(SecAgg(threshold=8), 10), (SecAggPlus(threshold=40), 200)]


@pytest.mark.parametrize(("protocol", "members"), SERVED, ids=repr)
def test_only_the_sizes_of_its_own_plan_are_taken(protocol, members):
    sizes = protocol.plan(members)
    honest = AdvertiseRequest(members, sizes.degree, sizes.threshold)
    assert fresh_client(protocol).answer(honest).stage == Stage.ADVERTISE_KEYS
    for other in (
        replace(honest, threshold=sizes.threshold - 1),
        replace(honest, threshold=sizes.threshold + 1),
        replace(honest, degree=sizes.degree - 2),
        replace(honest, degree=sizes.degree + 2),
        AdvertiseRequest(members, 2, 2),
    ):
        refuses(fresh_client(protocol), other, "its own settings|neighbours among", honest)


def fresh_client(protocol):
    return protocol.client(0, a_context(DIMENSION), np.zeros(DIMENSION, dtype=np.uint32))


@pytest.mark.parametrize(
    "protocol", [SecAgg(threshold=6), SecAgg(assumed_dropout=0.7), SecAggPlus(threshold=3)]
)
def test_a_cohort_that_its_own_settings_cannot_protect_is_refused(protocol):
    with pytest.raises(ConfigError):
        protocol.plan(100)
    asked = AdvertiseRequest(100, 99, 53)
    refuses(fresh_client(protocol), asked, r"refuses: federation\.protocol\.", asked)


@pytest.mark.parametrize("sizes", [Plan(2, 1, 2, 2), Plan(6, 1, 2, 4), Plan(6, 6, 4, 4)], ids=repr)
def test_no_plan_can_allow_what_hides_nobody(sizes):
    summand = np.zeros(DIMENSION, dtype=np.uint32)
    client = SecAggClient(0, a_context(DIMENSION), summand, plan=lambda _: sizes)
    asked = AdvertiseRequest(sizes.members, sizes.degree, sizes.threshold)
    refuses(client, asked, "hides nobody|neighbours among", asked)


DIRECTORY = {
    "does not hold its own keys": [
        lambda it: without(it, 0, field="keys"),
        lambda it: with_entry(it, 0, two_fresh_keys()),
    ],
    "6 neighbours, 5 were announced": [lambda it: with_entry(it, 9, two_fresh_keys())],
    "1 neighbours cannot hide it": [lambda it: without(it, 2, 3, 4, 5, field="keys")],
    "3 share holders cannot give 4": [lambda it: without(it, 3, 4, 5, field="keys")],
    "is not two keys": [
        lambda it: with_entry(it, 3, two_fresh_keys()[:63]),
        lambda it: with_entry(it, 3, two_fresh_keys() + b"x"),
    ],
    "listed twice": [
        lambda it: with_entry(it, 3, it.keys[2]),
        lambda it: with_entry(it, 3, it.keys[2][:32] + it.keys[3][32:]),
        lambda it: with_entry(it, 3, it.keys[3][:32] * 2),
        lambda it: with_entry(it, 3, it.keys[0][32:] + it.keys[3][32:]),
    ],
    "cannot be used": [lambda it: with_entry(it, 3, bytes(32) + it.keys[3][32:])],
}


@pytest.mark.parametrize(
    ("why", "change"), [(why, change) for why, all_ in DIRECTORY.items() for change in all_]
)
def test_inconsistent_directories_are_refused(why, change):
    client, honest = client_at(Stage.SHARE_KEYS)
    refuses(client, change(honest), why, honest)


DELIVERY = {
    "which are not its neighbours": lambda it: replace(it, sealed=it.sealed | {9: it.sealed[1]}),
    r"shares of \[0\]": lambda it: replace(it, sealed=it.sealed | {0: it.sealed[1]}),
    "1 neighbours with shares cannot hide it": lambda it: without(it, 2, 3, 4, 5, field="sealed"),
    "2 neighbours are too few for 4 shares": lambda it: without(it, 3, 4, 5, field="sealed"),
    "shares of client 2 .* do not open": lambda it: replace(
        it, sealed=it.sealed | {2: it.sealed[3]}
    ),
    "shares of client 3 .* do not open": lambda it: replace(
        it, sealed=it.sealed | {3: it.sealed[3][:-1] + bytes([it.sealed[3][-1] ^ 1])}
    ),
}


@pytest.mark.parametrize("why", DELIVERY)
def test_deliveries_that_could_unmask_are_refused(why):
    client, honest = client_at(Stage.MASKED_INPUT)
    refuses(client, DELIVERY[why](honest), why, honest)


def test_sealed_shares_of_a_wrong_length_are_refused(monkeypatch):
    client, honest = client_at(Stage.MASKED_INPUT)
    monkeypatch.setattr("codex_ray.secagg.client.unseal", lambda *_, **__: bytes(71))
    refuses(client, honest, "71 bytes instead of two shares", honest)


UNMASK = {
    r"\[3\] are said to survive and to have dropped": UnmaskRequest((0, 1, 2, 3, 4), (3, 5)),
    "not among the survivors": UnmaskRequest((1, 2, 3, 4), (5,)),
    r"never got shares of \[9\]": UnmaskRequest((0, 1, 2, 3, 9), (5,)),
    r"never got shares of \[8\]": UnmaskRequest((0, 1, 2, 3), (8,)),
    "3 survivors around it, 4 are needed": UnmaskRequest((0, 1, 2), (3, 4, 5)),
    "3 survivors around it": UnmaskRequest((0, 1, 2, 2, 2), ()),
}


@pytest.mark.parametrize("why", UNMASK)
def test_unmask_requests_that_could_unmask_are_refused(why):
    client, honest = client_at(Stage.UNMASK)
    refuses(client, UNMASK[why], why, honest)


def test_a_client_said_to_have_dropped_itself_refuses():
    client, honest = client_at(Stage.UNMASK)
    refuses(client, UnmaskRequest((1, 2, 3, 4), (0, 5)), "not among the survivors", honest)


def test_shares_of_a_client_that_never_delivered_any_are_not_given():
    client, delivery = client_at(Stage.MASKED_INPUT)
    client.answer(without(delivery, 5, field="sealed"))
    bad = UnmaskRequest((0, 1, 2, 3, 4), (5,))
    refuses(client, bad, r"never got shares of \[5\]", UnmaskRequest((0, 1, 2, 3, 4), ()))


@pytest.mark.parametrize("second", [UnmaskRequest(MEMBERS[:5], (5,)), UnmaskRequest(MEMBERS, ())])
def test_a_second_unmask_request_gets_nothing(second):
    client, first = client_at(Stage.UNMASK)
    client.answer(first)
    assert client._secrets is None
    refuses(client, second, "session is at: over", first)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("asked", STAGES)
def test_requests_out_of_turn_and_replays_are_refused(stage, asked):
    client, honest = client_at(stage)
    _, other = client_at(asked)
    if asked == stage:
        client.answer(honest)
        other = honest
    refuses(client, other, "out of turn", honest)


@pytest.mark.parametrize("request_", [SummandRequest(), SurvivorCheck(MEMBERS)])
@pytest.mark.parametrize("stage", STAGES)
def test_a_masking_client_cannot_be_downgraded(stage, request_):
    client, honest = client_at(stage)
    refuses(client, request_, "out of turn", honest)


def test_a_delivery_of_another_session_is_refused():
    client, honest = client_at(Stage.MASKED_INPUT, a_context(DIMENSION, round=1))
    _, replayed = client_at(Stage.MASKED_INPUT, a_context(DIMENSION, round=0))
    refuses(client, replayed, "do not open", honest)


@pytest.mark.parametrize(
    "summand",
    [
        np.zeros(DIMENSION + 1, dtype=np.uint32),
        np.zeros((1, DIMENSION), dtype=np.uint32),
        np.zeros(DIMENSION, dtype=np.int64),
        np.zeros(DIMENSION, dtype=np.float32),
    ],
)
def test_a_summand_of_another_shape_or_type_is_refused(summand):
    with pytest.raises(ProtocolError, match="the session sums uint32"):
        PROTOCOL.client(0, a_context(DIMENSION), summand)


def test_the_callers_summand_is_left_alone():
    summand = np.arange(DIMENSION, dtype=np.uint32)
    client = PROTOCOL.client(0, a_context(DIMENSION), summand)
    summand[:] = 7
    assert client._summand.tolist() == [0, 1, 2, 3]


def test_no_secret_shows_in_a_repr():
    client, honest = client_at(Stage.UNMASK)
    secrets = client._secrets
    hidden = [secrets.seed, secrets.mask.private, secrets.channel.private]
    hidden += [share for held in secrets.held.values() for share in (held.mask, held.seed)]
    shown = repr(client) + repr(secrets) + repr(secrets.held) + repr(client.answer(honest))
    assert not any(secret.hex() in shown or repr(secret) in shown for secret in hidden)
