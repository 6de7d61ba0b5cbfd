"""One process on a real socket: TLS 1.3, slow bodies, and whatever only a wire can send."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from asking import GOOD, House, Said, call, receiving

pytest.importorskip("uvicorn")

from codex_ray.cluster.certificates import issue, make_authority
from codex_ray.errors import InputError
from codex_ray.serving.buckets import Rate
from codex_ray.serving.limits import Limits
from codex_ray.serving.local import Listening, make_server


@dataclass
class Wire:
    """A running server, and how to reach it."""

    house: House
    port: int
    tls: ssl.SSLContext
    patience: float = 1.0

    def request(self, body: bytes = GOOD, *, more: bytes = b"", length: int | None = None) -> bytes:
        size = len(body) if length is None else length
        return (
            b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"authorization: Bearer %s\r\ncontent-length: %d\r\n%s\r\n"
            % (self.house.key.encode(), size, more)
        ) + body

    async def say(self, *parts: bytes, wait: float = 0.0) -> tuple[int, bytes]:
        """The status and all that came until the connection ended, or its patience did."""
        reader, writer = await asyncio.open_connection("localhost", self.port, ssl=self.tls)
        said = b""
        with contextlib.suppress(OSError):
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(wait)
        with contextlib.suppress(TimeoutError, OSError):
            async with asyncio.timeout(self.patience):
                while more := await reader.read(65536):
                    said += more
                    if b"content-length" not in said or complete(said):
                        break
        writer.close()
        return (int(said.split()[1]) if said.startswith(b"HTTP/1.1 ") else 0), said


def complete(said: bytes) -> bool:
    head, _, body = said.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
    return bool(lengths) and len(body) >= int(lengths[0].split(b":")[1])


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    folder = tmp_path_factory.mktemp("wire")
    files = issue(make_authority(folder / "ca"), folder / "node", names=["localhost"])
    many = Rate(1e6, 1e6)
    limits = Limits(per_key=many, per_address=many, lockout_failures=10**6, body_seconds=0.3)
    house = House(folder, changes={"limits": limits})
    server = make_server(house.app, Listening("127.0.0.1", 0, files.certificate, files.key))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield Wire(house, port, ssl.create_default_context(cafile=str(files.authority)))
    server.should_exit = True
    thread.join(10)
    assert not thread.is_alive()


def test_a_prediction(wire: Wire) -> None:
    status, said = asyncio.run(wire.say(wire.request()))
    assert status == 200
    assert json.loads(said.partition(b"\r\n\r\n")[2])["version"] == "1"
    assert b"server:" not in said.lower()


def test_nothing_older_than_tls_13_and_nothing_in_the_clear(wire: Wire) -> None:
    async def plain() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
        writer.write(wire.request())
        said = await reader.read(100)
        writer.close()
        return said

    old = ssl.create_default_context()
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_2

    async def with_old() -> None:
        await asyncio.open_connection("localhost", wire.port, ssl=old)

    with contextlib.suppress(ConnectionError):
        assert not asyncio.run(plain()).startswith(b"HTTP")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        asyncio.run(with_old())


def test_slow_bodies_hold_up_nobody(wire: Wire) -> None:
    async def crowd() -> tuple[list[int], float, list[int]]:
        dribbles = [wire.request()[:-20], *[bytes([byte]) for byte in GOOD[-20:]]]
        slow = [asyncio.create_task(wire.say(*dribbles, wait=0.1)) for _ in range(20)]
        await asyncio.sleep(0.1)
        began = time.monotonic()
        quick = [(await wire.say(wire.request()))[0] for _ in range(5)]
        seconds = time.monotonic() - began
        return quick, seconds, [(await task)[0] for task in slow]

    quick, seconds, slow = asyncio.run(crowd())
    assert quick == [200] * 5
    assert seconds < 5.0
    # Some see the reset before the answer, since they still write when the server has had enough.
    assert set(slow) <= {408, 0} and slow.count(408) >= 1


def test_a_refused_body_ends_the_connection_so_that_it_is_no_request(wire: Wire) -> None:
    smuggled = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
    status, said = asyncio.run(wire.say(wire.request(smuggled, length=10**9)))
    assert status == 413
    assert said.count(b"HTTP/1.1") == 1


def test_a_few_hundred_broken_requests_on_the_wire(wire: Wire) -> None:
    draw = random.Random(7)
    good = wire.request()

    def broken() -> bytes:
        match draw.randrange(6):
            case 0:
                return draw.randbytes(draw.randrange(1, 500))
            case 1:
                return good[: draw.randrange(1, len(good))]
            case 2:
                return good.replace(b"HTTP/1.1", draw.choice([b"HTTP/9", b"", b"HTTP/1.1\x00"]))
            case 3:
                return wire.request(more=b"x" * 30 + b": " + b"y" * 100_000 + b"\r\n")
            case 4:
                chunks = b"transfer-encoding: chunked\r\n"
                head = good.partition(b"\r\n\r\n")[0].replace(b"content-length: 29\r\n", chunks)
                return head + b"\r\n\r\n" + draw.choice([b"ffffffffffff\r\n", b"-1\r\n", b"zz\r\n"])
            case _:
                place = draw.randrange(len(good))
                return good[:place] + bytes([draw.randrange(256)]) + good[place + 1 :]

    hasty = replace(wire, patience=0.2)

    async def all_of_them() -> set[int]:
        found: set[int] = set()
        for _ in range(15):
            several = await asyncio.gather(*[hasty.say(broken()) for _ in range(20)])
            found |= {status for status, _ in several}
        return found

    found = asyncio.run(all_of_them())
    assert not {status for status in found if status >= 500}, found
    assert asyncio.run(wire.say(wire.request()))[0] == 200
    assert wire.house.app.guard.ongoing == 0


def test_a_certificate_that_is_none_is_said_so(tmp_path: Path, house: House) -> None:
    file = tmp_path / "x.pem"
    file.write_text("nonsense")
    with pytest.raises(InputError, match="cannot be used for TLS"):
        make_server(house.app, Listening("127.0.0.1", 0, file, file))


def test_one_connection_too_many_is_told_so_in_our_words(house: House) -> None:
    server = make_server(house.app, Listening("127.0.0.1", 0, connections=3))
    assert server.config.limit_concurrency is None  # uvicorn's own words name no time to come again
    server.server_state.connections.update(range(3))
    good = asyncio.run(call_it(server, house))
    server.server_state.connections.add(3)
    said = asyncio.run(call_it(server, house))
    assert (good.status, said.status, said.code) == (200, 503, "overloaded")
    assert (said.headers["retry-after"], said.headers["connection"]) == ("1", "close")
    assert b'codex_ray_serve_refusals_total{code="overloaded"} 1' in tallied(house)


async def call_it(server: Any, house: House) -> Said:
    await house.app.live.refresh()
    headers = [(b"authorization", b"Bearer " + house.key.encode())]
    scope = {"type": "http", "method": "GET", "path": "/v1/card", "raw_path": b"/v1/card"}
    rest = {"query_string": b"", "scheme": "https", "headers": headers, "client": ("::1", 1)}
    return await call(server.config.app, scope | rest, receiving([b""]))


def tallied(house: House) -> bytes:
    return house.app.tally.text(ongoing=0, model=None, swaps=0, failures=0, unsafe=(), labels={})


def test_a_certificate_that_is_renewed_is_shown_without_a_restart(tmp_path: Path) -> None:
    authority = make_authority(tmp_path / "ca")
    first, second, other = (
        issue(authority, tmp_path / name, names=["localhost"]) for name in ("1", "2", "3")
    )
    server = make_server(
        House(tmp_path).app, Listening("127.0.0.1", 0, first.certificate, first.key)
    )
    renew = server.config.callback_notify
    assert renew is not None and server.config.timeout_notify <= 60

    def shown() -> bytes:
        """The certificate that a handshake with that context shows."""
        client = ssl.create_default_context(cafile=str(first.authority))
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        one = server.config.ssl.wrap_bio(to_server, to_client, server_side=True)
        two = client.wrap_bio(to_client, to_server, server_hostname="localhost")
        for _ in range(4):
            for side in (two, one):
                with contextlib.suppress(ssl.SSLWantReadError):
                    side.do_handshake()
        found = two.getpeercert(binary_form=True)
        assert found is not None
        return found

    began = shown()
    asyncio.run(renew())
    assert shown() == began
    second.certificate.replace(first.certificate)
    asyncio.run(renew())  # its key is on the way: until then the old pair
    assert shown() == began
    second.key.replace(first.key)
    asyncio.run(renew())
    renewed = shown()
    assert renewed != began
    first.certificate.write_text("half a file")
    asyncio.run(renew())
    assert shown() == renewed
    other.certificate.replace(first.certificate)
    other.key.replace(first.key)
    asyncio.run(renew())
    assert shown() not in (began, renewed)
