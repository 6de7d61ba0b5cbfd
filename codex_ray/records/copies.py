"""Keeps a run's checkpoints elsewhere as well, for another machine to go on from.

A run without a seed has a copy before anything is asked of anyone and before anything is published.
One with a seed is not kept waiting: it is copied at its side, about once a second, and at its end.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from codex_ray.errors import RunDirectoryError
from codex_ray.federation.state import ServerState
from codex_ray.records.copied import (
    FORMAT,
    HEAD,
    LISTED,
    Copied,
    Head,
    Piece,
    newest,
    sealed,
)
from codex_ray.records.elsewhere import Elsewhere
from codex_ray.records.ownership import new_owner, this_process
from codex_ray.records.run_directory import RunDirectory

LOG = logging.getLogger(__name__)
KEPT: Final = 2
EVERY: Final = 1.0
"""Seconds between two copies at the side of a run."""
SEGMENT: Final = 256
"""So many lines of rounds get a file of their own, so that no copy has more."""
PAUSES: Final = (0.2, 1.0)
"""Seconds before a copy that has to be there is tried again."""
PATIENCE: Final = 60.0
"""Seconds for the last copy of a run that has ended."""


class TakenOverError(RunDirectoryError):
    """Another process writes the copies now."""


class Copies:
    """Writes the copies of one run, and lets nobody else do so unnoticed."""

    def __init__(
        self,
        place: Elsewhere,
        directory: RunDirectory,
        *,
        home: str,
        replayable: bool,
        every: float = EVERY,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """Those of the run in `directory`; `home` names it in its checkpoints."""
        self._place, self._directory = place, directory
        self._head = Head(home, new_owner(), this_process(), replayable)
        self._every, self._pause = every, pause
        self._segments: list[Piece] = []
        self._told, self._offset = 0, 0
        self._next: tuple[ServerState, bytes] | None = None
        self._ready = threading.Condition()
        self._closing, self._behind = False, False
        self._overtaken: TakenOverError | None = None
        self._beside: threading.Thread | None = None

    def begin(self) -> None:
        """Takes the place for a run that begins.

        Raises:
            RunDirectoryError: it has copies of another, or cannot be written.
        """
        found = self._place.names()
        if any(name == HEAD or name.startswith(LISTED) for name in found):
            raise RunDirectoryError(
                f"{self._place.url}: holds another run: choose another --checkpoints, or go on "
                f"with --resume {self._place.url}"
            )
        if not self._place.create(HEAD, self._head.to_bytes()):
            raise RunDirectoryError(
                f"{self._place.url}: another run was begun there at the same moment"
            )

    def go_on(self, state: ServerState) -> None:
        """Takes the place over for a run that goes on from `state`.

        Raises:
            RunDirectoryError: it has copies of another run, or newer ones, or cannot be written.
        """
        held = Head.read(self._place)
        if held is None:
            if self._place.read(HEAD) is None and not self._place.names():
                self.begin()
                return
            copy = newest(self._place)
            held = Head(copy.home, "", "", copy.replayable)
        if held.home != self._head.home:
            raise RunDirectoryError(
                f"{self._place.url}: holds another run: choose another --checkpoints"
            )
        if held.copies and held.copies[0].order > state.order:
            raise RunDirectoryError(
                f"{self._place.url}: has round {held.copies[0].round}, and "
                f"{self._directory.path} only {state.round}: another process went on from there: "
                f"use --resume {self._place.url}"
            )
        self._write_head(held.copies)
        if Head.read(self._place) != self._head:
            raise TakenOverError(f"{self._place.url}: another process goes on with this run")

    def offer(self, state: ServerState, content: bytes) -> None:
        """Copies a checkpoint: at once for a run without a seed, else at its side.

        Raises:
            RunDirectoryError: another process writes the copies, or one that has to be there
                cannot be.
        """
        if self._overtaken is not None:
            raise self._overtaken
        if not self._head.replayable:
            try:
                self._patiently(state, content)
            except TakenOverError:
                raise
            except RunDirectoryError as error:
                raise RunDirectoryError(
                    f"{error}: without a seed nothing goes on before its copy is there: when it "
                    f"can be, codex-ray run --resume {self._directory.path}"
                ) from error
            return
        with self._ready:
            self._next = state, content
            self._ready.notify()
        if self._beside is None:
            self._beside = threading.Thread(target=self._work, name="copies", daemon=True)
            self._beside.start()

    def close(self) -> None:
        """Waits for the last copy."""
        with self._ready:
            self._closing = True
            self._ready.notify()
        if self._beside is not None:
            self._beside.join(PATIENCE)
            if self._beside.is_alive():
                LOG.warning("%s: does not answer: the last copy may be missing", self._place.url)

    def _patiently(self, state: ServerState, content: bytes) -> None:
        """One copy, tried again after a moment, and once more.

        Raises:
            RunDirectoryError: it was all in vain, or another process writes the copies.
        """
        for pause in PAUSES:
            try:
                self._copy(state, content)
                return
            except TakenOverError:
                raise
            except RunDirectoryError:
                self._pause(pause)
        self._copy(state, content)

    def _work(self) -> None:
        """Copies the newest of what is offered, until the run ends."""
        while True:
            with self._ready:
                self._ready.wait_for(lambda: self._next is not None or self._closing)
                if self._next is None:
                    return
                (state, content), self._next = self._next, None
                last = self._closing
            try:
                (self._patiently if last else self._copy)(state, content)
                self._behind = False
            except TakenOverError as error:
                self._overtaken = error
                return
            except RunDirectoryError as error:
                if last or not self._behind:
                    LOG.warning("%s: the run goes on, but its copies are behind", error)
                if last:
                    return
                self._behind = True
                with self._ready:
                    self._next = self._next or (state, content)
            with self._ready:
                self._ready.wait_for(lambda: self._closing, timeout=self._every)

    def _copy(self, state: ServerState, content: bytes) -> None:
        """One copy: written, looked at, and only then named as the newest.

        Raises:
            RunDirectoryError: it could not be; those before it are as they were.
        """
        self._check()
        try:
            lines = self._lines_before(state.round - 1)
            parts = [self._directory.config.read_bytes(), content, lines]
        except OSError as error:  # the run directory may be on a disk that is mounted
            raise RunDirectoryError(
                f"{self._directory.path}: cannot be read: {error.strerror or error}"
            ) from error
        order = dict(zip(("round", "step"), state.order, strict=True))
        about = {
            "format": FORMAT,
            "home": self._head.home,
            "replayable": self._head.replayable,
            **order,
            "parts": [len(part) for part in parts],
            "earlier": [vars(it) for it in self._segments],
        }
        whole = sealed(b"\n".join([json.dumps(about).encode(), b"".join(parts)]))
        name = f"copy-{state.round:06d}-{order['step']:02d}-{self._head.owner[:8]}"
        piece = self._put(name, whole)
        made = Copied(piece.name, piece.sha256, earlier=tuple(self._segments), **order)
        before = [it for it in self._head.copies if it.name != made.name]
        self._check()
        self._write_head((made, *before[: KEPT - 1]))

    def _lines_before(self, number: int) -> bytes:
        """The lines of rounds before `number` that no file has yet; many get one of their own."""
        file = self._directory.rounds
        if not file.exists():
            return b""
        with file.open("rb") as opened:
            opened.seek(self._offset)
            lines = opened.read().splitlines(keepends=True)[: max(0, number - self._told)]
        content = b"".join(lines)
        if len(lines) < SEGMENT:
            return content
        last = self._told + len(lines) - 1
        name = f"rounds-{self._told:06d}-{last:06d}-{self._head.owner[:8]}"
        self._segments.append(self._put(name, content))
        self._told, self._offset = last + 1, self._offset + len(content)
        return b""

    def _put(self, name: str, content: bytes) -> Piece:
        """The file, which has as many bytes there as here.

        Raises:
            RunDirectoryError: it has not, or it could not be written.
        """
        self._place.put(name, content)
        arrived = self._place.size(name)
        if arrived != len(content):
            raise RunDirectoryError(
                f"{self._place.url}/{name}: {max(0, arrived)} of {len(content)} bytes arrived"
            )
        return Piece(name, hashlib.sha256(content).hexdigest())

    def _check(self) -> None:
        """Returns if we write the copies still.

        Raises:
            TakenOverError: somebody else does.
        """
        held = Head.read(self._place)
        if held is not None and held.owner != self._head.owner:
            raise TakenOverError(
                f"{self._place.url}: {held.by} goes on with this run now: this process stops, and "
                "has copied nothing since"
            )

    def _write_head(self, copies: tuple[Copied, ...]) -> None:
        """Names the copies there are, and lets go of those that it no longer names."""
        before, self._head = self._head, replace(self._head, copies=copies)
        self._place.put(HEAD, self._head.to_bytes())
        for name in _files(before.copies) - _files(copies):
            try:
                self._place.delete(name)
            except RunDirectoryError as error:
                LOG.warning("%s: it stays there", error)


def _files(copies: tuple[Copied, ...]) -> set[str]:
    """The names of all that these copies are made of."""
    return {it.name for copy in copies for it in (copy, *copy.earlier)}
