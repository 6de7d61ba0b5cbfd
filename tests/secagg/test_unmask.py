"""The server's last step: whoever does it, in however many pieces, takes the right masks off."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from secagg_modes import every_mode, flip, residue_sum, residues
from secagg_network import a_context, a_network, a_session

from codex_ray.errors import ProtocolError, SumAborted
from codex_ray.secagg import shamir
from codex_ray.secagg.keys import SECRET_BYTES, commit, seal, self_mask_key
from codex_ray.secagg.messages import SummandRequest
from codex_ray.secagg.parameters import Plan
from codex_ray.secagg.prg import apply_masks
from codex_ray.secagg.unmask import (
    WRONG_SHARES,
    Alone,
    MaskTotal,
    Owner,
    UnmaskTask,
    do_work,
    remove,
    tasks_for,
)
from codex_ray.types import Stage
from codex_ray.wire import read_frame

SESSION = b"s" * 32
HOLDERS = (2, 3, 5, 7, 11, 13, 17)
THRESHOLD = 4
CONTEXT = a_context(50)
PLAN = Plan(8, 7, THRESHOLD, 4)
SURVIVOR, DROPPED = 4, 9
"""Two owners: one whose self mask comes off, and one whose pair masks do."""
PEERS = HOLDERS
MASKED_WITH = frozenset({2, 5, 11, 13})


class Case:
    """A survivor and a dropped client, their shares, and the masks that come off for them."""

    def __init__(self, context=CONTEXT):
        self.context = context
        self.seed, self.key = os.urandom(SECRET_BYTES), os.urandom(SECRET_BYTES)
        self.pairs = {peer: os.urandom(SECRET_BYTES) for peer in PEERS}
        escrow = seal(
            self.key,
            b"".join(self.pairs[peer] for peer in PEERS),
            SESSION,
            sender=DROPPED,
            receiver=DROPPED,
        )
        self.owners = {
            SURVIVOR: Owner(HOLDERS, commit(self.seed, SESSION, purpose="seed", me=SURVIVOR)),
            DROPPED: Owner(
                HOLDERS,
                commit(self.key, SESSION, purpose="escrow", me=DROPPED),
                escrow=escrow,
                sealed_for=PEERS,
                masked_with=MASKED_WITH,
            ),
        }
        shares = {
            one: shamir.split(secret, holders=len(HOLDERS), threshold=THRESHOLD)
            for one, secret in ((SURVIVOR, self.seed), (DROPPED, self.key))
        }
        self.answers = {
            holder: {one: shares[one][at] for one in shares} for at, holder in enumerate(HOLDERS)
        }

    def masked(self, words):
        """`words` with what the survivor and the peers of the dropped client put on."""
        kind = [(self_mask_key(self.seed, SESSION, me=SURVIVOR), False)]
        kind += [(self.pairs[peer], peer > DROPPED) for peer in MASKED_WITH]
        total = words.copy()
        apply_masks(total, kind)
        return total

    def tasks(self, pieces=1):
        return tasks_for(
            self.owners,
            self.answers,
            session=SESSION,
            plan=PLAN,
            context=self.context,
            pieces=pieces,
        )

    def unmasked(self, words, *, pieces=1, workers=None):
        total = self.masked(words)
        count = remove(total, self.owners, self.tasks(pieces), workers or Alone())
        return total & words.dtype.type((1 << self.context.bits) - 1), count


class Framed(Alone):
    """A worker on another machine: tasks and results cross a wire."""

    def work(self, tasks):
        done = [do_work(read_frame(task.to_frame())) for task in tasks]
        return [read_frame(result.to_frame()) for result in done]


@pytest.mark.parametrize("bits", [16, 17, 20, 31, 32])
@pytest.mark.parametrize("pieces", [1, 2, 9])
@pytest.mark.parametrize("workers", [Alone(), Framed()], ids=["here", "elsewhere"])
def test_the_masks_come_off(bits, pieces, workers):
    case = Case(replace(CONTEXT, bits=bits))
    words = residues((0,), case.context)[0]
    left, count = case.unmasked(words, pieces=pieces, workers=workers)
    np.testing.assert_array_equal(left, words)
    assert count == len(MASKED_WITH)


def test_a_result_has_no_bit_above_the_modulus():
    for task in Case(replace(CONTEXT, bits=20)).tasks(2):
        assert int(do_work(task).words.max()) < 2**20


def test_pieces_are_as_many_as_there_are_owners_at_most_and_hold_each_once():
    for pieces in (0, 1, 2, 3, 50):
        tasks = Case().tasks(pieces)
        assert len(tasks) == max(1, min(pieces, 2))
        assert sorted(one for task in tasks for one in task.shares) == [SURVIVOR, DROPPED]


def test_pieces_weigh_about_the_same():
    owners = {one: Owner(HOLDERS, b"", masked_with=frozenset(range(one % 7))) for one in range(90)}
    tasks = tasks_for(owners, {}, session=SESSION, plan=PLAN, context=CONTEXT, pieces=4)
    loads = [sum(max(1, len(owners[one].masked_with)) for one in task.shares) for task in tasks]
    assert max(loads) - min(loads) <= 6 and len(tasks) == 4


def test_any_threshold_answers_do():
    for answering in combinations(HOLDERS, THRESHOLD):
        case, words = Case(), residues((0,), CONTEXT)[0]
        case.answers = {one: case.answers[one] for one in answering}
        np.testing.assert_array_equal(case.unmasked(words)[0], words)


def test_one_answer_less_aborts_with_the_count():
    case = Case()
    case.answers = {one: case.answers[one] for one in HOLDERS[: THRESHOLD - 1]}
    with pytest.raises(SumAborted, match=r"3 shares of client \d came of 4 needed: wait longer"):
        case.unmasked(residues((0,), CONTEXT)[0])


@pytest.mark.parametrize("owner", [SURVIVOR, DROPPED])
@pytest.mark.parametrize("liars", [*combinations(HOLDERS, 1), *combinations(HOLDERS, WRONG_SHARES)])
def test_wrong_shares_are_noticed_and_left_out(owner, liars):
    case, words = Case(), residues((0,), CONTEXT)[0]
    for liar in liars:
        case.answers[liar][owner] = flip(case.answers[liar][owner])
    np.testing.assert_array_equal(case.unmasked(words)[0], words)


@pytest.mark.parametrize("owner", [SURVIVOR, DROPPED])
@pytest.mark.parametrize("spare", [0, 1, 2])
def test_more_wrong_shares_than_spare_ones_abort(owner, spare):
    case = Case()
    case.answers = {one: case.answers[one] for one in HOLDERS[: THRESHOLD + spare]}
    for at, liar in enumerate(HOLDERS[: spare + 1]):
        # Each in a limb of its own: two equal errors in one limb can cancel.
        case.answers[liar][owner] = flip(case.answers[liar][owner], 4 * at)
    why = f"{THRESHOLD + spare} shares of client {owner} came, but .* more than {spare} of them"
    with pytest.raises(SumAborted, match=why):
        case.unmasked(residues((0,), CONTEXT)[0])


@pytest.mark.parametrize("share", [b"", b"short", bytes(37)], ids=len)
def test_shares_of_another_length_count_as_missing(share):
    case, words = Case(), residues((0,), CONTEXT)[0]
    for liar in HOLDERS[:3]:
        case.answers[liar][SURVIVOR] = share
    np.testing.assert_array_equal(case.unmasked(words)[0], words)
    case.answers[HOLDERS[3]][SURVIVOR] = share
    with pytest.raises(SumAborted, match=f"3 shares of client {SURVIVOR} came of 4 needed"):
        case.unmasked(words)


def test_shares_outside_the_field_are_left_out():
    case, words = Case(), residues((0,), CONTEXT)[0]
    case.answers[HOLDERS[0]][SURVIVOR] = b"\xff" * shamir.share_bytes(SECRET_BYTES)
    np.testing.assert_array_equal(case.unmasked(words)[0], words)


def test_answers_of_who_holds_no_share_are_ignored():
    case, words = Case(), residues((0,), CONTEXT)[0]
    case.answers |= {99: dict(case.answers[2]), 4: dict(case.answers[3])}
    np.testing.assert_array_equal(case.unmasked(words)[0], words)


ESCROWS = {
    "of another session": lambda case: seal(
        case.key, bytes(32 * len(PEERS)), b"t" * 32, sender=DROPPED, receiver=DROPPED
    ),
    "of another client": lambda case: seal(
        case.key, bytes(32 * len(PEERS)), SESSION, sender=DROPPED, receiver=SURVIVOR
    ),
    "one seed short": lambda case: seal(
        case.key, bytes(32 * (len(PEERS) - 1)), SESSION, sender=DROPPED, receiver=DROPPED
    ),
    "one seed too long": lambda case: seal(
        case.key, bytes(32 * (len(PEERS) + 1)), SESSION, sender=DROPPED, receiver=DROPPED
    ),
    "altered": lambda case: flip(case.owners[DROPPED].escrow),
    "no ciphertext": lambda _: b"x",
}


@pytest.mark.parametrize("why", ESCROWS)
def test_an_escrow_without_the_pair_seeds_aborts(why):
    case = Case()
    case.owners[DROPPED] = replace(case.owners[DROPPED], escrow=ESCROWS[why](case))
    with pytest.raises(SumAborted, match=f"the escrow of client {DROPPED} does not hold its pair"):
        case.unmasked(residues((0,), CONTEXT)[0])


def test_a_secret_of_the_other_kind_is_not_taken():
    """A seed is never opened as an escrow key, nor the other way round: the commitment tells."""
    case = Case()
    for holder in HOLDERS:
        case.answers[holder] = {
            SURVIVOR: case.answers[holder][DROPPED],
            DROPPED: case.answers[holder][SURVIVOR],
        }
    with pytest.raises(SumAborted, match="do not fit together"):
        case.unmasked(residues((0,), CONTEXT)[0])


def test_what_is_no_task_is_refused():
    with pytest.raises(ProtocolError, match="SummandRequest is no task of a server"):
        do_work(SummandRequest())


class Useless(Alone):
    """Workers that send back something else."""

    def work(self, tasks):
        return [SummandRequest() for _ in tasks]


def test_a_worker_without_a_result_aborts_the_sum():
    with pytest.raises(SumAborted, match="no result"):
        Case().unmasked(residues((0,), CONTEXT)[0], workers=Useless())


def test_a_task_shows_no_share():
    (task,) = Case().tasks()
    assert isinstance(task, UnmaskTask)
    for packed in task.shares.values():
        assert packed.hex() not in repr(task) and repr(packed)[2:-1] not in repr(task)
    assert isinstance(do_work(task), MaskTotal)


class Wide(Framed):
    """Three machines, and what each of them was given."""

    width = 3

    def __init__(self):
        self.widths = []

    def work(self, tasks):
        self.widths.append(len(tasks))
        return super().work(tasks)


@every_mode
def test_a_session_gives_the_same_sum_whoever_works_for_its_server(protocol):
    members = tuple(range(8))
    drops = {1: Stage.MASKED_INPUT, 4: Stage.MASKED_INPUT, 6: Stage.UNMASK}
    for bits in (16, 32):
        context, wide = replace(CONTEXT, bits=bits), Wide()
        parts = residues(members, context)
        for workers in (Alone(), wide):
            network = a_network(protocol, members, context, parts, drops=drops)
            result = network.run(a_session(protocol, members, context, workers=workers))
            assert result.members == (0, 2, 3, 5, 6, 7) and result.masks_recovered == 12
            np.testing.assert_array_equal(
                result.groups[0].total, residue_sum(parts, result.members, context)
            )
        assert wide.widths == [3]


# Liars are found once.


def test_who_lied_about_one_owner_is_used_last_for_the_next(monkeypatch):
    """Else every owner around a liar costs a search of its own."""
    seeds = {one: os.urandom(SECRET_BYTES) for one in range(30, 50)}
    owners = {
        one: Owner(HOLDERS, commit(seed, SESSION, purpose="seed", me=one))
        for one, seed in seeds.items()
    }
    shares = {
        one: shamir.split(seed, holders=len(HOLDERS), threshold=THRESHOLD)
        for one, seed in seeds.items()
    }
    answers = {
        holder: {one: shares[one][at] for one in shares} for at, holder in enumerate(HOLDERS)
    }
    for liar in HOLDERS[:WRONG_SHARES]:
        answers[liar] = {one: flip(share) for one, share in answers[liar].items()}
    tried, genuine = [], shamir.reconstruct
    monkeypatch.setattr(
        shamir, "reconstruct", lambda *some, **named: tried.append(some) or genuine(*some, **named)
    )
    (task,) = tasks_for(owners, answers, session=SESSION, plan=PLAN, context=CONTEXT, pieces=1)
    total = np.zeros(CONTEXT.dimension, dtype=np.uint32)
    apply_masks(
        total, [(self_mask_key(seed, SESSION, me=one), False) for one, seed in seeds.items()]
    )
    remove(total, owners, [task], Alone())
    assert not total.any()
    first_search = sum(1 for size in range(WRONG_SHARES + 1) for _ in combinations(range(6), size))
    assert len(tried) < first_search + len(owners)
