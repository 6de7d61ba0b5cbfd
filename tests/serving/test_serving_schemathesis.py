"""Requests made up from our own description: what it allows is answered, and nothing else."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from asking import House, Said, served
from hypothesis import HealthCheck, Phase, given, settings

from codex_ray.serving.buckets import Rate
from codex_ray.serving.limits import Limits
from codex_ray.serving.openapi import document

schemathesis = pytest.importorskip("schemathesis")
jsonschema = pytest.importorskip("jsonschema")


@pytest.fixture
def open_house(house: House) -> House:
    """One that refuses nothing for coming too often."""
    many = Rate(1e9, 1e9)
    house.changes = {"limits": Limits(per_key=many, per_address=many), "log": None}
    house.app = house.fresh()
    return house


def asked(house: House, case: Any) -> tuple[bool, Said]:
    """Whether a case has a body that is JSON, and the answer to it."""
    made = case.as_transport_kwargs(base_url="https://localhost")
    content = json.dumps(made["json"]) if "json" in made else made.get("data") or b""
    raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else bytes(content)

    async def one() -> Said:
        await house.app.live.refresh()
        return await house.request("POST", "/v1/predict", body=raw)

    return "json" in made, asyncio.run(one())


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_the_description_is_true(open_house: House, mode: str) -> None:
    described = document(served("1"))
    request = jsonschema.Draft202012Validator(described["components"]["schemas"]["Request"])
    answer = jsonschema.Draft202012Validator(
        {"$ref": "#/components/schemas/Predictions", "components": described["components"]}
    )
    operation = schemathesis.openapi.from_dict(described)["/v1/predict"]["POST"]
    found: set[int] = set()

    @given(case=operation.as_strategy(generation_mode=schemathesis.GenerationMode(mode)))
    @settings(
        max_examples=60,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def ask(case: Any) -> None:
        is_json, said = asked(open_house, case)
        valid = is_json and request.is_valid(case.body)
        assert said.status in ({200} if valid else {400, 422}), (case.body, said)
        assert not valid or answer.is_valid(said.value)
        found.add(said.status)

    ask()
    assert {"positive": 200, "negative": 422}[mode] in found
