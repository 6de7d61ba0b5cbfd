"""Lines that no run can have written are named, whatever their hash: the last word on a journal."""

from __future__ import annotations

from typing import Any

import pytest
from small_runs import CONFIGS

from codex_ray.certifying.issue import read_lines
from codex_ray.certifying.journal import problems
from codex_ray.certifying.terms import Terms
from codex_ray.config import experiment_from
from codex_ray.records.run_directory import RunDirectory

SIZES = {"records": (6, 3), "hidden": (40, 650), "inside": (40, 650)}


def terms_of(name: str, **changes: Any) -> Terms:
    return Terms(experiment_from(CONFIGS[name] | changes), *SIZES[name])


def changed(lines: list[Any], number: int, **fields: Any) -> list[Any]:
    return [line | fields if n == number else line for n, line in enumerate(lines)]


def whole(line: dict[str, Any], survivors: int, **fields: Any) -> dict[str, Any]:
    """The line with so many survivors, in every place where they are counted."""
    paid = line["charged"][-1] | {"survivors": survivors, "clients": survivors}
    return line | {"survivors": survivors, "charged": [paid], **fields}


@pytest.mark.parametrize("name", CONFIGS)
def test_an_honest_journal_has_no_problems(name, originals) -> None:
    lines = read_lines(RunDirectory.open(originals(name)))
    assert problems(terms_of(name), lines, unsettled=[]) == []
    assert problems(terms_of(name), lines[:2], unsettled=[]) == [], "a budget may have ended it"


PAID = {"survivors": None, "clients": 6, "members": [0, 1, 2, 3, 4, 5]}


def records_cases(lines: list[Any]) -> list[tuple[str, list[Any]]]:
    one = next(n for n, line in enumerate(lines) if line["survivors"] > 1)
    line, paid = lines[one], lines[one]["charged"][-1]
    twice = paid | {"members": [paid["members"][0]] * paid["clients"]}
    outside = paid | {"members": [*paid["members"][:-1], 6]}
    silent = {name: value for name, value in line.items() if name != "charged"}
    return [
        ("tells of round 1, where round 0 should be", lines[1:]),
        ("tells of 4 rounds, and 3 were planned", [*lines, lines[0] | {"round": 3}]),
        ("has a cohort of 5, and every one has 6", changed(lines, one, cohort=5)),
        ("and 1 paid for 1", changed(lines, one, charged=[paid | {"survivors": 1, "clients": 1}])),
        ("dropped out", changed(lines, one, dropped={"masked_input": 7})),
        ("was begun 0 times", changed(lines, one, attempts=0)),
        ("2 attempts were paid for", changed(lines, one, charged=[PAID, paid])),
        ("counts survivors", changed(lines, one, charged=[paid, paid])),
        ("hides who paid", changed(lines, one, charged=[paid | {"members": None}])),
        ("and they are [", changed(lines, one, charged=[twice])),
        ("and they are [", changed(lines, one, charged=[outside])),
        ("survivors is -1, which is no count", changed(lines, one, survivors=-1)),
        ("survivors is True, which is no count", changed(lines, one, survivors=True)),
        ("an aborted round", changed(lines, one, aborted="too few")),
        ("aborted is 1", changed(lines, one, aborted=1)),
        ("charged is no list of what was paid", changed(lines, one, charged=[{"clients": 3}])),
        ("charged is no list of what was paid", changed(lines, one, charged=7)),
        ("does not tell who paid", [silent if n == one else x for n, x in enumerate(lines)]),
        ("is no round: ", changed(lines, one, note="honest")),
    ]


def test_what_no_run_with_known_clients_writes(originals) -> None:
    lines = read_lines(RunDirectory.open(originals("records")))
    for words, wrong in records_cases(lines):
        found = problems(terms_of("records"), wrong, unsettled=[])
        assert any(words in line for line in found), (words, found)


def test_what_no_run_with_hidden_clients_writes(originals) -> None:
    lines = read_lines(RunDirectory.open(originals("hidden")))
    line, terms = lines[0], terms_of("hidden")
    told = [line["charged"][0] | {"members": list(range(line["survivors"]))}]
    for words, wrong in (
        ("tells who paid, where nobody may learn it", line | {"charged": told}),
        ("has a cohort of 41 of 40 clients", line | {"cohort": 41}),
        ("and the seed draws", line | {"cohort": line["cohort"] + 1}),
    ):
        found = problems(terms, [wrong, *lines[1:]], unsettled=[])
        assert any(words in line for line in found), (words, found)


def test_a_sum_of_too_few_clients_is_never_opened_where_they_bring_the_noise(originals) -> None:
    lines = read_lines(RunDirectory.open(originals("inside")))
    members = [lines[0]["charged"][0] | {"members": list(range(35))}]
    few = whole(lines[0] | {"charged": members}, 35)
    found = problems(terms_of("inside"), [few, *lines[1:]], unsettled=[])
    assert found == ["rounds.jsonl line 1: opened the sum of 35 clients, where 36 are needed"]


def test_only_an_unseeded_run_leaves_reservations_behind(originals) -> None:
    lines = read_lines(RunDirectory.open(originals("records")))
    terms = terms_of("records", seed=None)
    assert problems(terms, lines, unsettled=[PAID]) == []
    wrong = "composition.unsettled is nothing that such a run leaves behind"
    assert problems(terms_of("records"), lines, unsettled=[PAID]) == [wrong]
    assert problems(terms, lines, unsettled=[{"clients": 6}]) == [wrong]


def test_an_unseeded_round_pays_for_each_time_that_it_was_begun(originals) -> None:
    lines = read_lines(RunDirectory.open(originals("records")))
    terms = terms_of("records", seed=None)
    again = changed(lines, 0, attempts=2)
    assert any("was begun 2 times" in line for line in problems(terms, again, unsettled=[]))
    paid = changed(again, 0, charged=[PAID, *lines[0]["charged"]])
    assert problems(terms, paid, unsettled=[]) == []
