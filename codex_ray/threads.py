"""How a process that computes for a run is set up: one thread, and few searches for garbage."""

from __future__ import annotations

import gc

import torch


def single_thread() -> None:
    """One thread for torch: the same arithmetic, in the same order, on every host."""
    torch.set_num_threads(1)


def long_lived() -> None:
    """For a process that lives as long as a run: one thread, and few searches for garbage.

    A round holds a few hundred thousand small objects until its end, all of which reference
    counting frees. The default collector walks through all of them dozens of times meanwhile.
    """
    single_thread()
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)
