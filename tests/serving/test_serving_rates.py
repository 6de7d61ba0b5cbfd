"""How often: buckets, lockout and budgets, with bounded memory and across restarts."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from asking import NOW, House

from codex_ray.serving.addresses import Doors
from codex_ray.serving.buckets import Buckets, Lockout, Rate
from codex_ray.serving.budgets import LARGEST_PIECE, Book, Budgets, LentHere
from codex_ray.serving.limits import Limits


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    buckets = Buckets(Rate(2.0, 3.0))
    assert [buckets.take("a", 0.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert buckets.take("b", 0.0) == 0.0
    assert buckets.take("a", 0.25) == 0.25  # asking in vain costs nothing
    assert buckets.take("a", 0.5) == 0.0
    given = sum(buckets.take("a", 0.5 + step / 100) == 0.0 for step in range(1, 1001))
    assert given == 20  # ten seconds
    assert [buckets.take("a", 1e6) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]  # no more than full


def test_buckets_forget_whom_they_saw_longest_ago() -> None:
    buckets = Buckets(Rate(1.0, 1.0), most=100)
    for number in range(10_000):
        buckets.take(number, 0.0)
    assert len(buckets) == 100
    assert buckets.take(9_999, 0.0) > 0.0
    assert buckets.take(0, 0.0) == 0.0


def test_the_call_after_the_last_is_told_when_to_come_again(house: House) -> None:
    house.changes = {"limits": Limits(per_key=Rate(0.5, 3.0))}
    house.app = house.fresh()
    assert [house.predict().status for _ in range(3)] == [200] * 3
    said = house.predict()
    assert (said.status, said.code, said.headers["retry-after"]) == (429, "too_many_requests", "2")
    house.clock.now += 2
    assert house.predict().status == 200


def test_a_key_may_have_a_rate_of_its_own(house: House) -> None:
    key = house.new_key("slow", rate=0.1)
    house.app._keys.refresh()
    assert [house.predict(key=key).status for _ in range(3)] == [200, 429, 429]
    assert house.predict().status == 200


def test_an_address_is_counted_with_or_without_a_key(house: House) -> None:
    house.changes = {"limits": Limits(per_address=Rate(1.0, 2.0))}
    house.app = house.fresh()
    assert [house.get("/", key=None).status for _ in range(3)] == [200, 200, 429]
    assert house.predict().status == 429
    assert house.predict(address="198.51.100.9").status == 200


def test_an_address_that_keeps_guessing_waits(house: House) -> None:
    house.changes = {"limits": Limits(lockout_failures=3, lockout_seconds=60.0)}
    house.app = house.fresh()
    wrong = [house.predict(key="nonsense").status for _ in range(4)]
    assert wrong == [401, 401, 401, 429]
    said = house.predict()  # even with a key: what it says now may be a guess
    assert (said.status, said.code, said.headers["retry-after"]) == (429, "locked_out", "60")
    assert house.predict(address="198.51.100.9").status == 200
    house.clock.now += 60
    assert house.predict().status == 200


def test_a_few_failures_are_forgotten_by_a_success_or_by_time() -> None:
    lockout = Lockout(failures=2, seconds=10.0, most=50)
    lockout.failed("a", 0.0)
    lockout.succeeded("a")
    lockout.failed("a", 1.0)
    assert lockout.wait("a", 1.0) == 0.0
    lockout.failed("a", 11.0)
    assert lockout.wait("a", 11.0) == 0.0
    lockout.failed("a", 12.0)
    assert lockout.wait("a", 12.0) == 10.0
    lockout.succeeded("a")  # somebody else behind the same address has a key
    assert lockout.wait("a", 12.0) == 10.0
    for number in range(1000):
        lockout.failed(number, 12.0)
    assert len(lockout) == 50


def test_nobody_is_locked_out_for_asking_without_a_key(house: House) -> None:
    assert {house.predict(key=None).status for _ in range(30)} == {401}
    assert house.predict().status == 200


def test_an_address_of_ipv6_is_its_64_bits(house: House) -> None:
    doors = Doors()
    scope = {"client": ("2001:db8:1:2::1", 1)}
    assert doors.address(scope, {}) == doors.address({"client": ("2001:db8:1:2:ffff::9", 1)}, {})
    assert doors.address(scope, {}) != doors.address({"client": ("2001:db8:1:3::1", 1)}, {})
    assert doors.address({"client": ("::ffff:192.0.2.1", 1)}, {}) == "192.0.2.1"
    assert doors.address({"client": ("x" * 999, 1)}, {}) == "unknown"


def test_only_what_our_own_proxies_say_is_believed() -> None:
    scope = {"client": ("10.0.0.1", 1), "scheme": "http"}
    said = {b"x-forwarded-for": b"1.2.3.4, 198.51.100.9, 10.0.0.7", b"x-forwarded-proto": b"https"}
    assert Doors().address(scope, said) == "10.0.0.1" and not Doors().https(scope, said)
    assert Doors(proxies=1).address(scope, said) == "10.0.0.7"
    assert Doors(proxies=2).address(scope, said) == "198.51.100.9"
    assert Doors(proxies=4).address(scope, said) == "unknown"
    assert Doors(proxies=1).https(scope, said)
    assert not Doors(proxies=1).https(scope, {b"x-forwarded-proto": b"https, http"})
    assert not Doors(proxies=1).https({"scheme": "https"}, {})


def test_a_budget_is_of_records_and_survives_a_restart(house: House) -> None:
    key = house.new_key("study", budget=5)
    house.app._keys.refresh()
    two = b'{"records": [[60, 140, 1.5], [50, 120, 0.5]]}'
    assert house.predict(key=key, body=two).status == 200
    assert house.predict(key=key, body=two).status == 200
    house.app = house.fresh()
    refused = house.predict(key=key, body=two)
    assert (refused.status, refused.code) == (403, "budget_spent")
    assert house.predict(key=key).status == 200
    for _ in range(2):
        assert house.predict(key=key).code == "budget_spent"
    assert house.predict().status == 200


def test_a_spent_budget_is_known_before_the_body_is_read(house: House) -> None:
    key = house.new_key("study", budget=1)
    house.app._keys.refresh()
    assert [house.predict(key=key).status for _ in range(2)] == [200, 403]

    async def unread() -> dict[str, object]:
        raise AssertionError("it was read")

    assert house.predict(key=key, receive=unread).code == "budget_spent"


def test_what_is_refused_costs_nothing(house: House) -> None:
    key = house.new_key("study", budget=1)
    house.app._keys.refresh()
    assert house.predict(key=key, body=b'{"records": [[1]]}').status == 422
    assert house.predict(key=key, body=b"{").status == 400
    assert house.predict(key=key).status == 200


def test_a_rotation_is_no_new_budget(house: House) -> None:
    key = house.new_key("study", budget=2)
    house.app._keys.refresh()
    assert house.predict(key=key).status == 200
    identity = house.keys.read()[-1].id
    new = house.keys.rotate(identity, now=NOW, seconds=3600, overlap=60)[2]
    house.app._keys.refresh()
    assert [house.predict(key=new).status for _ in range(2)] == [200, 403]


def test_servers_that_share_a_book_never_answer_more_than_the_budget(tmp_path: Path) -> None:
    book = Book(tmp_path / "book.sqlite")
    servers = [Budgets(LentHere(Book(tmp_path / "book.sqlite"))) for _ in range(3)]

    async def asked() -> int:
        given = 0
        for turn in range(3000):
            given += await servers[turn % 3].take("a", 1, 1000)
        return given

    assert asyncio.run(asked()) == 1000
    assert book.lent("a") == 1000


def test_a_crash_loses_what_was_lent_and_never_gains(tmp_path: Path) -> None:
    file = tmp_path / "book.sqlite"
    given = 0
    for _ in range(500):  # a server that dies after each answer
        given += asyncio.run(Budgets(LentHere(Book(file))).take("a", 1, 1000))
    assert given == 100  # pieces of ten
    assert Book(file).lent("a") == 1000


def test_requests_that_come_together_borrow_one_piece(tmp_path: Path) -> None:
    book = Book(tmp_path / "book.sqlite")
    server = Budgets(LentHere(book))

    async def eight() -> list[bool]:
        return await asyncio.gather(*(server.take("a", 1, 1000) for _ in range(8)))

    assert asyncio.run(eight()) == [True] * 8
    assert book.lent("a") == 10


def test_a_server_that_is_stopped_gives_back_what_it_has_not_used(house: House) -> None:
    key = house.new_key("study", budget=1000)

    async def lived() -> None:
        house.app = house.fresh()
        await house.app.start()
        assert (await house.request("POST", "/v1/predict", key=key)).status == 200
        await house.app.stop()

    for _ in range(3):
        asyncio.run(lived())
    account = house.keys.read()[-1].account
    assert house.book.lent(account) == 3


def test_a_lender_that_is_away_stops_no_server_from_stopping(house: House) -> None:
    house.app._budgets._pieces = {"a": 5}
    house.book.close()
    asyncio.run(house.app.stop())


@pytest.mark.parametrize("budget", [1, 99, 100, 10**4, 10**9])
def test_a_piece_is_small_beside_the_budget(tmp_path: Path, budget: int) -> None:
    piece = Book(tmp_path / "book.sqlite").lend("a", 1, budget)
    assert 1 <= piece <= max(1, min(LARGEST_PIECE, budget // 100))


def test_the_book_is_its_owners_alone(tmp_path: Path) -> None:
    Book(tmp_path / "book.sqlite")
    assert (tmp_path / "book.sqlite").stat().st_mode & 0o777 == 0o600


def test_replicas_share_the_rates(house: House) -> None:
    shared = Limits().shared_by(4)
    assert shared.per_key == Rate(25.0, 50.0)
    assert shared.lockout_failures == 3
    assert shared.ongoing == Limits().ongoing


def test_a_stranger_who_reaches_the_port_is_no_proxy() -> None:
    doors = Doors(proxies=1, nearest=("10.0.0.0/24", "fd00::7"))
    said = {b"x-forwarded-for": b"198.51.100.9", b"x-forwarded-proto": b"https"}
    for ours in ("10.0.0.1", "fd00::7", "::ffff:10.0.0.1"):
        scope = {"client": (ours, 1), "scheme": "http"}
        assert doors.https(scope, said) and doors.address(scope, said) == "198.51.100.9"
    for client in (("10.0.1.1", 1), ("fd00::8", 1), ("x", 1), None):
        scope = {"client": client, "scheme": "http"}
        assert not doors.https(scope, said)
        assert doors.address(scope, said) != "198.51.100.9"
    assert doors.address({"client": ("10.0.1.1", 1)}, said) == "10.0.1.1"
