"""The door: everything about a request that can be decided before its body is read.

An ASGI application in itself, because frameworks read and parse a body before anything of theirs
asks who sent it. In order, cheapest first: TLS, the address, the path and method, who it is, how
often, whether they may, how large, whether there is room. What is behind gets a `Call` that has
passed all of it; a stranger gets a word out of a fixed set, and nothing of what was sent.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from codex_ray.serving.access_log import AccessLog
from codex_ray.serving.addresses import Doors
from codex_ray.serving.body import (
    Disconnected,
    check_length,
    one_of_each,
    read_body,
    refuse_body,
)
from codex_ray.serving.buckets import Buckets, Lockout, Rate
from codex_ray.serving.budgets import Budgets
from codex_ray.serving.caller import Caller
from codex_ray.serving.credentials import Credentials
from codex_ray.serving.http import Receive, Refused, Reply, Scope, Send, later, send_reply
from codex_ray.serving.limits import Limits
from codex_ray.serving.metrics import Tally
from codex_ray.serving.policy import Decision, Policy
from codex_ray.serving.routes import PROBES, ROUTES, WEIGHTS, Route, allowed, find_route

LOG = logging.getLogger(__name__)
MOST_DECISIONS: Final = 1000
"""That are remembered; a token may name any roles."""
GONE: Final = 499
"""In the log, a caller who went away before there was an answer."""


@dataclass(frozen=True)
class Call:
    """A request that has passed the guard.

    Attributes:
        route: what is asked for.
        caller: who asks; None where anybody may.
        body: empty where the route takes none.
        charge: uses up records of the caller's budget; raises Refused where it has not so many.
    """

    route: Route
    caller: Caller | None
    body: bytes
    charge: Callable[[int], Awaitable[None]] = field(repr=False)


Answer: TypeAlias = Callable[[Call], Awaitable[Reply]]


@dataclass
class Course:
    """What has become known of a request, for the log and the reply."""

    https: bool = False
    address: str = ""
    route: Route | None = None
    caller: Caller | None = None
    decided_by: str | None = None
    decided_on: str | None = None
    body_left: bool = False
    place: ExitStack = field(default_factory=ExitStack)


class Guard:
    """Lets a request through to `answer`, or refuses it.

    Args:
        answer: what is behind.
        doors: how a request must have come, and from whom it came.
        credentials: who is believed to be whom.
        policy: who may do what.
        resource: what the policy calls the model that answers now.
        limits: how much of everything.
        budgets: of those callers that have one.
        tally: counts what became of each request.
        log: says so.
        timer: seconds of a clock that never goes back.
    """

    def __init__(
        self,
        answer: Answer,
        *,
        doors: Doors,
        credentials: Credentials,
        policy: Policy,
        resource: Callable[[], str],
        limits: Limits,
        budgets: Budgets,
        tally: Tally,
        log: AccessLog,
        timer: Callable[[], float],
    ) -> None:
        self._answer = answer
        self._doors = doors
        self._credentials = credentials
        self._policy = policy
        self._resource = resource
        self._limits = limits
        self._budgets = budgets
        self._tally = tally
        self._log = log
        self._timer = timer
        self._addresses = Buckets(limits.per_address)
        self._keys = Buckets(limits.per_key)
        self._lockout = Lockout(failures=limits.lockout_failures, seconds=limits.lockout_seconds)
        self._decided: dict[tuple[tuple[str, ...], str, str], Decision] = {}
        self._by_caller: Counter[str] = Counter()
        self.ongoing = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request of HTTP; anything else is turned away."""
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        course = Course()
        with course.place:
            await self._serve(scope, receive, send, course)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, course: Course) -> None:
        began, code = self._timer(), None
        try:
            reply = await self._reply(scope, receive, course)
        except Refused as refused:
            reply, code = refused.reply(), refused.code
        except Disconnected:
            self._tell(course, GONE, began, "disconnected")
            return
        except Exception as error:
            _say_where(error)
            reply, code = Refused(500, "internal").reply(), "internal"
        self._tell(course, reply.status, began, code)
        head = scope["method"] == "HEAD"
        await send_reply(send, reply, https=course.https, close=course.body_left, head=head)

    async def _reply(self, scope: Scope, receive: Receive, course: Course) -> Reply:
        course.body_left = scope["method"] not in ("GET", "HEAD")
        headers = one_of_each(scope["headers"])
        course.https = self._doors.https(scope, headers)
        course.address = self._doors.address(scope, headers)
        path = scope.get("raw_path") or scope["path"].encode()
        if path not in PROBES:
            self._check_address(course.address)
        if not course.https and not self._doors.insecure_http:
            raise Refused(403, "tls_required")
        course.route = route = find_route(path, scope["method"])
        if scope.get("query_string"):
            raise Refused(400, "no_query_here")
        if route.action is not None:
            self._check_caller(route, route.action, headers, course)
        if not route.supported:
            raise Refused(405, "method_not_allowed", headers={"allow": allowed(ROUTES[path])})
        if not route.reads_body:
            refuse_body(headers)
            course.body_left = False
            if route is WEIGHTS:  # to the end of the reply, which is large
                course.place.enter_context(self._room_for(course.caller))
            return await self._answer(self._call(course, b""))
        check_length(headers, most=self._limits.body_bytes)
        self._check_budget(course.caller)
        with self._room_for(course.caller):
            body = await read_body(
                receive, most=self._limits.body_bytes, seconds=self._limits.body_seconds
            )
            course.body_left = False
            if route.action is not None and course.decided_on != self._resource():
                self._check_policy(route.action, course)  # promoted while the body came
            return await self._answer(self._call(course, body))

    def _check_address(self, address: str) -> None:
        now = self._timer()
        if wait := self._lockout.wait(address, now):
            raise later(429, "locked_out", wait)
        if wait := self._addresses.take(address, now):
            raise later(429, "too_many_requests", wait)

    def _check_caller(
        self, route: Route, action: str, headers: dict[bytes, bytes], course: Course
    ) -> None:
        """Who it is, how often they came, and whether they may.

        Raises:
            Refused: 401, 429 or 403.
        """
        try:
            caller = self._credentials.caller(headers.get(b"authorization"))
        except Refused:
            if b"authorization" in headers:  # a page that asks without a key attacks nothing
                self._lockout.failed(course.address, self._timer())
            raise
        course.caller = caller
        self._lockout.succeeded(course.address)
        rate = None
        if caller.rate is not None:
            rate = Rate(caller.rate, max(1.0, 2 * caller.rate)).divided(self._limits.parts)
        if wait := self._keys.take(caller.id, self._timer(), rate=rate):
            raise later(429, "too_many_requests", wait)
        if not caller.in_scope(action):
            course.decided_by = "scope"
            raise Refused(403, "out_of_scope")
        self._check_policy(action, course)

    def _check_policy(self, action: str, course: Course) -> None:
        """Whether the policy lets the caller do that to the model that answers now.

        Raises:
            Refused: 403.
        """
        assert course.caller is not None  # who they are is known
        course.decided_on = self._resource()
        decision = self._decision(course.caller.roles, action, course.decided_on)
        course.decided_by = decision.words
        if not decision.allowed:
            raise Refused(403, "forbidden")

    def _decision(self, roles: tuple[str, ...], action: str, resource: str) -> Decision:
        """What the policy says, which is the same whenever it is asked the same."""
        asked = (roles, action, resource)
        if asked not in self._decided:
            if len(self._decided) >= MOST_DECISIONS:
                self._decided.clear()
            self._decided[asked] = self._policy.decide(roles, action, resource)
        return self._decided[asked]

    def _check_budget(self, caller: Caller | None) -> None:
        if caller is None or caller.budget is None:
            return
        if caller.budget < 1 or self._budgets.is_spent(caller.id, caller.budget):
            raise Refused(403, "budget_spent")

    @contextmanager
    def _room_for(self, caller: Caller | None) -> Iterator[None]:
        """A place among those that are served at a time.

        Raises:
            Refused: 503, there is none; 429, this caller has enough of them.
        """
        name = "" if caller is None else caller.id
        if self.ongoing >= self._limits.ongoing:
            raise later(503, "overloaded", 1)
        if self._by_caller[name] >= self._limits.ongoing_per_caller:
            raise later(429, "too_many_at_once", 1)
        self.ongoing += 1
        self._by_caller[name] += 1
        try:
            yield
        finally:
            self.ongoing -= 1
            self._by_caller[name] -= 1
            if not self._by_caller[name]:
                del self._by_caller[name]

    def _call(self, course: Course, body: bytes) -> Call:
        assert course.route is not None  # found before
        caller = course.caller

        async def charge(records: int) -> None:
            if caller is None or caller.budget is None:
                return
            if not await self._budgets.take(caller.id, records, caller.budget):
                raise Refused(403, "budget_spent")

        return Call(course.route, caller, body, charge)

    def _tell(self, course: Course, status: int, began: float, code: str | None) -> None:
        seconds = self._timer() - began
        route = "none" if course.route is None else course.route.name
        self._tally.answered(route, status, seconds, refusal=code)
        logged = self._log.write(
            route=route,
            status=status,
            seconds=seconds,
            caller=None if course.caller is None else course.caller.id,
            address=course.address,
            code=code,
            decided_by=course.decided_by,
            version=self._resource(),
        )
        self._tally.unlogged += not logged


def _say_where(error: BaseException) -> None:
    """Logs the type and place of an error that nobody foresaw; its text may hold what was sent."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = "" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
    LOG.error("a request failed: %s at %s", type(error).__name__, where)
