"""How tests are spread over processes: a file at a time, the longest first, Ray in one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest
    from xdist.remote import Producer
    from xdist.scheduler import LoadScopeScheduling

TOGETHER = ("tests/cluster/", "tests/certifying/")
"""Folders that stay in one process: many Rays at once would share the cores and the memory, and
finished runs that a whole folder reads would be made twice."""

APART = tuple(f"tests/cluster/test_{name}.py" for name in ("ray", "roll_call", "sweep"))
"""What does not stay with its folder: tests on Ray wait most of their time, so two at once do."""

LONGEST = (
    "tests/cluster/",
    APART[0],
    "tests/federation/test_runs.py",
    "tests/test_auditing.py",
    "tests/bench/test_bench.py",
    "tests/bench/test_privacy_audits.py",
    "tests/certifying/",
    "tests/test_experiments.py",
    "tests/assurance/test_canary_clients.py",
    "tests/federation/test_known_cohorts.py",
    "tests/secagg/test_sessions.py",
    "tests/secagg/attacks/test_04_split_views.py",
    "tests/test_cli.py",
    "tests/secagg/test_cost.py",
    "tests/bench/test_privacy.py",
    "tests/secagg/test_fuzz.py",
)
"""What takes longest, in about that order. It begins first, so that nobody waits for it at the end;
the order decides nothing else, and a name that is missing costs some seconds."""


def unit_of(test: str) -> str:
    """The file, or the folder, that a test stays together with."""
    file = test.split("::")[0]
    if file in APART:
        return APART[0]
    return next((folder for folder in TOGETHER if file.startswith(folder)), file)


def rank_of(test: str) -> int:
    """The place of a test's file or folder in the queue; whatever is not named comes last."""
    unit = unit_of(test)
    return LONGEST.index(unit) if unit in LONGEST else len(LONGEST)


def shares_tests(config: pytest.Config) -> bool:
    """Whether this process is one of several that have the tests among them."""
    return hasattr(config, "workerinput")


def scheduler_of(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """What hands a file or folder to a process, and the next one to whoever is free first."""
    from xdist.scheduler import LoadScopeScheduling

    class ByUnit(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return unit_of(nodeid)

    config.option.loadscopereorder = False  # Ours is the order of seconds, not of numbers.
    return ByUnit(config, log)
