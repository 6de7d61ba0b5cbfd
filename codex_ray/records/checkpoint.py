"""Checkpoints: a server state as one safetensors file, replaced whole or not at all.

A process that dies loses nothing. That a machine does not either takes a disk that is waited for,
some milliseconds a time. A run that can be replayed to the bit waits about once a second: a machine
that goes down costs it that second's work. One that cannot waits each time, because what it has
released is released.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from codex_ray.errors import PrivacyError, RunDirectoryError
from codex_ray.federation.state import RoundResult, ServerState, Totals
from codex_ray.privacy.ledger import Ledger
from codex_ray.records import reservations
from codex_ray.records.ownership import Claim
from codex_ray.records.reservations import Cohorts
from codex_ray.records.run_directory import unwritable, write_atomically

KEPT = 2
FORMAT = "codex_ray checkpoint 1"
REPLAYED = 1.0
"""Seconds of rounds that a run which can be replayed may lose with its machine."""
HOME = "home"
"""The file beside the checkpoints that says whose they are: two runs may have the same seed."""
ASIDE = "aside-"
"""How the name of a checkpoint begins that is not gone on from."""
NAMED = re.compile(r"round-(\d{6,})\.safetensors")


class Copying(Protocol):
    """Where checkpoints go as well."""

    def offer(self, state: ServerState, content: bytes) -> None:
        """Takes the content of a checkpoint; where it has to be there, it is when this returns."""
        ...


@dataclass(frozen=True)
class Recovered:
    """What a run goes on from.

    Attributes:
        state: of the newest checkpoint that is whole.
        said: a line on each newer one that is not.
        owed: cohorts that paid for something after that state, and have to pay again.
        harmed: the newer checkpoints.
    """

    state: ServerState
    said: list[str] = field(default_factory=list)
    owed: Cohorts = field(default_factory=list)
    harmed: tuple[Path, ...] = ()


class Checkpoints:
    """The states of a run after its last rounds, the newest of which it resumes from."""

    def __init__(
        self,
        folder: Path,
        *,
        replayable: bool = False,
        clock: Callable[[], float] = time.monotonic,
        claim: Claim | None = None,
        journal: Path | None = None,
        copies: Copying | None = None,
    ) -> None:
        """Those in a folder.

        Args:
            folder: that holds them.
            replayable: whether losing a second's rounds loses nothing but the second.
            clock: tells seconds.
            claim: the right to write them; None where nobody else can.
            journal: the lines of rounds, which a checkpoint that the disk has may count on.
            copies: where they go as well.
        """
        self._folder = folder
        self._replayable = replayable
        self._clock = clock
        self._check = claim.check if claim is not None else _allowed
        self._journal, self._journal_size = journal, -1
        self._copies = copies
        self._waited: tuple[Path, float] | None = None
        self._home: str | None = None
        self._found: dict[str, tuple[int, int]] | None = None

    def begin(self, state: ServerState) -> None:
        """Persists the state before round 0, and that what follows is of one run.

        Raises:
            RunDirectoryError: the disk refuses.
        """
        self._settle()
        self.save(state)

    def save(self, state: ServerState) -> None:
        """Persists the state and lets go of the oldest, but never of the last that is on disk.

        Raises:
            RunDirectoryError: the disk refuses, or another process goes on with the run; the
                earlier checkpoints are kept.
        """
        content = to_bytes(state, home=self.home())
        file = self._folder / f"round-{state.round:06d}.safetensors"
        wait = not self._replayable or self._last_wait() >= REPLAYED
        self._refuse_strangers()
        if not self._replayable:
            reservations.note(self._folder, state, before=self._check)
        if wait:
            self._wait_for_journal()
        write_atomically(file, content, sync=wait, before=self._check)
        if wait:
            self._waited = (file, self._clock())
        try:
            self._let_go()
        except OSError as error:
            raise unwritable(self._folder, error) from error
        if self._copies is not None:
            self._copies.offer(state, content)

    def load(self) -> ServerState:
        """The newest state that is whole.

        Raises:
            RunDirectoryError: there is none.
        """
        return next(self._whole([]))[1]

    def recover(self) -> Recovered:
        """What the run goes on from, and what it is to be told and to pay; see `put_aside`.

        A run with a seed goes back to the last good one, and draws again what it drew. It also
        does where the newest counts on lines of the journal that went down with the machine.

        One without a seed has released what it has released. The checkpoint before the newest
        does not know of the newest's reservation, so that one is read from where it stands a
        second time, and has to be paid for again. Where that is harmed too, nobody knows who
        would have to pay, and the run is refused.

        Raises:
            RunDirectoryError: no checkpoint is whole, or what was released since is not known.
        """
        said: list[str] = []
        if not self.home():  # it was begun by an earlier version
            self._settle()
        files = self._files()
        found = self._whole(said)
        file, state = next(found)
        lines = self._lines() if self._replayable else math.inf
        if lines < state.round - 1:
            for earlier, older in found:
                if lines >= older.round - 1:
                    said.append(f"{file}: counts on lines that rounds.jsonl has lost")
                    file, state = earlier, older
                    break
        owed: Cohorts = []
        newest = _number(files[-1])
        if file != files[-1] and not self._replayable:
            owed = reservations.owed_since(self._folder, state, newest=newest)
        if not self._replayable:
            self._found = self._listing()
        words = [f"{it}: going back to the checkpoint before round {state.round}" for it in said]
        return Recovered(state, words, owed, tuple(files[files.index(file) + 1 :]))

    def put_aside(self, found: Recovered, state: ServerState) -> None:
        """Leaves what was harmed behind, once what it paid for is paid for in `state`, on disk.

        Raises:
            RunDirectoryError: the disk refuses.
        """
        if found.owed:
            self.save(state)
        try:
            for file in found.harmed:
                # Not deleted: whoever wants to know what harmed it can look.
                file.replace(file.with_name(f"{ASIDE}{file.name}"))
        except OSError as error:
            raise unwritable(self._folder, error) from error
        if self._found is not None:
            self._found = self._listing()

    def home(self) -> str:
        """What the checkpoints of this very run say, and nobody else's; nothing in older ones."""
        if self._home is None:
            try:
                self._home = (self._folder / HOME).read_text().strip()
            except OSError:
                self._home = ""
        return self._home

    def _settle(self) -> None:
        """Gives the run a name that no other has."""
        self._home = os.urandom(16).hex()
        write_atomically(self._folder / HOME, self._home.encode())

    def _last_wait(self) -> float:
        """Seconds since the disk was waited for."""
        return self._clock() - self._waited[1] if self._waited is not None else REPLAYED

    def _let_go(self) -> None:
        """Removes all but the last, and the last that the disk was waited for."""
        files = self._files()
        for old in files[:-KEPT]:
            if self._waited is None or old != self._waited[0]:
                old.unlink()
        if not self._replayable:
            reservations.forget(self._folder, before=_number(files[-KEPT:][0]))

    def _wait_for_journal(self) -> None:
        """Has the disk hold every line so far: without them a checkpoint is half a run."""
        if self._journal is None or not self._journal.exists():
            return
        try:
            descriptor = os.open(self._journal, os.O_RDONLY)
            try:
                size = os.fstat(descriptor).st_size
                if size != self._journal_size:
                    os.fsync(descriptor)
                    self._journal_size = size
            finally:
                os.close(descriptor)
        except OSError as error:
            raise unwritable(self._journal, error) from error

    def _lines(self) -> float:
        """How many rounds the journal tells of without a gap; all of them where there is none."""
        if self._journal is None or not self._journal.exists():
            return math.inf
        number = 0
        for line in self._journal.read_bytes().splitlines(keepends=True):
            try:
                if not line.endswith(b"\n") or json.loads(line)["round"] != number:
                    break
            except (ValueError, KeyError, TypeError):
                break
            number += 1
        return number

    def _refuse_strangers(self) -> None:
        """Returns if the checkpoints are those that were read; asked once, where it matters.

        A file system without locks lets a writer that was overtaken finish the one file that it
        was at. What that file pays for must not be forgotten.

        Raises:
            RunDirectoryError: they are others.
        """
        if self._found is None:
            return
        if self._listing() != self._found:
            raise RunDirectoryError(
                f"{self._folder.parent}: another process wrote a checkpoint while this one began: "
                "resume it once more"
            )
        self._found = None

    def _listing(self) -> dict[str, tuple[int, int]]:
        about = {file.name: file.stat() for file in self._files()}
        return {name: (it.st_ino, it.st_mtime_ns) for name, it in about.items()}

    def _whole(self, said: list[str]) -> Iterator[tuple[Path, ServerState]]:
        """Each checkpoint that is whole, newest first; of the others a line is added to `said`.

        Raises:
            RunDirectoryError: there is none.
        """
        files = self._files()
        any_whole = False
        for file in reversed(files):
            try:
                state = from_bytes(_content(file), name=str(file), home=self.home())
            except RunDirectoryError as error:
                said.append(str(error))
                continue
            any_whole = True
            yield file, state
        if not any_whole:
            none = f"{self._folder}: holds no checkpoint, so there is nothing to resume"
            lost = f"{said[0]}; no other is left: start a new run" if said else none
            raise RunDirectoryError(lost)

    def _files(self) -> list[Path]:
        """Those there are, oldest first; none where there is no folder."""
        try:
            found = list(self._folder.iterdir())
        except FileNotFoundError:
            return []
        return sorted((file for file in found if NAMED.fullmatch(file.name)), key=_number)


