"""A function through torch.compile, which must succeed: a host that did without has other bits."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import count
from typing import TypeAlias

import torch

from codex_ray.errors import ClusterError

LOG = logging.getLogger(__name__)
_NUMBERS = count()

Function: TypeAlias = Callable[..., tuple[torch.Tensor, ...]]


class Compiled:
    """Calls a function compiled for the shape it is called with, which should be one."""

    def __init__(self, function: Function) -> None:
        def call(*arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return function(*arguments)

        # Torch counts by code how often it has compiled, and gives up after a few times; so every
        # function here has code of its own.
        call.__code__ = call.__code__.replace(co_name=f"call_{next(_NUMBERS)}")
        self._plain = function
        self._call: Function = torch.compile(call, fullgraph=True, dynamic=False)

    def __call__(self, *arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What the function returns.

        Raises:
            ClusterError: it cannot be compiled on this machine.
            Exception: whatever the function itself raises.
        """
        try:
            return self._call(*arguments)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            # Dynamo, Inductor and the compiler each raise what they like. If it is the function
            # that fails, calling it says so.
            self._plain(*arguments)
            failed = ClusterError(
                f"plan.kernel is compiled, but this host cannot compile the training "
                f"({_first_line(error)}): install a C++ compiler on every host, or start a new run "
                "with plan.kernel vectorised"
            )
            raise failed from error


def reason_of(error: ClusterError) -> str:
    """Why a function was not compiled, from the error that says so."""
    return _first_line(error.__cause__ or error)


def say_uncompiled(reason: str) -> None:
    """Says that a run goes on without compiling."""
    LOG.warning("training is not compiled (%s): it goes on without, which is slower", reason)


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
