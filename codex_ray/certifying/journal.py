"""What the lines of rounds.jsonl have to be to tell of one run: whole, in order, and possible."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from codex_ray.certifying.replay import Line
from codex_ray.certifying.terms import Terms
from codex_ray.federation.sampling import EveryClient, FixedSize
from codex_ray.federation.spaced_sampling import SpacedCohorts
from codex_ray.federation.state import RoundResult
from codex_ray.privacy.noise_inside import NoiseInside
from codex_ray.randomness import Randomness

DRAWN_AGAIN = 10_000_000
"""Cohorts of a seeded run are drawn again for as long as that takes fewer coins than this."""


def problems(terms: Terms, lines: Sequence[Line], *, unsettled: Sequence[Line]) -> list[str]:
    """Everything about the lines that cannot have been written by one whole run."""
    found: list[str] = []
    if unsettled and (terms.experiment.seed is not None or not all(map(_is_charge, unsettled))):
        found.append("composition.unsettled is nothing that such a run leaves behind")
    for number, line in enumerate(lines):
        wrong = list(_malformed(line)) or list(_impossible(terms, line, number))
        found += [f"rounds.jsonl line {number + 1}: {what}" for what in wrong]
    if len(lines) > terms.experiment.rounds:
        planned = terms.experiment.rounds
        found.append(f"rounds.jsonl: tells of {len(lines)} rounds, and {planned} were planned")
    return found or list(_drawn_otherwise(terms, lines))


def _malformed(line: Line) -> Iterator[str]:
    """Why it is not the line of a round, before its numbers are looked at."""
    try:
        RoundResult(**line)
    except TypeError as error:
        yield f"is no round: {str(error).partition('() ')[2]}"
        return
    if "charged" not in line:
        yield "does not tell who paid for it (written by an older version)"
        return
    for name in ("round", "attempts", "cohort", "survivors"):
        if not _is_count(line[name]):
            yield f"{name} is {line[name]!r}, which is no count"
    if not (line["aborted"] is None or isinstance(line["aborted"], str)):
        yield f"aborted is {line['aborted']!r}"
    if not isinstance(line["dropped"], dict) or not all(map(_is_count, line["dropped"].values())):
        yield f"dropped is {line['dropped']!r}"
    charged = line["charged"]
    if not isinstance(charged, list) or not charged or not all(map(_is_charge, charged)):
        yield "charged is no list of what was paid"


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_charge(paid: Any) -> bool:
    if not isinstance(paid, dict) or paid.keys() != {"survivors", "clients", "members"}:
        return False
    survivors, clients, members = paid["survivors"], paid["clients"], paid["members"]
    if not _is_count(clients) or not (survivors is None or _is_count(survivors)):
        return False
    return members is None or (isinstance(members, list) and all(map(_is_count, members)))


def _impossible(terms: Terms, line: Line, number: int) -> Iterator[str]:
    """Why such a round cannot have been, under these terms."""
    if line["round"] != number:
        yield f"tells of round {line['round']}, where round {number} should be"
    cohort, charged, aborted = line["cohort"], line["charged"], line["aborted"] is not None
    sampler = terms.experiment.federation.sampler
    every = sampler.expected(terms.population)
    if isinstance(sampler, EveryClient | FixedSize):
        if cohort != every:
            yield f"has a cohort of {cohort}, and every one has {every:g}"
    elif isinstance(sampler, SpacedCohorts):
        if not math.floor(every) <= cohort <= math.ceil(every):
            yield f"has a cohort of {cohort}, and every one has about {every:g}"
    elif cohort > terms.population:
        yield f"has a cohort of {cohort} of {terms.population} clients"
    last = charged[-1]
    ended = (None, cohort) if aborted else (line["survivors"], line["survivors"])
    if (last["survivors"], last["clients"]) != ended or (aborted and line["survivors"]):
        yield (
            f"{line['survivors']} of {cohort} survived{' an aborted round' if aborted else ''}, "
            f"and {last['clients']} paid for {last['survivors']}"
        )
    dropped = sum(line["dropped"].values())
    if max(line["survivors"], dropped) > cohort:
        yield f"{line['survivors']} of {cohort} survived, and {dropped} dropped out"
    yield from _impossible_charges(terms, line)


def _impossible_charges(terms: Terms, line: Line) -> Iterator[str]:
    federation, charged = terms.experiment.federation, line["charged"]
    seeded = terms.experiment.seed is not None
    # A retry of a seeded round draws the noise of the first try again; a killed process leaves no
    # trace in `attempts`, but what it reserved is paid for.
    if line["attempts"] < 1 or (len(charged) > 1 if seeded else len(charged) < line["attempts"]):
        yield f"was begun {line['attempts']} times, and {len(charged)} attempts were paid for"
    if any(paid["survivors"] is not None for paid in charged[:-1]):
        yield "an attempt that was lost counts survivors"
    hidden = federation.hides_cohorts or all(charge.hidden for charge in terms.charges)
    for paid in charged:
        members = paid["members"]
        if (members is None) != hidden:
            yield "tells who paid, where nobody may learn it" if hidden else "hides who paid"
        elif members is not None and not (
            len(members) == paid["clients"]
            and members == sorted(set(members))
            and (not members or members[-1] < terms.population)
        ):
            yield f"{paid['clients']} paid, and they are {members}"
    mechanism = federation.mechanism
    if isinstance(mechanism, NoiseInside) and line["aborted"] is None:
        fewest = mechanism.fewest(terms.expected_cohort)
        if line["survivors"] < fewest:
            yield f"opened the sum of {line['survivors']} clients, where {fewest} are needed"


def _drawn_otherwise(terms: Terms, lines: Sequence[Line]) -> Iterator[str]:
    """Where a seeded run's cohorts are not those that its seed draws."""
    experiment = terms.experiment
    if experiment.seed is None or len(lines) * terms.population > DRAWN_AGAIN:
        return
    randomness = Randomness.of(experiment.seed)
    for line in lines:
        sampler = experiment.federation.sampler
        cohort = sampler.sample(terms.population, randomness, round=line["round"])
        where = f"rounds.jsonl line {line['round'] + 1}"
        if len(cohort) != line["cohort"]:
            yield f"{where}: has a cohort of {line['cohort']}, and the seed draws {len(cohort)}"
        elif not set(line["charged"][-1]["members"] or ()) <= set(cohort):
            yield f"{where}: somebody paid who is not in the cohort that the seed draws"
