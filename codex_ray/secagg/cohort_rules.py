"""What every protocol asks of a cohort before its session begins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

from codex_ray.errors import ConfigError, SumAborted
from codex_ray.secagg.committee import CommitteePlan
from codex_ray.secagg.parameters import Plan

_Sizes = TypeVar("_Sizes", Plan, CommitteePlan)


def requiring(sizes: _Sizes, fewest: int) -> _Sizes:
    """The same sizes, with as many survivors needed as are asked for."""
    return sizes if fewest <= sizes.minimum else replace(sizes, minimum=fewest)


def check_cohort(members: int, smallest: int) -> None:
    """Nothing, if enough members were invited.

    Raises:
        ConfigError: fewer than the smallest cohort that clients accept.
    """
    if members < smallest:
        raise ConfigError(
            f"the cohort is {members}, but federation.protocol.smallest_cohort is {smallest}: "
            "raise the cohort"
        )


@contextmanager
def aborting() -> Iterator[None]:
    """Turn parameters that this round's cohort cannot meet into an abort of its session."""
    try:
        yield
    except ConfigError as error:
        raise SumAborted(str(error)) from error
