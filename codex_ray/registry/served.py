"""A version as it comes out of the registry: read once, and checked in what was read."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors

from codex_ray.records.canonical import read_json
from codex_ray.records.certificate import Certificate, Document
from codex_ray.records.keys import TrustedKey
from codex_ray.registry.certified import checked
from codex_ray.registry.manifest import DATA_CARD, DATA_MANIFEST, MODEL, Manifest
from codex_ray.registry.objects import Objects
from codex_ray.registry.refusals import TamperError
from codex_ray.registry.signed import parsed
from codex_ray.registry.states import Version


@dataclass(frozen=True)
class ServedModel:
    """A version that was checked.

    Attributes:
        params: by name, on the CPU, in the module's own shapes.
        model: model.safetensors as it was checked.
        config: the run's resolved configuration.
        document: the run's privacy.json.
        data_card: what is said of the data; None where they were not prepared.
        data_manifest: which column made which feature, in which public range; None as well.
        recomputed: whether the certificate was computed again here; else the manifest holds it to
            what its signer computed.
        unsafe: what is unsafe about it, a line each, for whoever reads its page.
    """

    version: Version
    manifest: Manifest
    params: Mapping[str, torch.Tensor]
    model: bytes
    config: Mapping[str, Any]
    document: Document
    data_card: Mapping[str, Any] | None
    data_manifest: Mapping[str, Any] | None
    recomputed: bool
    unsafe: tuple[str, ...]

    @property
    def certificate(self) -> Certificate | None:
        """The certificate; None where the version has none that counts."""
        return None if self.manifest.uncertified is not None else self.document.certificate


@dataclass(frozen=True)
class Shelf:
    """Where versions lie, and who is believed on them."""

    objects: Objects
    trusted: tuple[TrustedKey, ...]

    def manifest(self, version: Version) -> Manifest:
        """What a version is.

        Raises:
            TamperError: it is not what a trusted key signed.
        """
        of = f"{version.label}: manifest"
        content = self.objects.read(version.manifest_sha256, of=of)
        found = parsed(Manifest, content, trusted=self.trusted, of=of)
        if (found.name, found.version) != (version.name, version.version):
            raise TamperError(f"{of}: is that of {found.name}@{found.version}")
        return found

    def contents(
        self, version: Version, manifest: Manifest, *, switches: Collection[str], recompute: bool
    ) -> ServedModel:
        """The version in full.

        Raises:
            TamperError: a file is another one, or the certificate does not hold.
        """
        files = {
            file: self.objects.read(stored.sha256, of=f"{version.label}: {file}", size=stored.size)
            for file, stored in manifest.files.items()
        }
        found = checked(
            files,
            {file: stored.sha256 for file, stored in manifest.files.items()},
            trusted=self.trusted,
            of=version.label,
            recompute=recompute,
        )
        if found.uncertified != manifest.uncertified:
            raise TamperError(f"{version.label}: its manifest and its certificate disagree")
        try:
            params = load_tensors(files[MODEL])
            card, columns = _mapping(files.get(DATA_CARD)), _mapping(files.get(DATA_MANIFEST))
        except (SafetensorError, ValueError, RecursionError) as error:
            raise TamperError(f"{version.label}: cannot be read: {error}") from None
        return ServedModel(
            version=version,
            manifest=manifest,
            params=params,
            model=files[MODEL],
            config=found.config,
            document=found.document,
            data_card=card,
            data_manifest=columns,
            recomputed=recompute,
            unsafe=unsafe_in_words(manifest, switches),
        )


def _mapping(content: bytes | None) -> dict[str, Any] | None:
    """What JSON says; None where there is none, or it says no mapping."""
    if content is None:
        return None
    found = read_json(content.decode())
    return found if isinstance(found, dict) else None


def unsafe_in_words(manifest: Manifest, switches: Collection[str]) -> tuple[str, ...]:
    """What is unsafe about a version that was asked for with these switches, a line each."""
    said = list(manifest.unsafe)
    if manifest.uncertified is not None:
        said.append(f"uncertified: {manifest.uncertified}")
    if "skip_recompute" in switches:
        said.append("skip_recompute: its certificate was not computed again, only its signature")
    return tuple(said)
