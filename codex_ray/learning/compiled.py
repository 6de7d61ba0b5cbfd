"""A function through torch.compile, which falls back to itself where there is no compiler."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import count

import torch

LOG = logging.getLogger(__name__)
_NUMBERS = count()


class Compiled:
    """Calls a function compiled for the shape it is called with, which should be one.

    Where compiling fails, as without a C++ compiler, the function is called as it is from then on,
    and the log says so once. Its results then differ from those of other hosts in the last bits.
    """

    def __init__(self, function: Callable[..., torch.Tensor]) -> None:
        def call(*arguments: torch.Tensor) -> torch.Tensor:
            return function(*arguments)

        # Torch counts by code how often it has compiled, and gives up after a few times; so every
        # function here has code of its own.
        call.__code__ = call.__code__.replace(co_name=f"call_{next(_NUMBERS)}")
        self._plain = function
        self._call: Callable[..., torch.Tensor] = torch.compile(call, fullgraph=True, dynamic=False)
        self.failed = False

    def __call__(self, *arguments: torch.Tensor) -> torch.Tensor:
        """What the function returns.

        Raises:
            Exception: whatever the function itself raises.
        """
        if self.failed:
            return self._plain(*arguments)
        try:
            return self._call(*arguments)
        except Exception as error:
            # Dynamo, Inductor and the compiler each raise what they like. If it is the function
            # that fails, calling it says so.
            found = self._plain(*arguments)
            self.failed = True
            LOG.warning(
                "training is not compiled (%s: %s): it goes on without, which is slower",
                type(error).__name__,
                (str(error).strip().splitlines() or [""])[0],
            )
            return found
