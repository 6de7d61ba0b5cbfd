"""Models out of the registry, as the server takes them: verified there, computed without gradients.

Nothing else is ever served. Which version answers is what the registry says of its stage, or the
one that was asked for by number; revoked ones end at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from codex_ray.learning.models import Model
from codex_ray.records.canonical import plain
from codex_ray.records.certificate import Certificate
from codex_ray.records.keys import TrustedKey
from codex_ray.registry import PRODUCTION, Registry, RegistryError, ServedModel, Version, rebuild
from codex_ray.registry.events import Switch
from codex_ray.serving.inputs import Inputs, unnamed
from codex_ray.serving.model import Served
from codex_ray.serving.predicting import predictor
from codex_ray.serving.prepared_inputs import prepared_inputs


@dataclass(frozen=True)
class Source:
    """Where a model is, and whom to believe: plain data that travels to every serving process.

    Attributes:
        folder: of the registry.
        trusted: whose signatures count.
        name: of the model.
        version: a number, or None for whatever is in the stage.
        stage: that is followed.
        inputs: what the model takes, where it is not as the registry says.
        input_shape: of one record; None takes the registry's word.
        unsafe: the registry's switches that whoever serves takes upon themselves.
        head: "EVENTS:HASH", as `RegisteredModels.head` gave it: a registry that does not go on from
            there is refused, so that nobody serves what was revoked since.
    """

    folder: Path
    trusted: tuple[TrustedKey, ...]
    name: str
    version: int | None = None
    stage: str = PRODUCTION
    inputs: Inputs | None = None
    input_shape: tuple[int, ...] | None = None
    unsafe: tuple[Switch, ...] = ()
    head: str | None = None

    def open(self) -> RegisteredModels:
        """The models.

        Raises:
            CodexRayError: there is no registry, or it is not what trusted keys signed.
        """
        opened = Registry.open(self.folder, trusted=self.trusted, head=self.head)
        return RegisteredModels(self, opened)


class RegisteredModels:
    """What a registry wants served under a name."""

    def __init__(self, source: Source, registry: Registry) -> None:
        self._source = source
        self._registry = registry

    def head(self) -> str:
        """How far the registry has come, for `Source.head` of whoever opens it later."""
        return self._registry.head()

    def identity(self) -> str | None:
        """Of the version to serve: its manifest's hash; None where it is revoked, or none is there.

        Raises:
            CodexRayError: the registry is not what trusted keys signed.
        """
        version = self._version()
        if version is None or version.state == "revoked":
            return None
        return version.manifest_sha256

    def check(self, identity: str) -> None:
        """Reads the version of that manifest again, and checks its signatures and hashes.

        Raises:
            CodexRayError: it is revoked, or a file of it is another one now.
        """
        name = self._source.name
        for version in self._registry.versions(name):
            if version.manifest_sha256 == identity:
                if version.state == "revoked":
                    raise RegistryError(f"{version.label}: is revoked ({version.reason})")
                self._registry.look_at(version)
                return
        raise RegistryError(f"{name}: the version that answers is none of the registry's any more")

    def load(self) -> Served:
        """The version to serve, verified.

        Raises:
            CodexRayError: it cannot be believed, or not be built.
        """
        source = self._source
        # Without a number it is what is in the stage, with the switches that it came there with.
        found = self._registry.load(
            source.name, source.version, stage=source.stage, unsafe=source.unsafe
        )
        return _served(found, rebuild(found, input_shape=source.input_shape), source)

    def _version(self) -> Version | None:
        source = self._source
        if source.version is not None:
            return self._registry.version(source.name, source.version)
        return self._registry.current(source.name, stage=source.stage)


def _served(found: ServedModel, model: Model, source: Source) -> Served:
    shape = tuple(source.input_shape or found.manifest.input_shape or ())
    inputs = _inputs(found, source, shape)
    classes = max(2, model.outputs)
    labels = inputs.labels or tuple(str(number) for number in range(classes))
    if len(labels) != classes:
        raise RegistryError(
            f"{found.version.label}: has {classes} classes, and the inputs name {len(labels)}"
        )
    return Served(
        name=found.version.name,
        version=str(found.version.version),
        identity=found.version.manifest_sha256,
        schema=inputs.schema_for(shape),
        labels=labels,
        predict=predictor(model, inputs, shape),
        card=_card(found),
        weights=found.model,
        unsafe=found.unsafe,
    )


def _inputs(found: ServedModel, source: Source, shape: tuple[int, ...]) -> Inputs:
    """What the model takes: as whoever serves says, else as the registry holds, else numbers."""
    asked = source.inputs
    if asked is not None and asked.inputs:
        return asked
    held = prepared_inputs(found) or unnamed(shape)
    if asked is not None and asked.labels:
        return held.model_copy(update={"labels": asked.labels})
    return held


def _card(found: ServedModel) -> dict[str, Any]:
    """What people read before they trust an answer: the privacy claims, the figures, the origin."""
    manifest = found.manifest
    card: dict[str, Any] = {
        "privacy": [claim.model_dump(mode="json") for claim in manifest.privacy]
        or f"no certificate: {manifest.uncertified}",
        **({} if found.certificate is None else _guarantee(found.certificate)),
        "accuracy_on_test_set": {name: _rounded(value) for name, value in manifest.metrics.items()},
        "registered": found.version.registered,
        "signed_by": found.version.by,
        "run": manifest.run,
        "data_card_sha256": manifest.data_card or "none: the data were not prepared",
        "code": manifest.code.codex_ray,
    }
    return dict(plain(card))


def _guarantee(certificate: Certificate) -> dict[str, Any]:
    """What the claims hold against, what they rest on, and what they say nothing of."""
    gaps = [f"{it.what} ({it.severity.lower()}): {it.words}" for it in certificate.not_covered]
    said: dict[str, Any] = {
        "privacy_holds_against": sorted({it.against for it in certificate.claims}),
        "assumes": sorted({said for it in certificate.claims for said in it.assumes}),
        "no_epsilon_covers": gaps,
        "updates": certificate.setting.protection,
    }
    if (figures := certificate.preparation) is not None:
        said["features_scaled_by"] = f"{figures.source}: {figures.words}"
    return said


def _rounded(value: float) -> float:
    return float(np.format_float_positional(value, precision=4)) if np.isfinite(value) else value
