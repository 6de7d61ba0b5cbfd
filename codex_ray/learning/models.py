"""Models as one flat vector of parameters: what the federation moves, and what a trainer trains."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from itertools import pairwise
from typing import Literal, Protocol

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from codex_ray.data.dotted import import_by_name
from codex_ray.errors import ModelError
from codex_ray.randomness import SeedTree
from codex_ray.types import Component


class Model:
    """A module whose parameters are one vector [d], with the loss that its outputs call for.

    One output per record means a binary label and the logistic loss; k outputs mean k classes and
    cross entropy.
    """

    def __init__(self, module: nn.Module, *, example: torch.Tensor) -> None:
        check_buffers(module)
        self.module = module.float()
        self.outputs = _outputs(module, example)
        self._parameters = [p for p in self.module.parameters() if p.requires_grad]
        if not self._parameters:
            raise ModelError("model: it has no trainable parameters")

    @property
    def dimension(self) -> int:
        """d, the number of trainable parameters."""
        return sum(p.numel() for p in self._parameters)

    def get(self) -> torch.Tensor:
        """A copy of the parameters [d], float32."""
        return parameters_to_vector(self._parameters).detach().clone()

    def set(self, vector: torch.Tensor) -> None:
        """Loads the parameters from a vector [d]."""
        # vector_to_parameters makes views of its argument; a clone keeps the caller's vector
        # unchanged.
        vector_to_parameters(vector.clone(), self._parameters)

    def names(self) -> list[tuple[str, torch.Size]]:
        """Name and shape of each trainable parameter, in the order of the vector."""
        return [(n, p.shape) for n, p in self.module.named_parameters() if p.requires_grad]


def _outputs(module: nn.Module, example: torch.Tensor) -> int:
    """How many outputs the module gives for one record.

    Raises:
        ModelError: it does not take a record, or does not give [1, outputs].
    """
    name = type(module).__name__
    module.eval()
    try:
        with torch.no_grad():
            logits = module(example)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ModelError(
            f"model: {name} does not take records of shape {tuple(example.shape[1:])}: "
            f"{str(error).splitlines()[0]}"
        ) from error
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or logits.shape[0] != 1:
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ModelError(f"model: {name} gives {shape} for one record; it must give [1, outputs]")
    return int(logits.shape[1])


def loss_sum(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The loss summed over the batch: logistic for logits [n, 1], cross entropy for [n, k].

    A sum, so that an empty batch has the loss 0 and who divides, and by what, is said elsewhere.
    """
    if logits.shape[-1] == 1:
        target = labels.to(logits.dtype)
        return functional.binary_cross_entropy_with_logits(
            logits.squeeze(-1), target, reduction="sum"
        )
    return functional.cross_entropy(logits, labels, reduction="sum")


def check_buffers(module: nn.Module) -> None:
    """Refuses modules with running statistics: they are no part of the parameter vector.

    Raises:
        ModelError: it names the layer and the fix.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            raise ModelError(
                f"model: layer {name!r} is {type(layer).__name__}, which mixes records and keeps "
                "running statistics that no federation averages privately: use GroupNorm instead "
                "(opacus.validators.ModuleValidator.fix replaces it for you)"
            )
        held = [n for n, b in layer.named_buffers(recurse=False) if b.is_floating_point()]
        if held:
            raise ModelError(
                f"model: layer {name or type(layer).__name__!r} keeps the buffer {held[0]!r} "
                "outside its parameters, so it would not be trained together: make it a parameter "
                "or a constant"
            )


class ModelSource(Protocol):
    """A configured component that builds a model, with weights drawn from `public` streams."""

    @property
    def kind(self) -> str:
        """The name under which the catalogue knows it."""
        ...

    def build(self, public: SeedTree, *, example: torch.Tensor) -> Model:
        """The model with its initial weights; `example` [1, ...] is a record's shape.

        Raises:
            ModelError: the model does not fit the records.
        """
        ...


def _initialised(make: Callable[[], nn.Module], public: SeedTree) -> nn.Module:
    """The module that `make` returns, with torch's own initialisation drawn from a named stream."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(public.stream("model").words(1)[0] >> 1))
        return make()


class Linear(Component):
    """A linear model on flattened records: logistic regression, from zero weights."""

    kind: Literal["linear"] = "linear"
    outputs: int = Field(default=1, ge=1, description="1 for a binary label, else the classes.")

    def build(self, public: SeedTree, *, example: torch.Tensor) -> Model:
        """Weights and biases, all zero: the loss is convex, so nothing is gained by chance."""
        layer = nn.Linear(example[0].numel(), self.outputs)
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        return Model(nn.Sequential(nn.Flatten(), layer), example=example)


class Mlp(Component):
    """Fully connected layers and tanh, bounded as DP-SGD likes it (Papernot et al. 2021)."""

    kind: Literal["mlp"] = "mlp"
    hidden: tuple[int, ...] = Field(default=(32,), description="Width of each hidden layer.")
    outputs: int = Field(default=1, ge=1, description="1 for a binary label, else the classes.")

    def build(self, public: SeedTree, *, example: torch.Tensor) -> Model:
        """The network with torch's default initialisation, drawn from the run's public stream."""

        def make() -> nn.Module:
            widths = [example[0].numel(), *self.hidden]
            layers: list[nn.Module] = [nn.Flatten()]
            for inner, outer in pairwise(widths):
                layers += [nn.Linear(inner, outer), nn.Tanh()]
            return nn.Sequential(*layers, nn.Linear(widths[-1], self.outputs))

        return Model(_initialised(make, public), example=example)


class PythonModel(Component):
    """A user's own model: the dotted name of a function without arguments."""

    kind: Literal["python"] = "python"
    factory: str = Field(description='"module:function" that returns a torch.nn.Module.')

    def build(self, public: SeedTree, *, example: torch.Tensor) -> Model:
        """The module that the factory returns, checked against one record."""
        factory = import_by_name(self.factory, "model.factory")
        return given_model(factory, public, example=example, name=self.factory)


def given_model(
    given: object, public: SeedTree, *, example: torch.Tensor, name: str = "the given object"
) -> Model:
    """The model that a user gives: a module, or a function without arguments that returns one.

    Raises:
        ModelError: neither came, or the module does not fit the records.
    """
    if isinstance(given, nn.Module):
        # A copy: training, hooks and baselines must not change what the caller holds.
        return Model(deepcopy(given), example=example)
    if not callable(given):
        raise ModelError(f"model: {name} is a {type(given).__name__}, not a torch.nn.Module")
    try:
        module = _initialised(given, public)
    except Exception as error:  # whatever a user's function raises is bad input, in one line
        raise ModelError(f"model: {name} raised {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise ModelError(f"model: {name} returned {type(module).__name__}, not a torch.nn.Module")
    return Model(module, example=example)
