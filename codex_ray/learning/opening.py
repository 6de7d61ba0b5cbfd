"""Clients' work opened some at a time; where the data allow it, the next while the last is done.

A data set may read a client's records from a disk or a network only when it is asked for them. It
alone knows whether another thread may ask: connections often belong to the thread that made them.
So it says so, by an attribute `prefetch` that is true. Of those that come with this package one
needs it, `prepared`: the others are in memory, or made by the processor that trains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from codex_ray.data.dataset import FederatedDataset

_Opened = TypeVar("_Opened")


def may_prefetch(dataset: FederatedDataset) -> bool:
    """Whether the data set, or the one that it checks, says that any thread may open records."""
    return getattr(getattr(dataset, "inner", dataset), "prefetch", False) is True


def opened(
    windows: Sequence[range], work: Callable[[range], _Opened], *, ahead: bool
) -> Iterator[_Opened]:
    """What `work` makes of each window, in order.

    Args:
        windows: what is opened at a time.
        work: opens one. What it raises is raised to whoever asks for that window.
        ahead: whether another thread opens the next window, and no more than that, meanwhile.
    """
    if not ahead or len(windows) < 2:
        yield from map(work, windows)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as aside:
        coming = aside.submit(work, windows[0])
        for window in windows[1:]:
            found = coming.result()
            coming = aside.submit(work, window)
            yield found
        yield coming.result()
