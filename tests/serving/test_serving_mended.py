"""What the door once let through, or let in too late: each of these was a fault."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asking import GOOD, NOW, House, Shelf, receiving, served
from ray.exceptions import ActorDiedError

from codex_ray.cluster.serve_app import LentBy
from codex_ray.errors import CodexRayError
from codex_ray.records.keys import make_keys
from codex_ray.serving.access_log import AccessLog
from codex_ray.serving.api_keys import new_key
from codex_ray.serving.buckets import Rate
from codex_ray.serving.budgets import Book, Budgets, LentHere
from codex_ray.serving.limits import Limits
from codex_ray.serving.policy import policy_from
from codex_ray.serving.tokens import Terms, issue_token

WEIGHTS_TOO = {"Statement": {"Effect": "Allow", "Principal": "*", "Action": "*"}}


class Away:
    """A lender that cannot be reached, until it can."""

    def __init__(self) -> None:
        self.away = True
        self.lend = self

    async def remote(self, _account: str, least: int, _budget: int) -> int:
        if self.away:
            raise ActorDiedError()
        return least


def test_a_lender_out_of_reach_spends_nobodys_budget(house: House) -> None:
    key = house.new_key("study", budget=5)
    house.app = house.fresh()
    lender = Away()
    house.app.guard._budgets = Budgets(LentBy(lender))
    for _ in range(2):
        said = house.predict(key=key)
        assert (said.status, said.code) == (503, "budget_unreachable")
        assert said.headers["retry-after"] == "1"
    lender.away = False
    assert house.predict(key=key).status == 200


def test_a_book_that_another_holds_is_told_as_later_and_stops_nobody(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = house.new_key("study", budget=5)
    monkeypatch.setattr("codex_ray.serving.budgets.PATIENCE", 0.3)
    house.book = Book(tmp_path / "budgets.sqlite")
    house.app = house.fresh()
    holding = sqlite3.connect(tmp_path / "budgets.sqlite", isolation_level=None)
    holding.execute("BEGIN IMMEDIATE")
    order: list[int] = []

    async def asked() -> None:
        await house.app.live.refresh()

        async def one(**more: Any) -> None:
            order.append((await house.request("POST", "/v1/predict", **more)).status)

        await asyncio.gather(one(key=key), one())

    asyncio.run(asked())
    assert order == [200, 503]  # whoever has no budget did not wait for the file
    holding.execute("ROLLBACK")
    assert house.predict(key=key).status == 200


def test_many_threads_borrow_from_one_book(tmp_path: Path) -> None:
    book = Book(tmp_path / "book.sqlite")

    async def asked() -> int:
        lend = LentHere(book)
        return sum(await asyncio.gather(*[lend("a", 1, 300) for _ in range(400)]))

    assert asyncio.run(asked()) == book.lent("a") == 300


def test_who_may_ask_one_version_gets_no_answer_of_another(house: House) -> None:
    only = {"Effect": "Allow", "Action": "model:*", "Resource": "model/heart/1"}
    house.changes = {"policy": policy_from({"Statement": [only]})}
    house.app = house.fresh()
    first = receiving([GOOD])

    async def slowly() -> Any:
        house.shelf.now = served("2")  # promoted while the body was on its way
        await house.app.live.refresh()
        return await first()

    said = house.predict(receive=slowly)
    assert (said.status, said.code) == (403, "forbidden")


def test_a_prediction_that_is_no_number_is_refused_and_costs_nothing(house: House) -> None:
    real = served("1")

    def predict(records: Any) -> Any:
        found = real.predict(records)
        return np.where(records[:, :1] == 99, np.nan, found)

    house.shelf.now = replace(real, predict=predict)
    key = house.new_key("study", budget=1)
    house.app = house.fresh()
    said = house.predict(key=key, body=b'{"records": [[99, 140, 1.5]]}')
    assert (said.status, said.code) == (422, "no_answer")
    assert house.predict(key=key).status == 200
    assert house.predict(key=key).code == "budget_spent"


class Full:
    """A disk that is full."""

    def __call__(self, _file: int, _line: bytes) -> int:
        raise OSError(28, "No space left on device")


def test_a_full_disk_ends_the_log_and_not_the_service(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.changes = {"policy": policy_from(WEIGHTS_TOO)}
    house.app = house.fresh()
    monkeypatch.setattr("codex_ray.serving.access_log.os.write", Full())
    assert house.predict().status == 200
    assert house.get("/nothing").status == 404
    monkeypatch.undo()
    key = house.new_key("monitor", scopes=("*",))
    house.app._keys.refresh()
    assert b"codex_ray_serve_log_failures_total 2" in house.get("/metrics", key=key).body


def lines(house: House) -> list[dict[str, Any]]:
    return [json.loads(it) for it in (house.folder / "access.jsonl").read_text().splitlines()]


def test_strangers_that_come_again_and_again_fill_no_disk(house: House) -> None:
    house.changes = {"limits": Limits(lockout_failures=5)}
    house.app = house.fresh()
    for _ in range(50):
        house.predict(key="nonsense")
        house.get("/etc/passwd", address="198.51.100.9")
    assert [line["status"] for line in lines(house)] == [401, 404, 429]
    house.clock.now += 60
    house.predict(key="nonsense")
    found = lines(house)[3:]
    assert [(it["status"], it.get("repeated")) for it in found] == [
        *((401, 4), (404, 49), (429, 44)),
        (401, None),
    ]
    assert found[0]["from"] == lines(house)[0]["from"] != found[1]["from"]


def test_whoever_has_a_key_is_logged_each_time(house: House) -> None:
    for _ in range(5):
        house.predict()
        house.predict(body=b"{")
    assert [line["status"] for line in lines(house)] == [200, 400] * 5


def test_the_log_has_an_end_and_one_before_it(tmp_path: Path) -> None:
    file = tmp_path / "access.jsonl"
    logs = [AccessLog(file, secret=b"s" * 32, clock=lambda: NOW, most=2000) for _ in range(2)]
    for number in range(200):
        logs[number % 2].write(
            route="predict",
            status=200,
            seconds=0.0,
            caller=f"{number:016x}",
            address="192.0.2.7",
            code=None,
            decided_by=None,
            version=None,
        )
    assert sorted(it.name for it in tmp_path.iterdir()) == ["access.jsonl", "access.jsonl.1"]
    kept = [
        int(json.loads(line)["caller"], 16)
        for name in ("access.jsonl.1", "access.jsonl")
        for line in (tmp_path / name).read_text().splitlines()
    ]
    assert kept == list(range(200 - len(kept), 200)) and len(kept) > 10  # the last, none lost
    for it in tmp_path.iterdir():
        assert it.stat().st_size < 2200 and it.stat().st_mode & 0o777 == 0o600


def test_a_person_is_not_named_in_the_log_and_not_taken_for_another(
    house: House, tmp_path: Path
) -> None:
    issuers = [make_keys(tmp_path / name)[0] for name in ("one", "two")]
    house.changes = {"issuers": tuple(key.public for key in issuers)}
    house.app = house.fresh()
    terms = Terms("carol@example.org", "heart", ("user",), ("model:*",), 600.0, 1)
    for key in issuers:
        token = issue_token(key, terms, now=NOW)
        assert [house.predict(key=token).status for _ in range(2)] == [200, 403]
    text = (house.folder / "access.jsonl").read_text()
    assert "carol" not in text and "example" not in text
    callers = [line["caller"] for line in lines(house)]
    assert all(caller.startswith("token:") for caller in callers)
    assert callers[0] == callers[1] != callers[2] == callers[3]


def test_a_revocation_holds_whatever_the_clock_says() -> None:
    key, _ = new_key("a", roles=["user"], scopes=["*"], now=NOW, seconds=3600)
    assert replace(key, revoked=NOW + 300).state(NOW) == "revoked"


def test_the_keys_folder_is_on_the_disk_as_well(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    synced: list[bool] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink() == house.folder)
        real(descriptor)

    monkeypatch.setattr("os.fsync", fsync)
    house.new_key("bob")
    assert synced == [False, True]


def test_the_weights_take_a_place_until_they_are_out(house: House) -> None:
    house.changes = {
        "policy": policy_from(WEIGHTS_TOO),
        "limits": Limits(ongoing=2, ongoing_per_caller=1),
    }
    house.app = house.fresh()
    other = house.new_key("bob")
    house.app._keys.refresh()

    async def asked() -> list[tuple[int, str]]:
        await house.app.live.refresh()
        taking = asyncio.Event()

        async def send(_message: Any) -> None:
            await taking.wait()

        scope = {
            **{"type": "http", "method": "GET", "path": "/v1/model", "scheme": "https"},
            **{"raw_path": b"/v1/model", "query_string": b"", "client": ("192.0.2.7", 1)},
            "headers": [(b"authorization", b"Bearer " + house.key.encode())],
        }
        slow = asyncio.create_task(house.app(scope, receiving([b""]), send))
        await asyncio.sleep(0)
        again = await house.request("GET", "/v1/model")
        await house.request("GET", "/v1/card")  # takes no place
        another = await house.request("GET", "/v1/model", key=other)
        taking.set()
        await slow
        after = await house.request("GET", "/v1/model")
        return [(it.status, it.headers.get("retry-after", "")) for it in (again, another, after)]

    assert asyncio.run(asked()) == [(429, "1"), (200, ""), (200, "")]
    assert house.app.guard.ongoing == 0


def test_a_keys_own_rate_is_divided_too(house: House) -> None:
    key = house.new_key("study", rate=8.0)
    house.changes = {"limits": Limits().shared_by(4)}
    house.app = house.fresh()
    assert [house.predict(key=key).status for _ in range(6)] == [200] * 4 + [429] * 2
    house.clock.now += 0.5
    assert [house.predict(key=key).status for _ in range(2)] == [200, 429]


@pytest.mark.parametrize("replicas", [1, 4, 6, 100])
def test_one_wrong_key_locks_nobody_out(house: House, replicas: int) -> None:
    house.changes = {"limits": Limits().shared_by(replicas)}
    house.app = house.fresh()
    assert house.predict(key="nonsense").status == 401
    assert house.predict().status == 200


def test_health_is_told_to_those_who_ask_too_often(house: House) -> None:
    house.changes = {"limits": Limits(per_address=Rate(1.0, 2.0), lockout_failures=1)}
    house.app = house.fresh()
    assert [house.get("/", key=None).status for _ in range(3)] == [200, 200, 429]
    for path in ("/healthz", "/readyz"):
        assert [house.get(path, key=None).status for _ in range(20)] == [200] * 20
    house.clock.now += 60
    assert [house.predict(key="nonsense").status for _ in range(2)] == [401, 429]
    assert house.get("/healthz", key=None).status == 200
    assert house.get("/healthz", key=None, scheme="http").status == 403


@dataclass
class Unreadable(Shelf):
    """A source that can be told to fail, in any way."""

    error: Exception | None = None
    checked: int = 0
    changed: str | None = None

    def identity(self) -> str | None:
        if self.error is not None:
            raise self.error
        return super().identity()

    def check(self, _identity: str) -> None:
        self.checked += 1
        if self.changed is not None:
            raise CodexRayError(self.changed)


@pytest.mark.parametrize("error", [CodexRayError("changed"), OSError("gone"), KeyError("x")])
def test_nobody_is_served_for_long_from_a_registry_that_cannot_be_believed(
    house: House, error: Exception
) -> None:
    house.shelf = shelf = Unreadable(served("1"))
    house.app = house.fresh()
    assert house.predict().status == 200
    shelf.error = error
    house.predict()
    house.clock.now += 59
    assert house.predict().status == 200
    house.clock.now += 2
    said = house.predict()
    assert (said.status, said.code) == (503, "registry_unbelieved")
    assert int(said.headers["retry-after"]) >= 1
    assert [house.get(it).status for it in ("/readyz", "/v1/card", "/healthz")] == [503, 503, 200]
    key = house.new_key("monitor", roles=("monitor",), scopes=("*",))
    house.app._keys.refresh()
    assert b"codex_ray_serve_ready 0" in house.get("/metrics", key=key).body
    shelf.error = None
    assert house.predict().status == 200
    assert house.get("/readyz").status == 200


@pytest.mark.parametrize("error", [KeyError("weight"), TypeError("no"), MemoryError()])
def test_a_model_that_fails_oddly_stops_no_server(house: House, error: Exception) -> None:
    class Odd(Shelf):
        def load(self) -> Any:
            raise error

    house.shelf = Odd(served("1"))
    house.app = house.fresh()

    async def started() -> int:
        await house.app.start()
        said = await house.request("GET", "/readyz")
        await house.app.stop()
        return said.status

    assert asyncio.run(started()) == 503
    assert house.app.live.failures == 1


def test_what_answers_is_looked_at_again_once_an_hour(house: House) -> None:
    house.shelf = shelf = Unreadable(served("1"))
    key = house.new_key("bob", seconds=1e6)
    house.app = house.fresh()
    assert house.predict(key=key).status == 200
    house.clock.now += 3599
    assert (house.predict(key=key).status, shelf.checked) == (200, 0)
    house.clock.now += 1
    assert [house.predict(key=key).status for _ in range(3)] == [200] * 3
    assert shelf.checked == 1
    shelf.changed = "heart@1: model.safetensors was changed"
    house.clock.now += 3600
    assert (house.predict(key=key).status, shelf.checked) == (200, 2)
    assert (house.predict(key=key).status, shelf.checked) == (503, 3)
    shelf.changed = None  # somebody brought the file back
    assert house.predict(key=key).status == 200


def test_a_disk_that_fails_once_ends_no_model(house: House) -> None:
    house.shelf = shelf = Unreadable(served("1"))
    key = house.new_key("bob", seconds=1e6)
    house.app = house.fresh()
    assert house.predict(key=key).status == 200
    for looks in (2, 4):  # and each time anew
        house.clock.now += 3600
        shelf.changed = "heart@1: model.safetensors cannot be read: Input/output error"
        assert house.predict(key=key).status == 200
        shelf.changed = None
        assert [house.predict(key=key).status for _ in range(3)] == [200] * 3
        assert (shelf.checked, house.app.live.failures) == (looks, 0)


def test_a_revoked_model_goes_though_the_one_in_its_place_cannot_be_believed(house: House) -> None:
    house.shelf = shelf = Unreadable(served("1"))
    house.app = house.fresh()
    assert house.predict().status == 200
    shelf.now, shelf.broken = served("2"), True
    assert house.predict().value["version"] == "1"
    shelf.changed = "heart@1: is revoked"
    house.clock.now += 60
    assert [house.predict().status for _ in range(2)] == [200, 503]


def test_a_file_of_keys_that_fails_oddly_is_read_again_when_it_is_mended(house: House) -> None:
    good = house.keys.path.read_bytes()

    async def asked() -> list[int]:
        await house.app.start()
        statuses = []
        for content in (b"[" * 200_000, b'{"format": "codex-ray-keys/1", "keys": [[[]]]}', good):
            house.keys.path.write_bytes(content)
            await asyncio.sleep(0.1)
            statuses.append((await house.request("POST", "/v1/predict")).status)
        house.keys.revoke(house.key[4:20], now=NOW)
        await asyncio.sleep(0.1)
        statuses.append((await house.request("POST", "/v1/predict")).status)
        await house.app.stop()
        return statuses

    assert asyncio.run(asked()) == [200, 200, 200, 401]
