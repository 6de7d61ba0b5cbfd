"""What a model of prepared records takes, as the registry holds it: columns, ranges, scaling.

A version of such a run has the manifest of its records and their card, and its signed configuration
says how numbers were scaled. Whoever asks gives a record as it was before it became features: a
number in its own unit, a category by its name; what training made of it is made of it here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from codex_ray.data.prepared_manifest import Encoding, Manifest
from codex_ray.data.preparing import Prepare
from codex_ray.registry import RegistryError, ServedModel
from codex_ray.serving.inputs import Input, Inputs
from codex_ray.serving.schema import Kind

_KINDS: Final[Mapping[str, Kind]] = {"integer": "integer", "date": "date"}
"""What is counted, by what the card calls it."""


def prepared_inputs(found: ServedModel) -> Inputs | None:
    """What the version takes; None where its data were not prepared, or nothing says how.

    Raises:
        RegistryError: each client's records were scaled by figures of its own.
    """
    data = found.config.get("data")
    if found.data_manifest is None or not isinstance(data, dict) or data.get("kind") != "prepared":
        return None
    try:
        manifest = Manifest.model_validate(found.data_manifest)
        prepare = Prepare.model_validate(data.get("prepare") or {})
    except ValidationError as error:
        said = str(error).partition("\n")[0]
        raise RegistryError(
            f"{found.version.label}: what it says of its data cannot be read: {said}: give --inputs"
        ) from None
    if prepare.scaling == "per_client":
        raise RegistryError(
            f"{found.version.label}: data.prepare.scaling is per_client, and whoever asks is no "
            "client: give --inputs, or train with pooled or fixed"
        )
    by_name = {encoding.name: encoding for encoding in manifest.features}
    used = data.get("features") or list(by_name)
    middle = data.get("missing") == "middle"
    scaling = _Scaling(prepare, prepare.imputation or ("middle" if middle else None))
    columns = _columns(found.data_card)
    return Inputs(
        inputs=tuple(_input(by_name[name], scaling, columns.get(name, {})) for name in used),
        labels=manifest.label.values,
    )


@dataclass(frozen=True)
class _Scaling:
    """By whose figures numbers were scaled, and what stood where one was missing."""

    prepare: Prepare
    imputation: str | None

    def of(self, encoding: Encoding) -> Scale:
        """A number's."""
        half = (encoding.high - encoding.low) / 2
        centre, spread, fill, cut = encoding.low + half, half, encoding.low + half, None
        statistics = self.prepare.statistics
        if statistics is not None:
            place = statistics.columns.index(encoding.name)
            rows = (statistics.centre[0], statistics.spread[0], statistics.fill[0])
            centre, spread, fill = (row[place] for row in rows)
            cut = self.prepare.cut
        return Scale(centre, spread, cut, None if self.imputation is None else fill)

    def of_flag(self, encoding: Encoding) -> float | None:
        """What stands for a flag that nobody knows: it is given to the model as it is."""
        if self.imputation is None:
            return None
        statistics = self.prepare.statistics
        if statistics is None or self.imputation == "middle":
            return 0.0
        return statistics.fill[0][statistics.columns.index(encoding.name)]


@dataclass(frozen=True)
class Scale:
    """What becomes 0, what becomes 1 from there, where it is cut, and what stands for none."""

    centre: float
    spread: float
    cut: float | None
    lacking: float | None


def _input(encoding: Encoding, scaling: _Scaling, said: Mapping[str, Any]) -> Input:
    """A column as whoever asks gives it; `said` is what the card says of it."""
    name, unit = encoding.name, str(said.get("unit") or "")[:64]
    if encoding.kind == "category":
        # Training takes a record without a category for one of which nothing is known: zeros.
        lacking = None if scaling.imputation is None else 0.0
        return Input(name=name, kind="category", values=encoding.values, lacking=lacking, unit=unit)
    if encoding.kind == "flag":
        return Input(name=name, low=0, high=1, kind="integer", lacking=scaling.of_flag(encoding))
    by = scaling.of(encoding)
    return Input(
        name=name,
        low=encoding.low,
        high=encoding.high,
        kind=_KINDS.get(str(said.get("type")), "number"),
        unit=unit,
        centre=by.centre,
        scale=by.spread,
        cut=by.cut,
        lacking=by.lacking,
    )


def _columns(card: Mapping[str, Any] | None) -> dict[str, Mapping[str, Any]]:
    """What the card says of each column, by name; nothing where it is no card of ours."""
    listed = (card or {}).get("columns")
    if not isinstance(listed, list):
        return {}
    return {str(it["name"]): it for it in listed if isinstance(it, dict) and "name" in it}
