"""The whole server as one ASGI application: the guard, what is behind it, and what it follows.

While it runs it looks once a second whether another model is to be served and whether the keys have
changed, so a promotion, a rollback, a revocation or a rotation is in force a second later, in every
process that serves.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from codex_ray.errors import InputError
from codex_ray.records.keys import TrustedKey
from codex_ray.serving.access_log import MOST_BYTES, AccessLog
from codex_ray.serving.addresses import Doors
from codex_ray.serving.budgets import Budgets, Lend
from codex_ray.serving.credentials import Credentials
from codex_ray.serving.endpoints import Endpoints
from codex_ray.serving.guard import Guard
from codex_ray.serving.http import Receive, Scope, Send
from codex_ray.serving.key_file import WatchedKeys
from codex_ray.serving.limits import Limits
from codex_ray.serving.live import Live
from codex_ray.serving.metrics import Tally
from codex_ray.serving.model import Models
from codex_ray.serving.policy import DEFAULT, Policy
from codex_ray.serving.tokens import TokenReader

LOG = logging.getLogger(__name__)
GIVING_BACK: Final = 5.0
"""Seconds for what a server that stops has left of budgets; the lender may be away."""


@dataclass(frozen=True)
class Settings:
    """How a server is set up; plain data, so that it travels to every process that serves.

    Attributes:
        keys: file of the keys.
        audience: what a token must have been made for.
        issuers: whose tokens are believed; none by default.
        policy: who may do what.
        limits: of this process.
        doors: how requests must come.
        decimals: to which probabilities are rounded.
        batch: records that the model computes together at most.
        batch_seconds: that an idle model waits for company.
        log: file of the access log; None keeps none.
        log_bytes: of that file, until it goes on as FILE.1 and a new one begins.
        secret: hides addresses in the log; of this server, and never written.
        follow_seconds: between two looks at the registry and the keys.
        unsafe: the safeguards that were switched off, by name.
        labels: that tell the figures of this server from another's.
    """

    keys: Path
    audience: str
    secret: bytes = field(repr=False)
    issuers: tuple[TrustedKey, ...] = ()
    policy: Policy = DEFAULT
    limits: Limits = field(default_factory=Limits)
    doors: Doors = field(default_factory=Doors)
    decimals: int = 4
    batch: int = 64
    batch_seconds: float = 0.0
    log: Path | None = None
    log_bytes: int = MOST_BYTES
    follow_seconds: float = 1.0
    unsafe: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)


class Application:
    """An ASGI application that serves a model.

    Args:
        settings: how.
        models: what.
        lend: where budgets are borrowed.
        clock: seconds since 1970.
        timer: seconds of a clock that never goes back.

    Raises:
        InputError: the keys cannot be read.
    """

    def __init__(
        self,
        settings: Settings,
        models: Models,
        *,
        lend: Lend,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._keys = WatchedKeys(settings.keys)
        self.live = Live(models, batch=settings.batch, seconds=settings.batch_seconds, timer=timer)
        self.tally = Tally()
        self._budgets = Budgets(lend)
        self._log = AccessLog(
            settings.log, secret=settings.secret, clock=clock, most=settings.log_bytes
        )
        self._tasks: list[asyncio.Task[None]] = []
        reader = TokenReader(settings.issuers, audience=settings.audience)
        endpoints = Endpoints(
            self.live,
            tally=self.tally,
            decimals=settings.decimals,
            unsafe=settings.unsafe,
            ongoing=lambda: self.guard.ongoing,
            labels=settings.labels,
        )
        self.guard = Guard(
            endpoints.answer,
            doors=settings.doors,
            credentials=Credentials(
                lambda: self._keys.ring,
                tokens=reader if settings.issuers else None,
                clock=clock,
            ),
            policy=settings.policy,
            resource=self._resource,
            limits=settings.limits,
            budgets=self._budgets,
            tally=self.tally,
            log=self._log,
            timer=timer,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or starts and ends with its server."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await self.guard(scope, receive, send)

    async def start(self) -> None:
        """Loads the model and begins to follow; without a model it starts too, and says 503."""
        await self.live.refresh()
        every = self._settings.follow_seconds
        self._tasks = [
            asyncio.create_task(self.live.follow(every=every)),
            asyncio.create_task(self._follow_keys(every)),
        ]

    async def stop(self) -> None:
        """Ends what `start` began, and gives back what is left of lent budgets."""
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        with suppress(Exception):  # what cannot be given back is lost, as in a crash
            await asyncio.wait_for(self._budgets.give_back(), GIVING_BACK)
        self.live.close()
        self._log.close()

    def _resource(self) -> str:
        served = self.live.peek()
        return "model/none" if served is None else served.resource

    async def _follow_keys(self, every: float) -> None:
        said = ""
        while True:
            await asyncio.sleep(every)
            try:
                self._keys.refresh()
                said = ""
            except Exception as error:  # the keys stay as they were, and are looked at again
                new = str(error) if isinstance(error, InputError) else type(error).__name__
                if new != said:
                    said = new
                    LOG.error("%s", said)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self.start()
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return
