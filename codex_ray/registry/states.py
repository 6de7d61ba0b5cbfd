"""What follows from the events: each version's state, and which one is in which stage.

registered -> promoted -> superseded, and from each of them -> revoked, for good. A stage is a
stack: promoting lays a version on top, rolling back takes off the top and what is revoked below
it, down to the version that was promoted before. No state is stored: it is always derived, so
nobody can change one without a signed event.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

from codex_ray.registry.events import Event
from codex_ray.registry.refusals import RegistryError, TamperError

PRODUCTION: Final = "production"
StateName = Literal["registered", "promoted", "superseded", "revoked"]


@dataclass(frozen=True)
class Version:
    """A version as the events leave it.

    Attributes:
        stages: those that it is in now.
        unsafe: the unsafe switches with which it came to any of them.
        reason: why it is revoked.
        by: the fingerprint of the key that registered it.
    """

    name: str
    version: int
    manifest_sha256: str
    state: StateName
    registered: str
    by: str
    stages: tuple[str, ...] = ()
    unsafe: tuple[str, ...] = ()
    reason: str | None = None

    @property
    def label(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True)
class Promotion:
    """That a version was put into a stage, and with which unsafe switches."""

    version: int
    unsafe: tuple[str, ...]


@dataclass
class States:
    """The fold over a checked chain; `of` says of which registry, for messages."""

    of: str
    _registered: dict[tuple[str, int], Event] = field(default_factory=dict)
    _runs: dict[tuple[str, str], int] = field(default_factory=dict)
    _revoked: dict[tuple[str, int], str] = field(default_factory=dict)
    _stacks: dict[tuple[str, str], list[Promotion]] = field(default_factory=dict)
    _promoted: set[tuple[str, int]] = field(default_factory=set)

    def applied(self, events: Iterable[Event]) -> States:
        """These states, after `events` as well.

        Raises:
            TamperError: an event is signed, but nothing that the rules allow.
        """
        for event in events:
            try:
                self._apply(event)
            except RegistryError as error:
                raise TamperError(f"{self.of}: event {event.number}: {error}") from None
        return self

    def versions(self, name: str | None = None) -> list[Version]:
        """Every version (of a name), in the order of names and numbers."""
        return [
            self.version(*key) for key in sorted(self._registered) if name is None or key[0] == name
        ]

    def version(self, name: str, number: int) -> Version:
        """A version as it is now.

        Raises:
            RegistryError: there is none of that number.
        """
        key = (name, number)
        event = self._registered.get(key)
        if event is None:
            raise RegistryError(f"{name}@{number}: {self._known(name)}")
        tops = {s: st[-1] for (n, s), st in sorted(self._stacks.items()) if n == name and st}
        held = {stage: top for stage, top in tops.items() if top.version == number}
        state: StateName = "registered"
        if key in self._revoked:
            state, held = "revoked", {}
        elif held:
            state = "promoted"
        elif key in self._promoted:
            state = "superseded"
        assert event.manifest is not None and event.signature is not None  # _apply and parsed
        return Version(
            name=name,
            version=number,
            manifest_sha256=event.manifest,
            state=state,
            registered=event.at,
            by=event.signature.key,
            stages=tuple(held),
            unsafe=tuple(sorted({switch for top in held.values() for switch in top.unsafe})),
            reason=self._revoked.get(key),
        )

    def chosen(self, name: str, number: int | None, *, stage: str) -> Version:
        """The version of that number; without one, what is in a stage.

        Raises:
            RegistryError: there is none, and what to do about it.
        """
        self.check_name(name)
        if number is not None:
            return self.version(name, number)
        stack = self._stacks.get((name, stage))
        if not stack:
            raise RegistryError(
                f"{name}: nothing is in {stage}: codex-ray models promote {name}@"
                f"{self.last_number(name)}"
            )
        top = stack[-1].version
        if (name, top) in self._revoked:
            raise RegistryError(
                f"{name}: {name}@{top} was in {stage} and is revoked: codex-ray models rollback "
                f"{name}, or promote another version"
            )
        return self.version(name, top)

    def of_run(self, name: str, run_digest: str) -> int | None:
        """The version that a run already is."""
        return self._runs.get((name, run_digest))

    def last_number(self, name: str) -> int:
        """The highest number of a name; 0 where there is none."""
        return max((number for known, number in self._registered if known == name), default=0)

    def current(self, name: str, stage: str) -> Promotion | None:
        """What is in a stage; None if nothing is, or what is there is revoked."""
        stack = self._stacks.get((name, stage))
        if not stack or (name, stack[-1].version) in self._revoked:
            return None
        return stack[-1]

    def before(self, name: str, stage: str) -> Promotion:
        """What rolling back leads to.

        Raises:
            RegistryError: nothing was promoted before that is not revoked.
        """
        for promotion in reversed(self._stacks.get((name, stage), [])[:-1]):
            if (name, promotion.version) not in self._revoked:
                return promotion
        self.check_name(name)
        raise RegistryError(
            f"{name}: nothing was in {stage} before that is not revoked: promote another version"
        )

    def check_name(self, name: str) -> None:
        """Refuses a name of which there is no version.

        Raises:
            RegistryError: naming those that there are.
        """
        if not self.last_number(name):
            raise RegistryError(f"{name}: {self._known(name)}")

    def check_promotable(self, name: str, number: int) -> None:
        """Refuses what can never be promoted again.

        Raises:
            RegistryError: there is no such version, or it is revoked.
        """
        found = self.version(name, number)
        if found.state == "revoked":
            raise RegistryError(f"{found.label}: is revoked ({found.reason}), and stays so")

    def _known(self, name: str) -> str:
        numbers = sorted(number for known, number in self._registered if known == name)
        if numbers:
            return f"there is no such version in {self.of}: it has {_short(numbers)}"
        names = sorted({known for known, _ in self._registered})
        there = f"there are {_short(names)}" if names else "it is empty"
        return f"there is no model of that name in {self.of}: {there}"

    def _apply(self, event: Event) -> None:
        if event.kind == "created":
            return
        if event.name is None:
            raise RegistryError("it names no model")
        if event.kind == "registered":
            self._register(event, event.name)
        elif event.kind == "revoked":
            self._revoke(event, event.name)
        else:
            self._move(event, event.name)

    def _register(self, event: Event, name: str) -> None:
        number = self.last_number(name) + 1
        if event.version != number or event.manifest is None or event.run_digest is None:
            raise RegistryError(f"{name}@{event.version} is registered, and {number} comes next")
        if (name, event.run_digest) in self._runs:
            raise RegistryError(f"{name}@{number} is a run that is registered already")
        self._registered[name, number] = event
        self._runs[name, event.run_digest] = number

    def _revoke(self, event: Event, name: str) -> None:
        if event.version is None or not event.reason:
            raise RegistryError("something is revoked without a version or a reason")
        self.check_promotable(name, event.version)
        self._revoked[name, event.version] = event.reason

    def _move(self, event: Event, name: str) -> None:
        if event.version is None or event.stage is None:
            raise RegistryError("something is promoted without a version or a stage")
        self.check_promotable(name, event.version)
        stack = self._stacks.setdefault((name, event.stage), [])
        if event.kind == "rolled back":
            target = self.before(name, event.stage)
            if target.version != event.version:
                raise RegistryError(
                    f"{name} is rolled back to {event.version}, and was {target.version} before"
                )
            while stack[-1] is not target:
                stack.pop()
        else:
            stack.append(Promotion(event.version, event.unsafe))
        self._promoted.add((name, event.version))


def _short(known: Iterable[object], *, most: int = 10) -> str:
    """Them all in a line, or the last few where they are many."""
    found = [str(one) for one in known]
    return ", ".join(found) if len(found) <= most else f"..., {', '.join(found[-most:])}"