def to_bytes(state: ServerState, *, home: str = "") -> bytes:
    """The state as a checkpoint, with its checksum.

    Args:
        state: to be gone on from.
        home: says which run's it is.
    """
    about = {
        "format": FORMAT,
        "home": home,
        "run": state.run.hex(),
        "round": state.round,
        "ledgers": [ledger.to_json() for ledger in state.ledgers],
        "mechanism": list(state.mechanism),
        "plan": state.plan,
        "totals": state.totals.to_json(),
        "last": state.last.to_json() if state.last is not None else None,
    }
    tensors = {"params": state.params, "optimiser": state.optimiser}
    words = json.dumps(about)
    return save(tensors, metadata={"state": words, "sha256": _digest(words, tensors)})


def from_bytes(content: bytes, *, name: str, home: str = "") -> ServerState:
    """The state that a checkpoint holds.

    Args:
        content: of the checkpoint.
        name: of the file, for messages.
        home: the run that it has to be of; nothing where that is not known.

    Raises:
        RunDirectoryError: it is cut, garbled, or of another run or version.
    """
    try:
        metadata = _metadata(content)
        about = json.loads(metadata["state"])
        tensors = load(content)
        if metadata.get("sha256", "") not in ("", _digest(metadata["state"], tensors)):
            raise ValueError("its checksum is another")
        if about["format"] != FORMAT:
            raise RunDirectoryError(f"{name}: was written by another version ({about['format']})")
        if home and (about.get("home") or home) != home:
            raise RunDirectoryError(f"{name}: is a checkpoint of another run")
        return ServerState(
            run=bytes.fromhex(about["run"]),
            round=int(about["round"]),
            params=tensors["params"].to(torch.float32),
            optimiser=tensors["optimiser"].to(torch.float64),
            ledgers=[Ledger.from_json(data) for data in about["ledgers"]],
            mechanism=tuple(float(number) for number in about.get("mechanism", ())),
            plan=about.get("plan", ""),
            totals=Totals.from_json(about["totals"]),
            last=RoundResult(**about["last"]) if about["last"] is not None else None,
        )
    except (SafetensorError, KeyError, TypeError, ValueError, PrivacyError) as error:
        raise RunDirectoryError(
            f"{name}: is no readable checkpoint ({type(error).__name__}: {error})"
        ) from error


def _allowed() -> None:
    """Whoever is alone needs no leave."""


def _number(file: Path) -> int:
    """The round that a checkpoint is before."""
    found = NAMED.fullmatch(file.name)
    assert found is not None
    return int(found[1])


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise RunDirectoryError(f"{file}: cannot be read: {error.strerror or error}") from error


def _metadata(content: bytes) -> dict[str, str]:
    """What stands beside the tensors of a safetensors file.

    Raises:
        ValueError, KeyError, TypeError: nothing does.
    """
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    return dict(header["__metadata__"])


def _digest(words: str, tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 of all that a checkpoint holds; those of earlier versions had none."""
    found = hashlib.sha256(words.encode())
    for name in sorted(tensors):
        found.update(tensors[name].contiguous().numpy().data)
    return found.hexdigest()
