"""What the server must not learn from a one-shot session, it does not.

An attack that a check stops is run once more without that check, and must then succeed.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from one_shot_network import (
    EIGHT,
    PLAN,
    SMALL,
    a_client,
    a_context,
    first_request,
    opened,
    spoken,
    summands,
    to_open,
)
from secagg_network import an_identity

from codex_ray.errors import ConfigError, ProtocolError
from codex_ray.secagg import one_shot_client
from codex_ray.secagg.identity import Enrolment, Membership
from codex_ray.secagg.one_shot_client import OneShotClient
from codex_ray.secagg.one_shot_messages import Complaint, MaskedUpload, ShareSum, SpeakRequest
from codex_ray.secagg.one_shot_server import run_one_shot
from codex_ray.secagg.one_shot_session import OneShotOpening, open_one_shot
from codex_ray.types import Stage
from codex_ray.wire import read_frame

# What a client refuses in trip 1.


SPEAK_LIES = {
    "a short nonce": ("nonce", lambda it: replace(it, nonce=it.nonce[:-1])),
    "another threshold": ("announced", lambda it: replace(it, threshold=it.threshold - 1)),
    "other packing": ("announced", lambda it: replace(it, packing=it.packing + 1)),
    "a smaller committee": ("announced", lambda it: replace(it, committee=it.committee[:-1])),
    "a member twice": (
        "once each",
        lambda it: replace(it, members=np.sort(np.append(it.members, it.members[0]))),
    ),
    "out of order": ("increasing", lambda it: replace(it, members=it.members[::-1].copy())),
    "short words": ("once each", lambda it: replace(it, members=it.members.astype(np.uint16))),
    "a stranger": (
        r"\[999\] are not enrolled",
        lambda it: replace(it, members=np.append(it.members[:-1], np.uint32(999))),
    ),
    "not invited": (
        "not among the members",
        lambda it: replace(it, members=np.append(it.members[1:], np.uint32(999))),
    ),
}


@pytest.mark.parametrize("lie", SPEAK_LIES)
def test_a_false_opening_is_refused(lie):
    context = a_context()
    client = a_client(EIGHT[0], context, summands(EIGHT, context)[0])
    why, told = SPEAK_LIES[lie]
    with pytest.raises(ProtocolError, match=why):
        client.answer(told(first_request(context)))
    with pytest.raises(ProtocolError, match="out of turn"):
        client.answer(first_request(context))


def test_its_own_settings_may_forbid_the_cohort():
    def none(_):
        raise ConfigError("no committee of 8 keeps its secret")

    client = a_client(EIGHT[0], a_context(), summands(EIGHT, a_context())[0], plan=none)
    with pytest.raises(ProtocolError, match="no committee"):
        client.answer(first_request())


def test_a_committee_of_the_servers_choice_is_refused_and_would_have_opened_the_summand(
    monkeypatch,
):
    context, victim = a_context(), EIGHT[0]
    parts = summands(EIGHT, context)
    friends = {100 + at: an_identity(100 + at) for at in range(SMALL.size)}
    everyone = Enrolment({one: an_identity(one).public for one in (*EIGHT, *friends)})

    def target():
        return OneShotClient(
            victim,
            context,
            parts[victim],
            membership=Membership(an_identity(victim), everyone),
            plan=lambda _: SMALL,
        )

    session = run_one_shot(EIGHT, context, SMALL, enrolment=everyone.digest)
    request = replace(next(session)[victim], committee=tuple(friends))
    with pytest.raises(ProtocolError, match="its own shuffle"):
        target().answer(request)
    # Without the check the committee is the server's, and so is the key.
    open_one_shot.cache_clear()
    monkeypatch.setattr(OneShotOpening, "committee", tuple(friends))
    upload = target().answer(request)
    answers = {}
    for one, identity in friends.items():
        spy = OneShotClient(
            one,
            context,
            parts[victim],
            membership=Membership(identity, everyone),
            plan=lambda _: replace(SMALL, minimum=1),
        )
        spy._opening = open_one_shot(
            context,
            SMALL,
            request.members.tobytes(),
            nonce=request.nonce,
            enrolment=everyone.digest,
        )
        answers[one] = spy._open(to_open(request, {victim: upload}, [victim], one))
    got = opened(request, {victim: upload}, [victim], answers, context=context)
    np.testing.assert_array_equal(got, parts[victim])


def test_a_summand_is_never_masked_twice_in_a_context():
    context = a_context()
    parts, spent = summands(EIGHT, context), set()
    client = a_client(0, context, parts[0], spent=spent)
    client.answer(first_request(context))
    with pytest.raises(ProtocolError, match="out of turn"):
        client.answer(first_request(context))
    with pytest.raises(ProtocolError, match="raise the attempt"):
        a_client(0, context, parts[0], spent=spent).answer(first_request(context))
    other = a_context(round=1)
    assert a_client(0, other, parts[0], spent=spent).answer(first_request(other))
    # One memory serves the clients of a host: it knows them apart.
    assert a_client(3, context, parts[3], spent=spent).answer(first_request(context))


def test_no_two_shares_are_ever_sealed_under_one_key():
    """Nor when a server plays the same opening to a client that has forgotten it."""
    context = a_context()
    part, request = summands(EIGHT, context)[0], first_request(context)
    keys = []
    real = one_shot_client.seal

    def seal(key, *rest, **named):
        keys.append(key)
        return real(key, *rest, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one_shot_client, "seal", seal)
        for _ in range(2):
            a_client(0, context, part).answer(request)
    assert len(keys) == len(set(keys)) == 2 * PLAN.size


# What a committee member refuses in trip 2.

OPEN_LIES = {
    "too few": ("are needed", lambda asking: asking(EIGHT[: PLAN.minimum - 1])),
    "one twice": ("once each", lambda asking: asking((*EIGHT[:1], *EIGHT[:-1]))),
    "out of order": ("increasing", lambda asking: asking(EIGHT[::-1])),
    "a share too many": (
        "a share for each",
        lambda asking: replace(asking(EIGHT), survivors=EIGHT[:-1]),
    ),
    "nonces cut": ("a nonce and", lambda asking: replace(asking(EIGHT), nonces=bytes(31))),
    "an uninvited survivor": (
        "not invited",
        lambda asking: replace(asking(EIGHT), survivors=(*EIGHT[:-1], 999)),
    ),
}


@pytest.mark.parametrize("lie", OPEN_LIES)
def test_a_false_survivor_list_is_refused_and_ends_the_session(lie):
    context = a_context()
    request, clients, uploads = spoken(context, summands(EIGHT, context))
    member = request.committee[0]

    def asking(survivors):
        return to_open(request, uploads, survivors, member)

    why, told = OPEN_LIES[lie]
    with pytest.raises(ProtocolError, match=why):
        clients[member].answer(told(asking))
    with pytest.raises(ProtocolError, match="out of turn"):
        clients[member].answer(asking(EIGHT))


def test_without_the_minimum_a_committee_would_open_one_client(monkeypatch):
    context = a_context()
    parts = summands(EIGHT, context)
    request, clients, uploads = spoken(context, parts)
    monkeypatch.setattr(OneShotClient, "_check_survivors", lambda *_: None)
    answers = {
        one: clients[one].answer(to_open(request, uploads, EIGHT[:1], one))
        for one in request.committee
    }
    got = opened(request, uploads, EIGHT[:1], answers, context=context)
    np.testing.assert_array_equal(got, parts[EIGHT[0]])


def test_only_the_committee_is_asked_twice():
    context = a_context()
    request, clients, uploads = spoken(context, summands(EIGHT, context), plan=SMALL)
    other = next(one for one in EIGHT if one not in request.committee)
    with pytest.raises(ProtocolError, match="over"):
        clients[other].answer(to_open(request, uploads, EIGHT, request.committee[0]))


# Attack 25: two survivor sets.


def two_claims(context, parts, *, plan, forgetful=False, conspirators=1):
    """A server shows one claim to half of the committee, and one without its victim to the rest.

    Conspirators answer both, as do forgetful members. What the server then knows: the victim's
    summand, or that one of the claims does not open.
    """
    spent = set()
    request, clients, uploads = spoken(context, parts, plan=plan, spent=spent)
    victim, committee = EIGHT[-1], request.committee
    claims = [EIGHT, EIGHT[:-1]]
    half = (len(committee) - conspirators + 1) // 2
    split = conspirators + half
    asked = [committee[:split], committee[:conspirators] + committee[split:]]
    if forgetful:
        asked = [committee, committee]
    answers = [{}, {}]
    for at, (claim, some) in enumerate(zip(claims, asked, strict=True)):
        for one in some:
            asking = to_open(request, uploads, claim, one)
            if one in committee[:conspirators] or forgetful:
                clients[one]._expected = Stage.UNMASK
                spent.clear()
            answers[at][one] = clients[one].answer(asking)
    sums = [
        opened(request, uploads, claim, got, context=context)
        for claim, got in zip(claims, answers, strict=True)
    ]
    return (sums[0] - sums[1]), parts[victim]


def test_attack_25_two_claims_never_both_open():
    context = a_context()
    with pytest.raises(ProtocolError, match=r"\d shares came, \d are needed"):
        two_claims(context, summands(EIGHT, context), plan=PLAN)


def test_attack_25_a_threshold_of_half_the_committee_would_let_it_happen():
    context = a_context()
    weak = replace(PLAN, threshold=(PLAN.size + PLAN.corrupt) // 2)
    got, secret = two_claims(context, summands(EIGHT, context), plan=weak)
    np.testing.assert_array_equal(got, secret)


def test_attack_25_members_that_answer_twice_would_let_it_happen():
    context = a_context()
    got, secret = two_claims(context, summands(EIGHT, context), plan=PLAN, forgetful=True)
    np.testing.assert_array_equal(got, secret)


def test_attack_25_a_member_started_anew_remembers_that_it_answered():
    """The keys that open shares are lasting, so a second object could answer: hence the memory."""
    context = a_context()
    parts = summands(EIGHT, context)
    request, clients, uploads = spoken(context, parts)
    member = request.committee[0]
    asking = to_open(request, uploads, EIGHT[:-1], member)
    spent = clients[member]._spent
    clients[member].answer(to_open(request, uploads, EIGHT, member))
    anew = a_client(member, context, parts[member], spent=spent)
    with pytest.raises(ProtocolError, match="asked before"):
        anew.answer(request)
    with_a_gap = a_client(member, context, parts[member], spent=spent)
    with_a_gap._opening, with_a_gap._expected = clients[member]._opening, Stage.UNMASK
    with pytest.raises(ProtocolError, match="asked before"):
        with_a_gap.answer(asking)
    forgetful = a_client(member, context, parts[member])
    forgetful.answer(request)
    assert isinstance(forgetful.answer(asking), ShareSum)


# Secrets.


def test_no_secret_is_in_a_repr_or_a_pickle():
    context = a_context()
    parts = summands(EIGHT, context)
    keys = []
    real = one_shot_client.fresh_key
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one_shot_client, "fresh_key", lambda: keys.append(real()) or keys[-1])
        request, clients, uploads = spoken(context, parts)
    member = request.committee[0]
    answer = clients[member].answer(to_open(request, uploads, EIGHT, member))
    assert "share" not in repr(answer)
    frames = b"".join(it.to_frame() for it in uploads.values())
    for one, key in zip(EIGHT, keys, strict=True):
        raw = one_shot_client.key_to_field(key)[:2].astype("<u4").tobytes()
        assert raw not in frames
        held = vars(clients[one])
        assert not any(isinstance(it, np.ndarray) for it in held.values())
        assert repr(clients[one]).startswith("<codex_ray")
        with pytest.raises(TypeError, match="cannot be pickled"):
            clients[one].__reduce__()


def test_messages_cross_the_wire_unchanged():
    context = a_context(9, 32)
    request, clients, uploads = spoken(context, summands(EIGHT, context))
    member = request.committee[0]
    asking = to_open(request, uploads, EIGHT, member)
    upload: MaskedUpload = uploads[EIGHT[0]]
    assert upload.high.dtype == np.uint8 and upload.high.size == 9
    for message in (request, upload, asking, clients[member].answer(asking), Complaint((1, 5))):
        again = read_frame(message.to_frame())
        assert type(again) is type(message) and again.to_frame() == message.to_frame()
    assert isinstance(read_frame(request.to_frame()), SpeakRequest)
