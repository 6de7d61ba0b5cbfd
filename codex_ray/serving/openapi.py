"""The description of the interface in OpenAPI 3.1, made from the model's own schema."""

from __future__ import annotations

from typing import Any

from codex_ray.serving.model import Served
from codex_ray.serving.schema import Feature, InputSchema, written

_REFUSALS = {
    "400": "Not understood: not JSON, nested too deep, a key twice.",
    "401": "No key or token that is believed.",
    "403": "Not over TLS, out of scope, forbidden by the policy, or the budget is spent.",
    "405": "Another method.",
    "408": "The body came too slowly.",
    "411": "A body without its length.",
    "413": "A body that is too large.",
    "415": "Not plain JSON.",
    "422": "Not what the model takes.",
    "429": "Too many requests; Retry-After says when to come again.",
    "503": "Overloaded, or no model; Retry-After says when to come again.",
}


def document(served: Served) -> dict[str, Any]:
    """The whole description."""
    return {
        "openapi": "3.1.0",
        "info": {"title": served.name, "version": served.version},
        "security": [{"bearer": []}],
        "paths": {
            "/v1/predict": {"post": _predict(served)},
            "/v1/card": {"get": _got("card", "The model's card: its privacy above all.")},
            "/v1/model": {"get": _got("weights", "The weights.", kind="application/octet-stream")},
            "/openapi.json": {"get": _got("openapi", "This description.")},
            "/metrics": {"get": _got("metrics", "Figures for Prometheus.", kind="text/plain")},
            "/healthz": {"get": _got("healthz", "Whether the server runs.", open_to_all=True)},
            "/readyz": {"get": _got("readyz", "Whether it has a model.", open_to_all=True)},
        },
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "Key or token."}
            },
            "schemas": {
                "Request": _request(served.schema),
                "Predictions": _predictions(served.labels),
                "Refusal": {
                    "type": "object",
                    "required": ["error"],
                    "properties": {
                        "error": {"type": "string"},
                        "problems": {"type": "array", "items": {"type": "object"}},
                    },
                },
            },
        },
    }


def _predict(served: Served) -> dict[str, Any]:
    described = _got("predict", "Probabilities for records.", schema=_ref("Predictions"))
    content = {"application/json": {"schema": _ref("Request")}}
    return described | {"requestBody": {"required": True, "content": content}}


def _got(
    name: str,
    summary: str,
    *,
    kind: str = "application/json",
    schema: dict[str, Any] | None = None,
    open_to_all: bool = False,
) -> dict[str, Any]:
    refusals = {
        status: {"description": said, "content": {"application/json": {"schema": _ref("Refusal")}}}
        for status, said in _REFUSALS.items()
    }
    good = {"description": summary, "content": {kind: {"schema": schema or {}}}}
    found: dict[str, Any] = {
        "operationId": name,
        "summary": summary,
        "responses": {"200": good, **refusals},
    }
    return found | ({"security": []} if open_to_all else {})


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _request(schema: InputSchema) -> dict[str, Any]:
    values = [_value(feature) for feature in schema.features]
    count = len(values)
    in_order = {
        "type": "array",
        "prefixItems": values,
        "items": False,
        "minItems": count,
        "maxItems": count,
    }
    by_name = {
        "type": "object",
        "properties": dict(zip(schema.names, values, strict=True)),
        "required": list(schema.names),
        "additionalProperties": False,
    }
    records = {
        "type": "array",
        "minItems": 1,
        "maxItems": schema.most_records,
        "items": {"oneOf": [by_name, in_order]},
    }
    return {
        "type": "object",
        "properties": {"records": records},
        "required": ["records"],
        "additionalProperties": False,
    }


def _value(feature: Feature) -> dict[str, Any]:
    said: dict[str, Any] = {"type": feature.kind, "minimum": feature.low, "maximum": feature.high}
    if feature.kind == "category":
        said = {"type": "string", "enum": [*feature.values, *([None] if feature.may_lack else [])]}
    if feature.kind == "date":
        ends = {"formatMinimum": written(feature.low), "formatMaximum": written(feature.high)}
        said = {"type": "string", "format": "date", **ends}
    if feature.may_lack:
        said["type"] = [said["type"], "null"]
    return said | ({"description": feature.unit} if feature.unit else {})


def _predictions(labels: tuple[str, ...]) -> dict[str, Any]:
    prediction = {
        "type": "object",
        "required": ["label", "probabilities"],
        "properties": {
            "label": {"enum": list(labels)},
            "probabilities": {
                "type": "array",
                "items": {"type": "number", "minimum": 0, "maximum": 1},
                "minItems": len(labels),
                "maxItems": len(labels),
            },
        },
    }
    names = ["model", "version", "labels", "predictions"]
    texts = {"type": "array", "items": {"type": "string"}}
    properties = [{"type": "string"}, {"type": "string"}, texts]
    return {
        "type": "object",
        "required": names,
        "properties": dict(
            zip(names, [*properties, {"type": "array", "items": prediction}], strict=True)
        ),
    }
