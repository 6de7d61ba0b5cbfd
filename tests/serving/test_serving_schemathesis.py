"""Requests made up from our own description: what it allows is answered, and nothing else.

Every operation is asked, 120 times between them; all but one take nothing, so that most go there.
"""

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
from codex_ray.serving.policy import policy_from
from codex_ray.serving.routes import ROUTES

schemathesis = pytest.importorskip("schemathesis")
jsonschema = pytest.importorskip("jsonschema")


@pytest.fixture
def open_house(house: House) -> House:
    """One that refuses nothing for coming too often."""
    many = Rate(1e9, 1e9)
    house.changes = {"limits": Limits(per_key=many, per_address=many), "log": None}
    house.app = house.fresh()
    return house


def sent(house: House, case: Any, *, key: str = "") -> Said:
    """The answer to a case of an operation that takes nothing."""
    made = case.as_transport_kwargs(base_url="https://localhost")
    assert not made.get("params") and "json" not in made

    async def one() -> Said:
        await house.app.live.refresh()
        return await house.request(case.method, case.path, key=key)

    return asyncio.run(one())


def asked(house: House, case: Any) -> tuple[bool, Said]:
    """Whether a case has a body that is JSON, and the answer to it."""
    made = case.as_transport_kwargs(base_url="https://localhost")
    content = json.dumps(made["json"]) if "json" in made else made.get("data") or b""
    raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else bytes(content)

    async def one() -> Said:
        await house.app.live.refresh()
        return await house.request("POST", "/v1/predict", body=raw)

    return "json" in made, asyncio.run(one())


THE_SAME = settings(
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
"""The same requests each time, however long they take."""


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
    @settings(THE_SAME, max_examples=53)
    def ask(case: Any) -> None:
        is_json, said = asked(open_house, case)
        valid = is_json and request.is_valid(case.body)
        assert said.status in ({200} if valid else {400, 422}), (case.body, said)
        assert not valid or answer.is_valid(said.value)
        found.add(said.status)

    ask()
    assert {"positive": 200, "negative": 422}[mode] in found


OTHERS = ("/v1/card", "/v1/model", "/openapi.json", "/metrics", "/healthz", "/readyz")


def test_the_description_has_every_route_that_answers_a_program() -> None:
    described = {
        (path, method.upper())
        for path, methods in document(served("1"))["paths"].items()
        for method in methods
    }
    answering = {
        (path.decode(), method)
        for path, methods in ROUTES.items()
        for method, route in methods.items()
        if route.supported and not route.name.startswith("page")
    }
    assert described == answering == {("/v1/predict", "POST"), *((path, "GET") for path in OTHERS)}


@pytest.mark.parametrize("path", OTHERS)
def test_what_takes_nothing_answers_as_described(open_house: House, path: str) -> None:
    anything = {"Statement": {"Effect": "Allow", "Principal": "*", "Action": "*"}}
    open_house.changes["policy"] = policy_from(anything)
    open_house.app = open_house.fresh()
    all_of_it = open_house.new_key("all", scopes=("*",))
    open_house.app._keys.refresh()
    described = document(served("1"))
    operation = schemathesis.openapi.from_dict(described)[path]["GET"]
    said = described["paths"][path]["get"]
    refusal = jsonschema.Draft202012Validator(described["components"]["schemas"]["Refusal"])
    found: list[Said] = []

    @given(case=operation.as_strategy())
    @settings(THE_SAME, max_examples=2)
    def ask(case: Any) -> None:
        good = sent(open_house, case, key=all_of_it)
        assert good.status == 200
        (kind,) = said["responses"]["200"]["content"]
        assert good.headers["content-type"].split(";")[0] == kind
        stranger = sent(open_house, case, key="nonsense")
        assert stranger.status == (200 if said.get("security") == [] else 401)
        assert str(stranger.status) in said["responses"]
        assert stranger.status == 200 or refusal.is_valid(stranger.value)
        found.append(good)

    ask()
    assert found
