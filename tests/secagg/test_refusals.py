"""Whatever would unmask a client ends its session: a case for each check, by its own reason.

Client 0 of six, the sixth of which drops before its masked input, is asked by the real server, and
by a changed one. This file has the order of the trips and the first of them; the directory of keys
is in test_directory.py, what comes after it in test_late_refusals.py.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from secagg_modes import (
    CAREFUL,
    DIMENSION,
    MEMBERS,
    MODES,
    client_at,
    every_mode,
    mode_name,
    refuses,
    stages_of,
    without,
)
from secagg_network import a_context, a_membership

from codex_ray.errors import ConfigError
from codex_ray.secagg.client import SecAggClient
from codex_ray.secagg.messages import (
    AdvertiseRequest,
    FoldedInput,
    MaskedInput,
    NonceCommitments,
    SummandRequest,
    SurvivorCheck,
    SurvivorClaim,
)
from codex_ray.secagg.parameters import LARGEST_COHORT, Plan
from codex_ray.secagg.protocols import SecAgg, SecAggPlus
from codex_ray.secagg.unmask import MaskTotal
from codex_ray.types import Stage

NONCE = b"n" * 32


@every_mode
def test_the_honest_request_is_answered(protocol):
    for stage in stages_of(protocol.adversary):
        client, request = client_at(stage, protocol)
        assert client.answer(request).stage == stage


# Out of turn.


@every_mode
def test_requests_out_of_turn_and_replays_are_refused(protocol):
    for stage, asked in itertools.product(stages_of(protocol.adversary), repeat=2):
        client, honest = client_at(stage, protocol)
        _, other = client_at(asked, protocol)
        if asked == stage:
            client.answer(honest)
            other = honest
        turn = "over" if asked == stage == Stage.UNMASK else ""
        refuses(client, other, f"out of turn, the session is at: {turn}", honest)


@every_mode
def test_a_masking_client_cannot_be_downgraded(protocol):
    strays = [
        SummandRequest(),
        SurvivorCheck(MEMBERS),
        FoldedInput(9),
        MaskedInput(np.zeros(DIMENSION, dtype=np.uint32)),
        MaskTotal(np.zeros(DIMENSION, dtype=np.uint32), b""),
    ]
    for stage, stray in itertools.product(stages_of(protocol.adversary), strays):
        client, honest = client_at(stage, protocol)
        refuses(client, stray, f"{type(stray).__name__} is out of turn", honest)


@pytest.mark.parametrize(
    ("protocol", "stray"),
    [
        *((protocol, NonceCommitments({})) for protocol in MODES[:4]),
        *((protocol, SurvivorClaim(MEMBERS)) for protocol in MODES[:2]),
    ],
    ids=repr,
)
def test_the_trips_of_a_stronger_adversary_are_refused_elsewhere(protocol, stray):
    for stage in stages_of(protocol.adversary):
        client, honest = client_at(stage, protocol)
        refuses(client, stray, "out of turn", honest)


@pytest.mark.parametrize("protocol", MODES[2:], ids=mode_name)
def test_no_trip_can_be_skipped(protocol):
    stages = stages_of(protocol.adversary)
    for at, skipped in enumerate(stages[:-1]):
        client, honest = client_at(skipped, protocol)
        _, request = client_at(stages[at + 1], protocol)
        refuses(client, request, f"the session is at: {skipped.name.lower()}", honest)


# Trip 1: advertise keys.

SIZES = AdvertiseRequest(6, 5, 4, NONCE)
ADVERTISE = {
    "a sum of 2 clients": replace(SIZES, members=2),
    "a sum of -1 clients": replace(SIZES, members=-1),
    "1 neighbours among": replace(SIZES, degree=1, threshold=2),
    "6 neighbours among 6": replace(SIZES, degree=6),
    "nonce has 31 bytes": replace(SIZES, nonce=NONCE[:31]),
    "nonce has 33 bytes": replace(SIZES, nonce=NONCE + b"n"),
    "nonce has 0 bytes": replace(SIZES, nonce=b""),
    f"takes {LARGEST_COHORT} clients": AdvertiseRequest(2**62, 2**62 - 1, 2**61, NONCE),
    "degree 5 and threshold 3 .* its own settings give 5 and 4": replace(SIZES, threshold=3),
    "degree 5 and threshold 5 .* its own settings give 5 and 4": replace(SIZES, threshold=5),
    "degree 5 and threshold 1 ": replace(SIZES, threshold=1),
    "degree 5 and threshold 7 ": replace(SIZES, threshold=7),
    "degree 4 and threshold 4 ": replace(SIZES, degree=4),
    "degree 4 and threshold 3 ": replace(SIZES, degree=4, threshold=3),
    "degree 5 and threshold 4 .* for 7 members": replace(SIZES, members=7),
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
        SecAggPlus(adversary="malicious"),
    )
    for members in (10, 100, 1000)
]
SERVED += [(SecAgg(threshold=8), 10), (SecAggPlus(threshold=40), 200)]


@pytest.mark.parametrize(("protocol", "members"), SERVED, ids=repr)
def test_only_the_sizes_of_its_own_plan_are_taken(protocol, members):
    sizes = protocol.plan(members)
    honest = AdvertiseRequest(members, sizes.degree, sizes.threshold, NONCE)
    assert fresh_client(protocol).answer(honest).stage == Stage.ADVERTISE_KEYS
    for other in (
        replace(honest, threshold=sizes.threshold - 1),
        replace(honest, threshold=sizes.threshold + 1),
        replace(honest, degree=sizes.degree - 2),
        replace(honest, degree=sizes.degree + 2),
        replace(honest, degree=2, threshold=2),
    ):
        refuses(fresh_client(protocol), other, "(its own settings|neighbours among)", honest)


def fresh_client(protocol, **others):
    given = {"membership": a_membership(0, MEMBERS)} | others
    return protocol.client(0, a_context(DIMENSION), np.zeros(DIMENSION, dtype=np.uint32), **given)


@pytest.mark.parametrize(
    "protocol",
    [
        SecAgg(threshold=6),
        SecAgg(assumed_dropout=0.7),
        SecAggPlus(threshold=3),
        SecAgg(smallest_cohort=101),
    ],
)
def test_a_cohort_that_its_own_settings_cannot_protect_is_refused(protocol):
    with pytest.raises(ConfigError):
        protocol.plan(100)
    asked = AdvertiseRequest(100, 99, 53, NONCE)
    refuses(fresh_client(protocol), asked, r"federation\.protocol\.", asked)


@pytest.mark.parametrize("sizes", [Plan(2, 1, 2, 2), Plan(6, 1, 2, 4), Plan(6, 6, 4, 4)], ids=repr)
def test_no_plan_can_allow_what_hides_nobody(sizes):
    summand = np.zeros(DIMENSION, dtype=np.uint32)
    client = SecAggClient(0, a_context(DIMENSION), summand, plan=lambda _: sizes)
    asked = AdvertiseRequest(sizes.members, sizes.degree, sizes.threshold, NONCE)
    refuses(client, asked, "(hides nobody|neighbours among)", asked)


@every_mode
def test_without_an_identity_only_unsigned_sessions_are_entered(protocol):
    client = fresh_client(protocol, membership=None)
    if protocol.identified:
        refuses(client, SIZES, f"{protocol.adversary} needs an identity and an enrolment", SIZES)
    else:
        assert client.answer(SIZES).signature == b""


# Trip 1b: reveal nonces.


def another_member(listed):
    return replace(listed, committed=without(listed, 3, field="committed").committed | {9: NONCE})


def not_me(listed):
    return replace(listed, committed=without(listed, 0, field="committed").committed | {9: NONCE})


REVEAL = [
    ("5 clients are listed, 6 were", lambda it: without(it, 3, field="committed")),
    ("7 clients are listed, 6 were", lambda it: replace(it, committed=it.committed | {9: NONCE})),
    ("own commitment is not listed", lambda it: replace(it, committed=it.committed | {0: NONCE})),
    ("own commitment is not listed", not_me),
    (r"\[9\] are not enrolled", another_member),
]


@pytest.mark.parametrize(("why", "change"), REVEAL)
def test_commitments_that_hide_a_change_of_members_are_refused(why, change):
    client, honest = client_at(Stage.REVEAL_NONCES, CAREFUL)
    refuses(client, change(honest), why, honest)


def test_a_nonce_is_committed_to_before_it_is_shown():
    client, request = client_at(Stage.ADVERTISE_KEYS, CAREFUL)
    advert = client.answer(request)
    nonce = client._secrets.nonce
    assert nonce not in advert.to_frame()
    assert advert.nonce == client._opening.commitment(0, nonce)
