"""How a process that computes for a run is set up: quickly, on one thread, with its garbage left.

Importing torch is most of what a host does before its first round, so there are two ways to import
less dearly: `importing` and `import_torch_alone`. This file itself does without torch.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from types import ModuleType
from typing import Final

KNOWN: Final = "2.13."
"""The torch whose tables these are; another one is imported as it is."""
FIRST: Final = "torch._meta_registrations"
TABLES: Final = frozenset(
    {
        FIRST,
        "torch._decomp",
        "torch._prims",
        "torch._prims_common.wrappers",
        "torch._refs",
        "torch.utils._content_store",
    }
)
"""What torch imports for `FIRST` and for nothing else; what is below one of them comes with it."""
PLANS: Final = 16
"""Lengths of transforms, of real and of complex numbers each, whose tables scipy keeps."""


def single_thread() -> None:
    """One thread for torch: the same arithmetic, in the same order, on every host."""
    import torch

    torch.set_num_threads(1)


def long_lived() -> None:
    """For a process that lives as long as a run: one thread, and few searches for garbage.

    A round holds a few hundred thousand small objects until its end, all of which reference
    counting frees. The default collector walks through all of them dozens of times meanwhile.
    """
    single_thread()
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)


def give_back() -> None:
    """Gives memory that nobody needs any more back to the system, in about a millisecond.

    An account of n rounds takes arrays of another size than one of n + 1: what they leave behind
    fits nothing that comes after, and the C library keeps it. So does scipy, which keeps tables for
    the last few lengths that it has transformed, as large as the arrays themselves.
    """
    fft = sys.modules.get("scipy.fft")
    if fft is not None:
        import numpy as np

        for length in range(2, 2 + PLANS):  # Tables of short ones take their place.
            fft.fft(np.zeros(length, dtype=np.complex128))
            fft.rfft(np.zeros(length))
    with suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def importing() -> Iterator[None]:
    """No search for garbage in the block, which imports torch and what is built upon it.

    Imports make objects that stay. The collector walks through all of them again and again, finds
    nothing, and takes a tenth of the time.
    """
    searching = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if searching:
            gc.enable()


def import_torch_alone() -> None:
    """Imports torch without its tables of operators: a third less time. They come when needed.

    For each operator the tables say, in Python, what shape a result would have and of which simpler
    operators it is made. torch.compile, fake tensors, torch.export and vmap import one of them, and
    then get all of them, as if torch had just been imported. Only calculating with tensors on the
    device "meta" asks for a table without importing it: whoever may do that needs torch as it is.
    """
    if "torch" in sys.modules or not version("torch").startswith(KNOWN):
        import_module("torch")
        return
    sys.modules[FIRST] = ModuleType(FIRST)  # torch imports it in passing, and uses nothing of it
    try:
        torch = import_module("torch")
    finally:
        del sys.modules[FIRST]
    del torch._meta_registrations
    sys.meta_path.insert(0, _Tables())


class _Tables(MetaPathFinder, Loader):
    """Turns the first import of a table into that of all: they import each other in a circle.

    It is passed through without harm only from its usual beginning.
    """

    def __init__(self) -> None:
        self._spec: ModuleSpec | None = None

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """That this object loads the module, if it is a table."""
        return ModuleSpec(name, self) if name in TABLES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The table, which the usual finders import on the way from the first one."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        import_module(FIRST)
        module = sys.modules[spec.name]
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is left to execute; the module gets the specification back that is its own."""
        module.__spec__ = self._spec
