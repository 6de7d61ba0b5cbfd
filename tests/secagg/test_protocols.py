"""The components: their checks, their schema, and that nothing here draws weak randomness."""

from __future__ import annotations

import ast
import inspect
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from secagg_network import a_context

import codex_ray.secagg.protocols as protocols_module
from codex_ray.errors import ConfigError, ProtocolError, SumAborted
from codex_ray.secagg.messages import PlainSummand, SummandRequest, SurvivorAck, SurvivorCheck
from codex_ray.secagg.protocols import Clear, Ideal, SecAgg, SecAggPlus, SumProtocol
from codex_ray.types import Stage
from codex_ray.wire import Message, read_frame

ALL: list[SumProtocol] = [Clear(), Ideal(), SecAgg(), SecAggPlus()]
SOURCES = sorted(Path(inspect.getfile(protocols_module)).parent.glob("*.py"))


@pytest.mark.parametrize("protocol", ALL, ids=lambda it: it.kind)
def test_a_cohort_of_ten_is_served(protocol):
    protocol.check(10)
    assert type(protocol)(**protocol.model_dump()) == protocol


@pytest.mark.parametrize("protocol", ALL[1:], ids=lambda it: it.kind)
def test_a_cohort_of_two_is_refused(protocol):
    with pytest.raises(ConfigError, match="raise the cohort"):
        protocol.check(2)


def test_an_empty_cohort_is_refused():
    with pytest.raises(ConfigError, match="at least 1"):
        Clear().check(0)


def test_a_threshold_beyond_the_cohort_is_refused():
    with pytest.raises(ConfigError, match=r"federation.protocol.threshold is 20, .* cohort is 10:"):
        SecAgg(threshold=20).check(10)


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": 1},
        {"degree": 3},
        {"assumed_corrupt": 0.5},
        {"assumed_dropout": 1.0},
        {"adversary": "none"},
        {"keys": "none"},
        {"smallest_cohort": 2},
    ],
)
def test_impossible_fields_are_refused(wrong):
    with pytest.raises(ValidationError):
        SecAggPlus(**wrong)


def test_every_field_says_what_it_is():
    for protocol in ALL:
        for name, field in type(protocol).model_fields.items():
            assert name == "kind" or field.description


@pytest.mark.parametrize("protocol", [SecAgg, SecAggPlus], ids=lambda it: it.__name__)
def test_clients_are_identified_where_they_sign_or_agree_by_enrolled_keys(protocol):
    assert protocol().identified and protocol(adversary="malicious").identified
    assert not protocol(adversary="semi_honest").identified
    assert protocol(adversary="semi_honest", keys="enrolled").identified
    assert not Clear().identified and not Ideal().identified


def test_only_what_is_one_sum_may_be_folded():
    assert not Clear().folds
    assert all(protocol.folds for protocol in ALL[1:])


def test_a_cohort_below_the_users_own_smallest_is_refused():
    protocol = SecAgg(smallest_cohort=8)
    protocol.check(8)
    with pytest.raises(ConfigError, match=r"cohort is 7, but .*smallest_cohort is 8: raise"):
        protocol.check(7)
    with pytest.raises(SumAborted, match="smallest_cohort is 8"):
        next(protocol.session(tuple(range(7)), a_context(4)))


@pytest.mark.parametrize("kind", [Clear, Ideal])
def test_a_plain_client_sends_its_summand_once(kind):
    client = kind().client(3, a_context(4), np.arange(4, dtype=np.uint32))
    with pytest.raises(ProtocolError, match="out of turn"):
        client.answer(SurvivorCheck((3,)))
    reply = client.answer(SummandRequest())
    assert isinstance(reply, PlainSummand) and reply.words.tolist() == [0, 1, 2, 3]
    assert isinstance(client.answer(SurvivorCheck((3,))), SurvivorAck)
    with pytest.raises(ProtocolError, match="out of turn"):
        client.answer(SummandRequest())


@pytest.mark.parametrize("kind", [Clear, Ideal])
def test_a_plain_client_makes_its_summand_when_it_is_asked_for(kind):
    made = []
    client = kind().client(3, a_context(4), lambda: made.append(1) or np.ones(4, dtype=np.uint32))
    assert not made
    assert client.answer(SummandRequest()).words.tolist() == [1, 1, 1, 1]
    assert made == [1]


@pytest.mark.parametrize("kind", [Clear, Ideal])
def test_a_plain_client_refuses_a_summand_that_does_not_fit(kind):
    words = np.arange(4, dtype=np.uint32)
    with pytest.raises(ProtocolError, match=r"uint32 \(4,\), the session sums uint32 \(5,\)"):
        kind().client(3, a_context(5), words)
    with pytest.raises(ProtocolError, match=r"uint32 \(4,\), the session sums uint16 \(4,\)"):
        kind().client(3, replace(a_context(4), bits=16), words)
    late = kind().client(3, a_context(5), lambda: words)
    with pytest.raises(ProtocolError, match="the session sums uint32"):
        late.answer(SummandRequest())


def test_tags_are_in_the_ranges_of_secagg():
    ours = {
        tag: kind
        for tag, kind in Message._kinds.items()
        if kind.__module__.startswith("codex_ray.secagg.")
    }
    assert len(ours) >= 19
    assert all(16 <= tag < 64 for tag in ours)
    assert {kind.stage for kind in ours.values()} >= {
        Stage.ADVERTISE_KEYS,
        Stage.REVEAL_NONCES,
        Stage.SHARE_KEYS,
        Stage.MASKED_INPUT,
        Stage.CONFIRM_SURVIVORS,
        Stage.UNMASK,
    }


def test_a_frame_without_fields_is_its_head():
    assert read_frame(SummandRequest().to_frame()) == SummandRequest()
    assert len(SummandRequest().to_frame()) == 4


@pytest.mark.parametrize("path", SOURCES, ids=lambda it: it.name)
def test_no_weak_randomness_and_no_foreign_layer(path):
    tree = ast.parse(path.read_text())
    banned = {"random", "secrets", "pickle", "ray", "torch"}
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
            assert not (node.module == "numpy" and "random" in {a.name for a in node.names})
        assert not banned & {name.split(".")[0] for name in names}, f"{path.name}: {names}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) != ("np", "random"), path.name
