"""Another model takes the place of one: verified first, at once, and with no request lost."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from asking import GOOD, House, served

from codex_ray.serving.batching import Batcher
from codex_ray.serving.buckets import Rate
from codex_ray.serving.limits import Limits


def test_a_promotion_answers_from_the_next_request_on(house: House) -> None:
    assert house.predict().value["version"] == "1"
    house.shelf.now = served("2", weight=-1.0)
    said = house.predict().value
    assert said["version"] == "2"
    assert said["predictions"][0]["label"] == "healthy"


def test_a_rollback_needs_no_loading(house: House) -> None:
    first = house.shelf.now
    house.predict()
    house.shelf.now = served("2")
    house.predict()
    loads = house.shelf.loads
    house.shelf.now = first
    house.shelf.broken = True
    assert house.predict().value["version"] == "1"
    assert house.shelf.loads == loads


@pytest.mark.parametrize("how", ["signature", "shape", "nan", "not probabilities"])
def test_what_cannot_be_believed_changes_nothing(house: House, how: str) -> None:
    house.predict()
    rows = {"shape": [[1.0]], "nan": [[np.nan, np.nan]], "not probabilities": [[0.9, 0.9]]}
    house.shelf.broken = how == "signature"
    house.shelf.now = served("2", predict=lambda _: np.asarray(rows.get(how, [[0.5, 0.5]])))
    for _ in range(3):
        assert house.predict().value["version"] == "1"
    assert house.app.live.failures == 1  # told once
    house.shelf.broken, house.shelf.now = False, served("3")
    assert house.predict().value["version"] == "3"


def test_a_revoked_model_answers_no_more(house: House) -> None:
    house.predict()
    house.shelf.now = None
    said = house.predict()
    assert (said.status, said.code, said.headers["retry-after"]) == (503, "no_model", "5")
    assert house.get("/readyz").status == 503
    assert house.get("/healthz").status == 200
    house.shelf.now = served("1")
    assert house.predict().status == 200


@pytest.mark.parametrize("in_thread", [False, True])
def test_no_request_is_lost_over_many_swaps(
    house: House, in_thread: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.changes = {
        "log": None,
        "limits": Limits(per_key=Rate(1e9, 1e9), per_address=Rate(1e9, 1e9)),
    }
    monkeypatch.setattr("codex_ray.serving.live.NO_TIME", -1.0 if in_thread else 1e9)
    house.app = house.fresh()
    models = [served(str(number), weight=number) for number in range(1, 6)]
    counted: Counter[tuple[int, str]] = Counter()

    async def all_of_it() -> None:
        await house.app.live.refresh()
        ended = asyncio.Event()

        async def asking() -> None:
            while not ended.is_set():
                said = await house.request("POST", "/v1/predict")
                version = said.value["version"]
                counted[said.status, version] += 1
                # The answer is that of the model whose version it names.
                one = round(1 / (1 + np.exp(-3.0 * int(version) - 0.1)), 4)
                assert said.value["predictions"][0]["probabilities"][1] == pytest.approx(one)
                await asyncio.sleep(0)

        askers = [asyncio.create_task(asking()) for _ in range(8)]
        for turn in range(25):
            house.shelf.now = models[turn % 5]
            assert await house.app.live.refresh() == (turn > 0)
            await asyncio.sleep(0)
        ended.set()
        await asyncio.gather(*askers)

    asyncio.run(all_of_it())
    assert {status for status, _ in counted} == {200}
    assert len(counted) == 5
    assert house.app.live.swaps == 24


def test_a_server_that_starts_before_its_model_waits_for_it(house: House) -> None:
    house.shelf.now = None

    async def all_of_it() -> list[int]:
        await house.app.start()
        before = await house.request("GET", "/readyz")
        house.shelf.now = served("1")
        await asyncio.sleep(0.1)
        after = await house.request("GET", "/readyz")
        await house.app.stop()
        return [before.status, after.status]

    assert asyncio.run(all_of_it()) == [503, 200]


def test_an_application_speaks_the_lifespan_of_asgi(house: House) -> None:
    said: list[str] = []

    async def receive() -> dict[str, Any]:
        return {"type": "lifespan.startup" if not said else "lifespan.shutdown"}

    async def send(message: Any) -> None:
        said.append(message["type"])

    asyncio.run(house.app({"type": "lifespan"}, receive, send))
    assert said == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_requests_that_come_while_it_computes_are_computed_together() -> None:
    sizes: list[int] = []
    go = threading.Event()

    def predict(records: Any) -> Any:
        go.wait(5)
        sizes.append(len(records))
        return records.astype(np.float64) * 2

    async def asked() -> list[Any]:
        with ThreadPoolExecutor(1) as threads:
            batcher = Batcher(predict, executor=threads, most=4)
            first = asyncio.create_task(batcher.ask(np.full((1, 1), 0.0, np.float32)))
            await asyncio.sleep(0.01)
            rest = [
                asyncio.create_task(batcher.ask(np.full((size, 1), number, np.float32)))
                for number, size in enumerate((1, 2, 3, 1, 9), start=1)
            ]
            await asyncio.sleep(0.01)
            rest[0].cancel()  # whoever goes away takes nobody along
            go.set()
            return await asyncio.gather(first, *rest, return_exceptions=True)

    answers = asyncio.run(asked())
    assert sizes == [1, 2, 4, 9]
    assert isinstance(answers[1], asyncio.CancelledError)
    for number, size in ((2, 2), (3, 3), (4, 1), (5, 9)):
        assert answers[number].tolist() == [[2.0 * number]] * size


def test_a_model_may_be_told_to_wait_for_company() -> None:
    sizes: list[int] = []

    def predict(records: Any) -> Any:
        sizes.append(len(records))
        return records

    async def asked() -> None:
        with ThreadPoolExecutor(1) as threads:
            batcher = Batcher(predict, executor=threads, most=8, seconds=0.05)
            one = np.zeros((1, 1), np.float32)
            await asyncio.gather(*[batcher.ask(one) for _ in range(5)])

    asyncio.run(asked())
    assert sizes == [5]


def test_a_model_that_fails_fails_its_batch_and_no_other() -> None:
    def predict(records: Any) -> Any:
        if (records < 0).any():
            raise ValueError("no")
        return records

    async def asked() -> list[Any]:
        with ThreadPoolExecutor(1) as threads:
            batcher = Batcher(predict, executor=threads, most=1)
            rows = [np.full((1, 1), it, np.float32) for it in (1, -1, 2)]
            return await asyncio.gather(*[batcher.ask(it) for it in rows], return_exceptions=True)

    one, failed, two = asyncio.run(asked())
    assert (one.item(), two.item()) == (1.0, 2.0)
    assert isinstance(failed, ValueError)


def test_large_requests_are_answered_in_order(house: House) -> None:
    body = b'{"records": [[60, 140, 1.5], [40, 120, 0.0], [60, 140, 1.5]]}'
    said = house.predict(body=body).value["predictions"]
    assert said[0] == said[2] != said[1]
    assert house.predict(body=GOOD).value["predictions"] == said[:1]
