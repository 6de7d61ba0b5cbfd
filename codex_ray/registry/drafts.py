"""From a run's snapshot to a manifest that only lacks its number, its parent and its signature."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors

from codex_ray.data.prepared_manifest import Manifest as PreparedManifest
from codex_ray.errors import ConfigError
from codex_ray.registry.certified import Checked
from codex_ray.registry.manifest import DATA_MANIFEST, MODEL, Manifest, StoredFile, code_version
from codex_ray.registry.refusals import RegistryError
from codex_ray.registry.snapshot import Snapshot, spent


def draft(
    found: Snapshot,
    name: str,
    files: Mapping[str, StoredFile],
    *,
    about: Checked,
    input_shape: Sequence[int] | None,
) -> Manifest:
    """The manifest of a run, as version 1 without a parent.

    Raises:
        RegistryError: the shape is none, or the model cannot be read.
    """
    if input_shape is not None and not (input_shape and all(size > 0 for size in input_shape)):
        raise RegistryError(f"--input-shape {list(input_shape)}: give the sizes of one record")
    return Manifest(
        name=name,
        version=1,
        parent=None,
        run=found.result.name,
        run_digest=found.digest(),
        files=dict(files),
        input_shape=_input_shape(found, about.config) if input_shape is None else (*input_shape,),
        data_card=found.data_card,
        metrics=found.result.metrics,
        privacy=() if about.uncertified is not None else spent(about.document),
        uncertified=about.uncertified,
        unsafe=found.unsafe(about.document),
        code=code_version(),
    )


def _input_shape(found: Snapshot, config: Mapping[str, Any]) -> tuple[int, ...] | None:
    """One record's shape, where parameters or prepared data tell it.

    Our own kinds of model flatten records, so that their first layer tells how long one is.
    """
    try:
        tensors = load_tensors(found.files[MODEL])
    except (SafetensorError, ValueError) as error:
        raise RegistryError(f"{found.path / MODEL}: cannot be read: {error}") from None
    if not tensors or not all(math.prod(t.shape) for t in tensors.values()):
        raise RegistryError(f"{found.path / MODEL}: holds no parameters")
    model = config.get("model")
    if not isinstance(model, dict):
        raise ConfigError(f"{found.path}: config.yaml: model: is missing")
    first = tensors.get("1.weight")
    if model.get("kind") in ("linear", "mlp") and first is not None and first.ndim == 2:
        return (int(first.shape[1]),)
    columns = found.files.get(DATA_MANIFEST)
    data = config["data"]
    if columns is not None and data.get("features") is None:
        return (len(PreparedManifest.model_validate_json(columns).feature_names),)
    return None
