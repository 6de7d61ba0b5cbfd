"""The components: their checks, their schema, and that nothing here draws weak randomness."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from secagg_network import a_context

import codex_ray.secagg.protocols as protocols_module
from codex_ray.errors import ConfigError, ProtocolError
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
    "wrong", [{"threshold": 1}, {"degree": 3}, {"assumed_corrupt": 0.5}, {"adversary": "none"}]
)
def test_impossible_fields_are_refused(wrong):
    with pytest.raises(ValidationError):
        SecAggPlus(**wrong)


def test_every_field_says_what_it_is():
    for protocol in ALL:
        for name, field in type(protocol).model_fields.items():
            assert name == "kind" or field.description


def test_a_plain_client_sends_its_summand_once():
    summand = np.arange(4, dtype=np.uint32)
    client = Ideal().client(3, a_context(4), summand)
    with pytest.raises(ProtocolError, match="out of turn"):
        client.answer(SurvivorCheck((3,)))
    reply = client.answer(SummandRequest())
    assert isinstance(reply, PlainSummand) and reply.words.tolist() == [0, 1, 2, 3]
    assert isinstance(client.answer(SurvivorCheck((3,))), SurvivorAck)
    with pytest.raises(ProtocolError, match="out of turn"):
        client.answer(SummandRequest())
    with pytest.raises(ProtocolError, match="the session sums uint32"):
        Clear().client(3, a_context(5), summand)


def test_tags_stages_and_empty_frames():
    ours = {tag: kind for tag, kind in Message._kinds.items() if 16 <= tag < 32}
    assert sorted(ours) == list(range(16, 28))
    assert {kind.stage for kind in ours.values()} == set(Stage) - {Stage.TRAIN, Stage.DEBUG}
    assert read_frame(SummandRequest().to_frame()) == SummandRequest()


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
