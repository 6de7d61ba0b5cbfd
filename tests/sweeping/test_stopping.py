"""Trials that end early: a sweep that goes on decides as one that was never interrupted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from codex_ray.cluster.sweep_stopping import stopping_rule
from codex_ray.cluster.sweep_trial import TRIAL
from codex_ray.sweeping.book import Book
from codex_ray.sweeping.journal import SweepFolder
from codex_ray.sweeping.past import ROUND, past_of

RATE = "trainer.learning_rate"
RATES = [0.3, 0.1, 0.25, 0.02, 0.2, 0.35, 0.03, 0.15]
ROUNDS = 9
RULES = [
    {"kind": "asha", "reduction": 2},
    {"kind": "asha", "reduction": 3, "grace": 2},
    {"kind": "median", "at_least": 2},
    {"kind": "median", "at_least": 3, "grace": 4},
]


@dataclass(frozen=True, eq=False)
class Trial:
    """What a rule sees of a trial of Tune's."""

    trial_id: str
    config: dict[str, Any]


class Killed(Exception):  # noqa: N818
    """As if the driver were gone."""


def score(rate: float, rounds: int) -> float:
    """The higher the rate the better, but for one that begins badly."""
    return rate * rounds if rate != 0.35 else 0.01 * rounds**2


class Sweeping:
    """Runs the trials of a book one after the other, as Tune does with a rule, up to `stop`."""

    def __init__(self, book: Book, *, every: int = 1, stop: tuple[int, int] | None = None) -> None:
        self.book, self.every, self.stop = book, every, stop
        self.decided: list[tuple[int, int, str]] = []

    def run(self) -> None:
        book = self.book
        book.skip_ended()
        rule = stopping_rule(
            book.planner.description,
            rounds=ROUNDS,
            past=past_of(book),
            ended=frozenset(book.trials),
        )
        assert rule is not None
        while (setting := book.next()) is not None:
            # A trial of Tune's bears another name each time that it is started.
            trial = Trial(f"{id(self)}-{setting.number}", {TRIAL: setting.number})
            rule.on_trial_add(None, trial)
            report = self.trial(setting, rule, trial)
            book.ended(setting.number, report)

    def trial(self, setting: Any, rule: Any, trial: Any) -> dict[str, Any]:
        folder = self.book.folder.trials / f"{setting.number:03d}"
        folder.mkdir(exist_ok=True)
        lines = folder / "rounds.jsonl"
        begun = len(lines.read_text().splitlines()) if lines.exists() else 0
        for done in range(max(1, begun), ROUNDS + 1):
            evaluated = done % self.every == 0 or done == ROUNDS
            found = score(setting.values[RATE], done)
            if done > begun:
                told = {
                    "round": done - 1,
                    "seconds": {"train": 1.0} | ({"evaluate": 0.1} if evaluated else {}),
                    "metrics": {"accuracy": found} if evaluated else {},
                }
                with lines.open("a") as file:
                    file.write(json.dumps(told) + "\n")
            if self.stop == (setting.number, done):
                raise Killed
            if not evaluated:
                continue
            last = done == ROUNDS
            report = {
                "accuracy": found,
                "metrics": {"accuracy": found},
                "epsilon": 1.0,
                ROUND: done,
                "finished": last,
            }
            decided = rule.on_trial_result(None, trial, report)
            self.decided.append((setting.number, done, decided))
            if decided == "STOP":
                return report
        rule.on_trial_complete(None, trial, report)
        return report


@pytest.fixture
def swept(planned, tmp_path):
    """The trials of a sweep with a rule, which is killed at `stop` and then goes on."""

    def sweep(rule: dict[str, Any], *, every: int = 1, stop: tuple[int, int] | None = None) -> Any:
        planner = planned(grid={RATE: RATES}, stopping=rule, metric="accuracy")
        settings = planner.all()
        path = tmp_path / f"{stop}"
        folder = SweepFolder.create(path, description=planner.description, base=planner.base)
        book = Book(planner, settings, folder)
        first = Sweeping(book, every=every, stop=stop)
        if stop is None:
            first.run()
        else:
            with pytest.raises(Killed):
                first.run()
            book = Book(planner, settings, SweepFolder.open(path))
            Sweeping(book, every=every).run()
        return [(t.number, t.status, t.rounds, t.metric) for t in book.result()]

    return sweep


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: "-".join(map(str, rule.values())))
@pytest.mark.parametrize("every", [1, 2])
def test_what_stops_after_an_interruption_is_what_stops_without_one(swept, rule, every) -> None:
    whole = swept(rule, every=every)
    stopped = [row for row in whole if row[1] == "stopped"]
    assert stopped and len(stopped) < len(whole)
    for stop in [(3, 1), (5, 2), (5, 9), (7, 1)]:
        number, done = stop
        if whole[number][2] >= done:
            assert swept(rule, every=every, stop=stop) == whole


def test_without_its_past_a_rule_would_stop_others(swept, monkeypatch) -> None:
    """So that the test above can fail."""
    rule = RULES[0]
    whole = swept(rule)
    monkeypatch.setattr(f"{__name__}.past_of", lambda book: {})
    assert swept(rule, stop=(3, 1)) != whole


def test_a_median_rule_leaves_a_trial_that_failed_alone(planned, tmp_path) -> None:
    """Tune's own rule remembers a report without rounds, and then fails at the next one."""
    planner = planned(grid={RATE: RATES}, stopping={"kind": "median", "at_least": 1})
    rule = stopping_rule(planner.description, rounds=ROUNDS, past={}, ended=frozenset())
    assert rule is not None
    trials = [Trial(str(n), {TRIAL: n}) for n in range(3)]
    for trial in trials:
        rule.on_trial_add(None, trial)
    rule.on_trial_complete(None, trials[0], {"error": "no room", "finished": True})
    assert rule.on_trial_result(None, trials[1], {"accuracy": 0.9, ROUND: 1}) == "CONTINUE"
    assert rule.on_trial_result(None, trials[2], {"accuracy": 0.1, ROUND: 1}) == "STOP"
