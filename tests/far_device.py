"""A device that is not the CPU and computes all the same, for tests of what is done where.

Tensors on it say that they are on `FAR`. They hold one of the CPU, by which every operation is
done, so results are those of the CPU to the bit. What crosses over is noted, and an operation on
tensors of both sides is refused, as on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

FAR = torch.device("meta")
CPU = torch.device("cpu")
INDEXED = (torch.Tensor.__getitem__, torch.Tensor.__setitem__)


@dataclass(frozen=True)
class Crossing:
    """A tensor that went to the device or came from it."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class Far(torch.Tensor):
    """A tensor that says it is on `FAR`."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Far:
        """A tensor of the same shape and strides."""
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=FAR,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        """Refused: a tensor of a device is of no use when the device is gone."""
        raise AssertionError(f"{func} outside of its FarDevice")


class _Spelled(TorchFunctionMode):
    """Does in two steps what torch would not do at all on a device that holds no numbers."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Lists in an index become tensors before they go up, and lists come down as tensors."""
        if func in INDEXED and isinstance(args[0], Far):
            tensor, at, *value = args
            parts = at if isinstance(at, tuple) else (at,)
            up = tuple(torch.tensor(x).to(FAR) if isinstance(x, list) else x for x in parts)
            args = (tensor, up, *value)
        if func is torch.Tensor.tolist and isinstance(args[0], Far):
            args = (args[0].cpu(),)
        return func(*args, **(kwargs or {}))


class FarDevice(TorchDispatchMode):
    """While it is entered, tensors can be put on `FAR`, and what crosses over is noted."""

    def __init__(self) -> None:
        super().__init__()
        self.uploads: list[Crossing] = []
        self.downloads: list[Crossing] = []
        self._spelled = _Spelled()

    def __enter__(self) -> Self:
        self._spelled.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *failure: object) -> None:
        super().__exit__(*failure)
        self._spelled.__exit__(*failure)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Does an operation where its tensors are."""
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        tensors = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, torch.Tensor)]
        far = [one for one in tensors if isinstance(one, Far)]
        near = [one for one in tensors if not isinstance(one, Far)]
        target = kwargs.get("device")
        if name == "_to_copy" and target is not None and bool(far) != (target == FAR):
            self._note(tensors[0], up=target == FAR)
            return self._copied(func, args, kwargs, up=target == FAR)
        if name == "copy_" and far and near:
            self._note(args[1], up=isinstance(args[0], Far))
        elif name in ("_local_scalar_dense", "equal") and far:
            self._note(far[0], up=False)
        elif far:
            mixed = [one for one in near if one.ndim > 0]
            assert not mixed, f"{name} of tensors on two devices: {[t.shape for t in tensors]}"
        if not far and target != FAR:
            return func(*args, **kwargs)
        return self._done(func, args, kwargs)

    def _note(self, tensor: torch.Tensor, *, up: bool) -> None:
        crossing = Crossing(tuple(tensor.shape), tensor.dtype)
        (self.uploads if up else self.downloads).append(crossing)

    def _copied(self, func: Callable[..., Any], args: Any, kwargs: Any, *, up: bool) -> Any:
        copy = func(*tree_map(_near, args), **(kwargs | {"device": CPU})).clone()
        return Far(copy) if up else copy

    def _done(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """The result of an operation on `FAR`; what it changed in place is what it was given."""
        given = {id(one.held): one for one in tree_flatten((args, kwargs))[0] if type(one) is Far}
        if kwargs.get("device") == FAR:
            kwargs = kwargs | {"device": CPU}
        found = func(*tree_map(_near, args), **tree_map(_near, kwargs))

        def back(one: Any) -> Any:
            if not isinstance(one, torch.Tensor):
                return one
            return given[id(one)] if id(one) in given else Far(one)

        return tree_map(back, found)


def _near(value: Any) -> Any:
    return value.held if isinstance(value, Far) else value
