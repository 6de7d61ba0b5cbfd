"""What the guard decides before a body is read, and what it tells strangers."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from asking import GOOD, House, call, receiving

from codex_ray.serving.addresses import Doors
from codex_ray.serving.limits import Limits


def test_a_prediction_with_a_key(house: House) -> None:
    said = house.predict()
    assert said.status == 200
    assert said.value["version"] == "1"
    (prediction,) = said.value["predictions"]
    # logit = (60-50)/10 + (140-130)/20 + 1.5 + 0.1 = 3.1
    assert prediction == {"label": "ill", "probabilities": [0.0431, 0.9569]}


def test_a_record_by_name_is_the_same_in_any_order(house: House) -> None:
    body = b'{"records": [{"depth": 1.5, "age": 60, "pressure": 140}]}'
    assert house.predict(body=body).value == house.predict().value


class Untouched:
    """A body that nobody may read."""

    def __init__(self) -> None:
        self.read = False

    async def __call__(self) -> dict[str, Any]:
        self.read = True
        return {"type": "http.request", "body": GOOD, "more_body": False}


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"scheme": "http"}, 403, "tls_required"),
        ({"key": None}, 401, "unauthorized"),
        ({"key": "crk_0123456789abcdef." + "A" * 43}, 401, "unauthorized"),
        ({"headers": [(b"authorization", b"Basic YWxpY2U6cHc=")]}, 401, "unauthorized"),
        ({"headers": [(b"authorization", b"Bearer \xff\xfe")]}, 401, "unauthorized"),
        ({"headers": [(b"authorization", b"Bearer a")] * 2}, 400, "header_twice"),
        ({"headers": [(b"content-length", b"9")] * 2}, 400, "header_twice"),
        ({"headers": [(b"content-length", b"1000000000")]}, 413, "too_large"),
        ({"headers": [(b"content-length", b"-1")]}, 400, "bad_length"),
        ({"headers": [(b"content-length", b"1e3")]}, 400, "bad_length"),
        ({"headers": [(b"content-length", b"9" * 40)]}, 400, "bad_length"),
        ({"headers": [(b"transfer-encoding", b"chunked")]}, 400, "length_and_chunks"),
        ({"without": [b"content-length"]}, 411, "length_required"),
        ({"without": [b"content-type"]}, 415, "not_json_type"),
        ({"headers": [(b"content-type", b"text/plain")]}, 415, "not_json_type"),
        ({"headers": [(b"content-type", b"application/json; charset=utf-16")]}, 415, None),
        ({"headers": [(b"content-encoding", b"gzip")]}, 415, "encoded_body"),
        ({"query": b"x=1"}, 400, "no_query_here"),
    ],
)
def test_refused_before_the_body_is_read(
    house: House, change: dict[str, Any], status: int, code: str | None
) -> None:
    body = Untouched()
    said = house.predict(receive=body, **change)
    assert (said.status, said.code) == (status, code or said.code)
    assert not body.read
    assert said.headers["connection"] == "close"  # else the body would be taken for a request


@pytest.mark.parametrize(
    "path",
    [
        *("/nothing", "/v1/predict/", "//v1/predict", "/v1/%70redict", "/v1/../v1/predict"),
        *("/V1/predict", "/v1/predict;a", "/..%2f..%2fetc/passwd", "/page.html", "/docs", "*", ""),
    ],
)
def test_only_the_doors_that_there_are(house: House, path: str) -> None:
    for method in ("GET", "POST"):
        said = house.ask(house.request(method, path))[0]
        assert (said.status, said.code) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/predict", "POST"),
        ("TRACE", "/v1/predict", "POST"),
        ("OPTIONS", "/v1/predict", "POST"),
        ("POST", "/v1/card", "GET"),
        ("QUERY", "/", "GET"),
        ("PATCH", "/v1/model", "GET"),
    ],
)
def test_only_the_methods_that_there_are(house: House, method: str, path: str, allow: str) -> None:
    said = house.ask(house.request(method, path))[0]
    assert (said.status, said.headers["allow"]) == (405, allow)


def test_a_body_where_none_belongs_is_refused(house: House) -> None:
    said = house.get("/v1/card", headers=[(b"content-length", b"5")])
    assert (said.status, said.code) == (413, "no_body_here")


def test_every_answer_has_the_headers_that_protect_a_browser(house: House) -> None:
    for said in (house.predict(), house.predict(key=None), house.get("/"), house.get("/none")):
        assert said.headers["x-content-type-options"] == "nosniff"
        assert said.headers["cache-control"] == "no-store"
        assert said.headers["strict-transport-security"] == "max-age=31536000"
        assert "default-src 'none'" in said.headers["content-security-policy"]
        assert int(said.headers["content-length"]) == len(said.body)


def test_a_long_body_is_cut_off_at_the_first_byte_too_many(house: House) -> None:
    house.changes = {"limits": Limits(body_bytes=100)}
    house.app = house.fresh()
    parts = [b"x" * 40] * 1000
    left = receiving(parts)
    taken = 0

    async def counting() -> dict[str, Any]:
        nonlocal taken
        taken += 1
        return dict(await left())

    chunked = [(b"transfer-encoding", b"chunked")]
    said = house.predict(headers=chunked, without=[b"content-length"], receive=counting)
    assert (said.status, said.code) == (413, "too_large")
    assert taken == 3


def test_chunks_are_taken_up_to_the_limit(house: House) -> None:
    parts = [GOOD[:9], GOOD[9:]]
    chunked = [(b"transfer-encoding", b"chunked")]
    assert house.predict(body=parts, headers=chunked, without=[b"content-length"]).status == 200


def test_a_body_that_dribbles_is_left(house: House) -> None:
    house.changes = {"limits": Limits(body_seconds=0.05)}
    house.app = house.fresh()

    async def dribbling() -> dict[str, Any]:
        await asyncio.sleep(0.02)  # each part comes soon; all of them never do
        return {"type": "http.request", "body": b" ", "more_body": True}

    said = house.predict(receive=dribbling)
    assert (said.status, said.code) == (408, "too_slow")
    assert house.app.guard.ongoing == 0


def test_whoever_goes_away_is_told_nothing_and_holds_no_place(house: House) -> None:
    async def gone() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    said = house.predict(receive=gone)
    assert (said.status, said.messages, house.app.guard.ongoing) == (0, 0, 0)


def test_a_fault_of_ours_says_nothing_of_itself(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(_: object) -> Any:
        raise RuntimeError("secret: 60, 140")

    assert house.predict().status == 200
    current = house.app.live.now()
    current.batcher._predict = fails
    said = house.predict()
    assert (said.status, said.value) == (500, {"error": "internal"})
    assert "RuntimeError" in caplog.text and "secret" not in caplog.text
    assert house.app.guard.ongoing == 0


def test_a_web_socket_is_turned_away(house: House) -> None:
    said = []

    async def send(message: Any) -> None:
        said.append(message["type"])

    asyncio.run(house.app({"type": "websocket"}, receiving([]), send))
    assert said == ["websocket.close"]


def test_plain_http_only_where_it_was_said(house: House) -> None:
    house.changes = {"doors": Doors(insecure_http=True)}
    house.app = house.fresh()
    said = house.predict(scheme="http")
    assert said.status == 200
    assert "strict-transport-security" not in said.headers


def test_a_head_is_a_get_without_its_body(house: House) -> None:
    said = house.ask(house.request("HEAD", "/healthz"))[0]
    assert (said.status, said.body, said.headers["content-length"]) == (200, b"", "15")


def test_a_full_house_says_so_at_once(house: House) -> None:
    house.changes = {"limits": Limits(ongoing=2, ongoing_per_caller=2)}
    house.app = house.fresh()
    other = house.new_key("bob")
    house.app._keys.refresh()

    async def crowd() -> list[Any]:
        await house.app.live.refresh()
        opened = asyncio.Event()

        async def waiting() -> dict[str, Any]:
            await opened.wait()
            return {"type": "http.request", "body": GOOD, "more_body": False}

        slow = [
            asyncio.create_task(house.request("POST", "/v1/predict", receive=waiting))
            for _ in range(2)
        ]
        await asyncio.sleep(0)
        refused = [await house.request("POST", "/v1/predict", key=other) for _ in range(3)]
        health = await house.request("GET", "/healthz")
        opened.set()
        return [*refused, health, *[await task for task in slow]]

    *refused, health, one, two = asyncio.run(crowd())
    for said in refused:
        assert (said.status, said.code, said.headers["retry-after"]) == (503, "overloaded", "1")
    assert [health.status, one.status, two.status] == [200, 200, 200]


def test_one_caller_cannot_fill_the_house(house: House) -> None:
    house.changes = {"limits": Limits(ongoing=3, ongoing_per_caller=1)}
    house.app = house.fresh()
    other = house.new_key("bob")
    house.app._keys.refresh()

    async def crowd() -> list[Any]:
        await house.app.live.refresh()
        opened = asyncio.Event()

        async def waiting() -> dict[str, Any]:
            await opened.wait()
            return {"type": "http.request", "body": GOOD, "more_body": False}

        slow = asyncio.create_task(house.request("POST", "/v1/predict", receive=waiting))
        await asyncio.sleep(0)
        same = await house.request("POST", "/v1/predict")
        another = await house.request("POST", "/v1/predict", key=other)
        opened.set()
        return [same, another, await slow]

    same, another, slow = asyncio.run(crowd())
    assert (same.status, same.code) == (429, "too_many_at_once")
    assert (another.status, slow.status) == (200, 200)


def test_the_scope_may_lack_a_raw_path(house: House) -> None:
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/healthz",
        "query_string": b"",
        "scheme": "https",
        "headers": [],
        "client": None,
    }
    said = asyncio.run(call(house.app, scope, receiving([b""])))
    assert json.loads(said.body) == {"status": "ok"}
