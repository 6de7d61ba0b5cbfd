"""A guarded application around a real model, and a way to ask it without a network."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from codex_ray.errors import CodexRayError
from codex_ray.learning.models import Model
from codex_ray.serving.application import Application, Settings
from codex_ray.serving.budgets import Book, LentHere
from codex_ray.serving.inputs import Input, Inputs
from codex_ray.serving.key_file import KeyFile
from codex_ray.serving.model import Served
from codex_ray.serving.predicting import predictor

NOW = 1_800_000_000.0
SECRET = b"s" * 32
INPUTS = Inputs(
    inputs=(
        Input(name="age", low=0, high=120, kind="integer", unit="years", centre=50, scale=10),
        Input(name="pressure", low=50, high=250, unit="mmHg", centre=130, scale=20),
        Input(name="depth", low=-5, high=10),
    ),
    labels=("healthy", "ill"),
)
GOOD = b'{"records": [[60, 140, 1.5]]}'


def served(version: str, *, weight: float = 1.0, **changes: Any) -> Served:
    """A logistic regression of three inputs; its answers depend on `weight`."""
    layer = nn.Linear(3, 1)
    nn.init.constant_(layer.weight, weight)
    nn.init.constant_(layer.bias, 0.1)
    model = Model(nn.Sequential(nn.Flatten(), layer), example=torch.zeros(1, 3))
    made = Served(
        name="heart",
        version=version,
        identity=f"identity-{version}",
        schema=INPUTS.schema_for((3,)),
        labels=INPUTS.labels,
        predict=predictor(model, INPUTS, (3,)),
        card={"privacy": [{"unit": "record", "epsilon": 1.0, "delta": 1e-5}]},
        weights=b"the weights",
    )
    return replace(made, **changes)


@dataclass
class Shelf:
    """Models that a test changes while they are served."""

    now: Served | None
    broken: bool = False
    loads: int = 0

    def identity(self) -> str | None:
        return None if self.now is None else self.now.identity

    def check(self, identity: str) -> None:
        pass

    def load(self) -> Served:
        self.loads += 1
        if self.broken:
            raise CodexRayError("a signature is wrong")
        assert self.now is not None
        return self.now


@dataclass
class Clock:
    """Seconds that pass when a test says so."""

    now: float = NOW

    def __call__(self) -> float:
        return self.now


@dataclass
class Said:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes
    messages: int = 0

    @property
    def value(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.value["error"])


@dataclass
class House:
    """An application, its clock, its keys and its models."""

    folder: Path
    clock: Clock = field(default_factory=Clock)
    shelf: Shelf = field(default_factory=lambda: Shelf(served("1")))
    changes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.keys = KeyFile(self.folder / "keys.json")
        self.key = self.new_key("alice")
        self.book = Book(self.folder / "budgets.sqlite")
        self.app = self.fresh()

    def new_key(self, name: str, **more: Any) -> str:
        """A key as it is shown."""
        terms = {"roles": ("user",), "scopes": ("model:*",), "seconds": 3600.0} | more
        return self.keys.create(name, now=self.clock(), **terms)[1]

    def fresh(self) -> Application:
        """Another application on the same files, as after a restart."""
        settings = Settings(
            keys=self.keys.path,
            audience="heart",
            secret=SECRET,
            **{"follow_seconds": 0.01, "log": self.folder / "access.jsonl"} | self.changes,
        )
        return Application(
            settings, self.shelf, lend=LentHere(self.book), clock=self.clock, timer=self.clock
        )

    def ask(self, *requests: Coroutine[Any, Any, Said]) -> list[Said]:
        """Their answers, one after the other, by a server that has loaded its model."""

        async def all_of_them() -> list[Said]:
            await self.app.live.refresh()
            return [await request for request in requests]

        return asyncio.run(all_of_them())

    def predict(self, **more: Any) -> Said:
        """The answer to one prediction; by default a good one."""
        return self.ask(self.request("POST", "/v1/predict", **more))[0]

    def get(self, path: str, **more: Any) -> Said:
        """The answer to a GET with the key."""
        return self.ask(self.request("GET", path, **more))[0]

    async def request(
        self,
        method: str,
        path: str,
        *,
        key: str | None = "",
        body: bytes | Sequence[bytes] | None = None,
        headers: Iterable[tuple[bytes, bytes]] = (),
        without: Iterable[bytes] = (),
        scheme: str = "https",
        address: str = "192.0.2.7",
        query: bytes = b"",
        receive: Any = None,
    ) -> Said:
        """One request; what is not given is as a well-meaning client has it."""
        if body is None and method == "POST":
            body = GOOD
        parts = [body] if isinstance(body, bytes) else list(body or [b""])
        sent = []
        if key is not None:
            sent.append((b"authorization", b"Bearer " + (key or self.key).encode()))
        if method == "POST":
            sent.append((b"content-type", b"application/json"))
            sent.append((b"content-length", str(sum(map(len, parts))).encode()))
        dropped = {*without, *(name for name, _ in headers)}
        sent = [pair for pair in sent if pair[0] not in dropped] + list(headers)
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode("latin-1"),
            "query_string": query,
            "scheme": scheme,
            "headers": sent,
            "client": (address, 40000),
        }
        return await call(self.app, scope, receive or receiving(parts))


def receiving(parts: Sequence[bytes]) -> Any:
    """A body that comes in parts."""
    left = list(parts)

    async def receive() -> dict[str, Any]:
        if not left:
            return {"type": "http.disconnect"}
        part = left.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(left)}

    return receive


async def call(app: Any, scope: dict[str, Any], receive: Any) -> Said:
    """What an ASGI application says; status 0 if nothing."""
    said = Said(0, {}, b"")

    async def send(message: Any) -> None:
        said.messages += 1
        if message["type"] == "http.response.start":
            said.status = message["status"]
            said.headers = {n.decode(): v.decode() for n, v in message["headers"]}
        else:
            said.body += message["body"]

    await app(scope, receive, send)
    return said
