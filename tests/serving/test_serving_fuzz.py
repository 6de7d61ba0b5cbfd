"""Ten thousand hostile requests: the right status each, no fault of ours, and no growth."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import random
import resource
from collections import Counter
from typing import Any

import pytest
from asking import GOOD, House
from test_serving_tokens import CLAIMS, HEADER, KEY, REFUSED, signed

from codex_ray.serving.buckets import Rate
from codex_ray.serving.limits import Limits

NUMBER = 10_000
WRONG_SCOPE = tuple(
    signed(HEADER, {**CLAIMS, "scope": scope})
    for scope in ("model:GetCard", "metrics:*", "predict")
)
"""Tokens that are good in all else."""
PATHS = (
    *("/../../etc/passwd", "/..%2f..%2fetc%2fpasswd", "/v1/predict/../../x", "/%2e%2e/", "/\x00"),
    *("/v1//predict", "/v1/predict%00", "/V1/PREDICT", "/.git/config", "/-/routes", "/docs"),
    *("/api/jobs/", "/v1/model/../predict", "\\..\\windows", "/v1/predict#x", "/" + "a" * 5000),
)
VALUES = (
    *("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e400", "null", "true", '"60"', "[]"),
    *("{}", "9" * 400, "1" + "0" * 5000, "0x10", "1_000", "+1", ".5", "1.", "\u0661", '"\\u0000"'),
    *('"\\ud800"', "121", "-1", "60.5", '"; DROP TABLE keys; --"', "1e-400000", "--1"),
)


def mutated(draw: random.Random) -> bytes:
    """The good body with a few bytes changed, taken out or put in."""
    body = bytearray(GOOD)
    for _ in range(draw.randrange(1, 4)):
        place = draw.randrange(len(body))
        match draw.randrange(3):
            case 0:
                body[place] = draw.randrange(256)
            case 1:
                del body[place]
            case _:
                body.insert(place, draw.choice(b'[]{}",:0\\\xff'))
    return bytes(body)


def wrong_body(draw: random.Random) -> tuple[bytes, set[int]]:
    """A body, and what may be said of it."""
    match draw.randrange(6):
        case 0:
            return draw.choice([b"[", b'{"a":', b'[{"', b"[[["]) * draw.randrange(1, 9_000), {400}
        case 1:
            row = ["60", "140", "1.5"]
            row[draw.randrange(3)] = draw.choice(VALUES)
            return f'{{"records": [[{", ".join(row)}]]}}'.encode(), {200, 400, 422}
        case 2:
            return mutated(draw), {200, 400, 422}
        case 3:
            return draw.randbytes(draw.randrange(0, 3000)), {400, 422}
        case 4:
            name = draw.choice(["age", "__proto__", "constructor", "../x", "\\u0061ge", "a" * 900])
            record = f'{{"age": 60, "pressure": 140, "depth": 1, "{name}": 1}}'
            return f'{{"records": [{record}]}}'.encode(), {400, 422}
        case _:
            rows = ",".join(["[60, 140, 1.5]"] * draw.choice([65, 200, 1500]))
            return f'{{"records": [{rows}]}}'.encode(), {422}


def wrong_head(draw: random.Random) -> tuple[dict[str, Any], set[int]]:
    """What is wrong before the body, and what may be said of it."""
    choices: list[tuple[dict[str, Any], set[int]]] = [
        ({"key": draw.choice([*REFUSED.values(), "x", "crk_", "crk_" + "0" * 16 + "." + "A" * 43])},
         {401}),
        ({"key": draw.choice(WRONG_SCOPE)}, {403}),
        ({"headers": [(b"authorization", draw.randbytes(draw.randrange(1, 80)))]}, {401}),
        ({"headers": [(b"content-length", draw.choice([b"999999999", b"262145"]))]}, {413}),
        ({"headers": [(b"content-length", draw.choice([b"", b"-5", b"0x9", b"1,1", b"\xb2"]))]},
         {400}),
        ({"headers": [(b"transfer-encoding", b"chunked")]}, {400}),
        ({"headers": [(b"content-type", draw.randbytes(9))]}, {415}),
        ({"headers": [(b"content-encoding", draw.choice([b"gzip", b"br", b"deflate"]))]}, {415}),
        ({"headers": [(b"host", b"a"), (b"host", b"b")]}, {400}),
        ({"scheme": "http"}, {403}),
        ({"query": draw.randbytes(8)}, {400}),
        ({"without": [b"content-length"]}, {411}),
    ]  # fmt: skip
    return draw.choice(choices)


def hostile(house: House, draw: random.Random) -> tuple[Any, set[int]]:
    """A request that is wrong in some way, and the statuses that are right for it."""
    address = f"10.{draw.randrange(256)}.{draw.randrange(256)}.{draw.randrange(256)}"
    kind = draw.random()
    if kind < 0.1:
        method = draw.choice(["GET", "POST", "PUT", "PROPFIND", "\x00", "G" * 300])
        return house.request(method, draw.choice(PATHS), address=address), {404}
    if kind < 0.15:
        method = draw.choice(["GET", "DELETE", "TRACE", "CONNECT", "get", "P\x00ST"])
        return house.request(method, "/v1/predict", address=address), {405}
    if kind < 0.45:
        more, right = wrong_head(draw)
        return house.request("POST", "/v1/predict", address=address, **more), right
    body, right = wrong_body(draw)
    if draw.random() < 0.3:  # in chunks, without a length
        cut = draw.randrange(len(body) + 1)
        more = {"headers": [(b"transfer-encoding", b"chunked")], "without": [b"content-length"]}
        parts = [body[:cut], body[cut:]]
        return house.request("POST", "/v1/predict", body=parts, address=address, **more), right
    return house.request("POST", "/v1/predict", body=body, address=address), right


@pytest.fixture
def open_house(house: House) -> House:
    """One that refuses nothing for coming too often, so that every reason is reached."""
    many = Rate(1e9, 1e9)
    house.changes = {
        "limits": Limits(per_key=many, per_address=many, lockout_failures=10**9),
        "issuers": (KEY.public,),
    }
    house.app = house.fresh()
    return house


def test_ten_thousand_hostile_requests(open_house: House) -> None:
    draw = random.Random(4711)
    counted: Counter[int] = Counter()
    codes: Counter[str] = Counter()
    grown: list[int] = []

    async def all_of_them() -> None:
        await open_house.app.live.refresh()
        for turn in range(NUMBER):
            request, right = hostile(open_house, draw)
            said = await request
            assert said.status in right, (turn, said)
            assert said.status < 500
            assert said.status == 200 or set(said.value) <= {"error", "problems"}
            counted[said.status] += 1
            codes[said.value.get("error", "none")] += 1
            if turn in (NUMBER // 4, NUMBER - 1):
                gc.collect()
                grown.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)

    asyncio.run(all_of_them())
    assert {200, 400, 401, 403, 404, 405, 411, 413, 415, 422} <= set(counted)
    assert codes["out_of_scope"] > 100  # signed and in time, for something else
    assert grown[1] - grown[0] < 20_000  # KiB
    assert open_house.app.guard.ongoing == 0
    assert not open_house.app.guard._by_caller
    assert open_house.predict().status == 200


def test_no_answer_holds_anything_that_was_sent(open_house: House) -> None:
    mark = "xyzzy4711"
    packed = base64.urlsafe_b64encode(mark.encode()).decode().rstrip("=")
    requests = [
        open_house.request("POST", f"/{mark}"),
        open_house.request(mark, "/v1/predict"),
        open_house.request("POST", "/v1/predict", key=mark),
        open_house.request("POST", "/v1/predict", key=f"{packed}.{packed}.{packed}"),
        open_house.request("POST", "/v1/predict", query=mark.encode()),
        open_house.request("POST", "/v1/predict", headers=[(b"content-type", mark.encode())]),
        open_house.request("POST", "/v1/predict", headers=[(b"content-length", mark.encode())]),
        open_house.request("POST", "/v1/predict", headers=[(b"host", mark.encode())]),
        *(
            open_house.request("POST", "/v1/predict", body=body.encode())
            for body in (
                mark,
                json.dumps(mark),
                json.dumps({mark: 1}),
                json.dumps({"records": [mark]}),
                json.dumps({"records": [[mark, 1, 1]]}),
                json.dumps({"records": [{mark: 1}]}),
                json.dumps({"records": [{"age": 1, "pressure": 99, "depth": 1, mark: 1}]}),
            )
        ),
    ]
    for said in open_house.ask(*requests):
        everything = said.body + json.dumps(said.headers).encode()
        assert mark.encode() not in everything or said.status == 200
        assert packed.encode() not in everything
    log = (open_house.folder / "access.jsonl").read_text()
    assert mark not in log and packed not in log


def test_a_crowd_of_addresses_does_not_grow_the_memory(house: House) -> None:
    async def crowd() -> None:
        await house.app.live.refresh()
        for number in range(10_200):
            address = f"10.0.{number // 256}.{number % 256}"
            await house.request("POST", "/v1/predict", key="nonsense", address=address)

    asyncio.run(crowd())
    guard = house.app.guard
    assert len(guard._addresses) == len(guard._lockout) == 10_000
    assert len(guard._keys) == 0
