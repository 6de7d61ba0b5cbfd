"""A version's model, built anew: the architecture that its configuration names, its own weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from codex_ray.config import experiment_from
from codex_ray.experiment import GIVEN
from codex_ray.randomness import Randomness
from codex_ray.registry.refusals import RegistryError

if TYPE_CHECKING:
    from codex_ray.learning.models import Model
    from codex_ray.registry.served import ServedModel


def rebuild(served: ServedModel, *, input_shape: Sequence[int] | None = None) -> Model:
    """The model with the version's parameters, in evaluation mode, on the CPU.

    For a model of kind `python` this calls the function that the signed configuration names.

    Args:
        input_shape: of one record; by default the one that the version was registered with.

    Raises:
        RegistryError: nobody said the shape, or the architecture is not the one of the parameters.
        InputError: the function cannot be imported, or does not give a model of such records.
    """
    shape = input_shape or served.manifest.input_shape
    if not shape:
        raise RegistryError(
            f"{served.version.label}: nothing says what shape a record has: give --input-shape"
        )
    experiment = experiment_from(dict(served.config))
    factory = getattr(experiment.model, "factory", "")
    if factory.startswith(GIVEN):
        raise RegistryError(
            f"{served.version.label}: its model was given as a Python object "
            f"({factory.removeprefix(GIVEN)}), which no file names: run it with model: module:name"
        )
    # The tree that the run drew from: parameters that are not trained are the same again.
    public = Randomness.of(experiment.seed).public
    model = experiment.model.build(public, example=torch.zeros(1, *shape))
    found = {name: tuple(size) for name, size in model.names()}
    kept = {name: tuple(tensor.shape) for name, tensor in served.params.items()}
    if found != kept:
        raise RegistryError(
            f"{served.version.label}: the configured model has the parameters {_short(found)} for "
            f"records of shape {list(shape)}, and the version has {_short(kept)}"
        )
    with torch.no_grad():
        for name, parameter in model.module.named_parameters():
            if name in kept:
                parameter.copy_(served.params[name])
    model.module.eval()
    return model


def _short(shapes: dict[str, tuple[int, ...]]) -> str:
    said = ", ".join(f"{name} {list(shape)}" for name, shape in list(shapes.items())[:4])
    return said if len(shapes) <= 4 else f"{said}, ... ({len(shapes)})"
