"""What two versions differ in: settings, metrics, privacy, files, and how far the weights moved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from codex_ray.registry.served import ServedModel


@dataclass(frozen=True)
class Pair:
    """Something that both may have, and what each of them has; None where it has nothing."""

    what: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Moved:
    """How far a parameter moved.

    Attributes:
        largest: max |after - before|; None where the shapes differ, or one of them has it not.
        relative: ||after - before|| / ||before|| in the Euclidean norm; None for a norm of zero.
    """

    parameter: str
    largest: float | None
    relative: float | None


@dataclass(frozen=True)
class Differences:
    """What the second version has that the first has not, and the other way round."""

    before: str
    after: str
    config: tuple[Pair, ...]
    metrics: tuple[Pair, ...]
    privacy: tuple[Pair, ...]
    rest: tuple[Pair, ...]
    weights: tuple[Moved, ...]

    @property
    def same_model(self) -> bool:
        """Whether the models are the same, to the bit."""
        return not any(pair.what == "model" for pair in self.rest)

    def to_json(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self) | {"same_model": self.same_model}


def differences(before: ServedModel, after: ServedModel) -> Differences:
    """What two versions differ in."""
    one, two = before.manifest, after.manifest
    return Differences(
        before=before.version.label,
        after=after.version.label,
        config=tuple(_pairs(_flat(before.config), _flat(after.config))),
        metrics=tuple(_pairs(one.metrics, two.metrics, equal_too=True)),
        privacy=tuple(_pairs(_claims(before), _claims(after), equal_too=True)),
        rest=tuple(_pairs(_rest(before), _rest(after))),
        weights=tuple(_moved(before.params, after.params)),
    )


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping) and value:
        found: dict[str, Any] = {}
        for key, inner in value.items():
            found |= _flat(inner, f"{path}.{key}" if path else str(key))
        return found
    return {path: value}


def _claims(served: ServedModel) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for claim in served.manifest.privacy:
        found[f"epsilon of one {claim.unit} ({claim.claim})"] = claim.epsilon
        found[f"delta of one {claim.unit} ({claim.claim})"] = claim.delta
    return found


def _rest(served: ServedModel) -> dict[str, Any]:
    manifest = served.manifest
    return {
        "model": manifest.model.sha256,
        "run": manifest.run,
        "data card": manifest.data_card,
        "uncertified": manifest.uncertified,
        "unsafe": list(served.unsafe),
        "input shape": manifest.input_shape,
        "code": manifest.code.source,
        "commit": manifest.code.commit,
        "randomness": served.document.randomness,
    }


def _pairs(
    one: Mapping[str, Any], two: Mapping[str, Any], *, equal_too: bool = False
) -> Iterator[Pair]:
    for name in [*one, *(other for other in two if other not in one)]:
        if equal_too or one.get(name) != two.get(name):
            yield Pair(name, one.get(name), two.get(name))


def _moved(one: Mapping[str, torch.Tensor], two: Mapping[str, torch.Tensor]) -> Iterator[Moved]:
    for name in [*one, *(other for other in two if other not in one)]:
        if name not in one or name not in two or one[name].shape != two[name].shape:
            yield Moved(name, None, None)
            continue
        was = one[name].double()
        change = two[name].double() - was
        norm = float(was.norm())
        yield Moved(name, float(change.abs().max()), float(change.norm()) / norm if norm else None)
