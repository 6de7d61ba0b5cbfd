"""What a run's copies elsewhere are made of, and how the newest that is whole is found.

One file is one copy: the configuration, a checkpoint, and the lines of the rounds before it, whole
by its checksum or not at all. `run.json` names the last two and who writes them, so that nothing
depends on listings, which lag in some stores. Lines of many rounds are kept in files of their own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from codex_ray.errors import RunDirectoryError
from codex_ray.records.elsewhere import Elsewhere, is_address

HEAD: Final = "run.json"
FORMAT: Final = "codex_ray copies 1"
LISTED: Final = ("copy-", "rounds-")
"""How the names of the other files begin."""


@dataclass(frozen=True)
class Piece:
    """A file that is whole if it has this checksum."""

    name: str
    sha256: str

    def read(self, place: Elsewhere) -> bytes:
        """What it holds.

        Raises:
            RunDirectoryError: it is gone, or not what was written.
        """
        content = place.read(self.name)
        if content is None or hashlib.sha256(content).hexdigest() != self.sha256:
            what = "is gone" if content is None else "is not what was written"
            raise RunDirectoryError(f"{place.url}/{self.name}: {what}")
        return content


@dataclass(frozen=True)
class Copied(Piece):
    """A copy, and the files with the lines of rounds that are not in it.

    `round` and `step` are its state's `order`.
    """

    round: int
    step: int
    earlier: tuple[Piece, ...]

    @property
    def order(self) -> tuple[int, int]:
        """Of two copies of a run the larger is the later."""
        return self.round, self.step

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Copied:
        """The one that `run.json` tells of."""
        data = {"step": _step(data)} | {it: data[it] for it in data if it != "unsettled"}
        return cls(**(data | {"earlier": tuple(Piece(**it) for it in data["earlier"])}))

    def to_json(self) -> dict[str, Any]:
        """As `run.json` tells of it."""
        return dict(vars(self)) | {"earlier": [vars(it) for it in self.earlier]}


@dataclass(frozen=True)
class Head:
    """Whose copies these are, who writes them, and which there are, newest first."""

    home: str
    owner: str
    by: str
    replayable: bool
    copies: tuple[Copied, ...] = ()

    @classmethod
    def read(cls, place: Elsewhere) -> Head | None:
        """That of the copies at a place; None if there is none, or it is cut.

        Raises:
            RunDirectoryError: the place cannot be reached, or another version wrote there.
        """
        content = place.read(HEAD)
        try:
            data = json.loads(opened(content or b""))
            if data.pop("format") != FORMAT:
                raise RunDirectoryError(f"{place.url}/{HEAD}: was written by another version")
            copies = tuple(Copied.from_json(it) for it in data.pop("copies"))
            return cls(**data, copies=copies)
        except (ValueError, KeyError, TypeError):
            return None

    def to_bytes(self) -> bytes:
        """As it is kept."""
        data = dict(vars(self)) | {"copies": [it.to_json() for it in self.copies]}
        return sealed(json.dumps({"format": FORMAT} | data).encode())


@dataclass(frozen=True)
class Copy:
    """What a run goes on from elsewhere.

    Attributes:
        home: names the run.
        replayable: whether it has a seed.
        round: that comes next.
        step: how far that one was.
        config: the bytes of config.yaml.
        checkpoint: the bytes of the checkpoint.
        lines: of the rounds before the last.
        said: a line on everything newer that could not be read.
    """

    home: str
    replayable: bool
    round: int
    step: int
    config: bytes
    checkpoint: bytes
    lines: bytes
    said: tuple[str, ...] = ()

    @property
    def order(self) -> tuple[int, int]:
        """Of two copies of a run the larger is the later."""
        return self.round, self.step


def holds_copies(place: object) -> bool:
    """Whether a run's copies are meant: an address, or a folder of them, and no run directory."""
    if not isinstance(place, str | Path):
        return False
    return is_address(str(place)) or (Path(place) / HEAD).is_file()


def held_at(place: Elsewhere) -> tuple[int, int] | None:
    """The order of the newest copy at a place, whole or not; None if there is none.

    Raises:
        RunDirectoryError: the place cannot be reached.
    """
    head = Head.read(place)
    if head is not None:
        return head.copies[0].order if head.copies else None
    copy = newest(place) if _listed(place) else None
    return copy.order if copy is not None else None


def newest(place: Elsewhere) -> Copy:
    """The newest copy that is whole.

    Of a run without a seed it is the newest of all, or none: one from before does not know of what
    was released since.

    Raises:
        RunDirectoryError: there is none, or the place cannot be reached.
    """
    head, said = Head.read(place), list[str]()
    names: Sequence[str | Copied] = head.copies if head is not None else _listed(place)
    for one in names:
        try:
            copy = _whole(place, one)
        except RunDirectoryError as error:
            said.append(str(error))
            continue
        if head is None and not copy.replayable:
            raise RunDirectoryError(
                f"{place.url}/{HEAD}: is harmed, and nothing else says which copy is the newest: "
                "go on from the run directory, with other --checkpoints, or start a new run, and "
                "count both"
            )
        if said and not copy.replayable:
            raise RunDirectoryError(
                f"{said[0]}: the copy before it does not know what was released since, and "
                "without a seed it is not replayed: start a new run, and count both"
            )
        return replace(copy, said=tuple(said))
    if said:
        raise RunDirectoryError(f"{said[0]}; no other copy is left: start a new run")
    raise RunDirectoryError(f"{place.url}: holds no copy of a run, so there is nothing to resume")


def _listed(place: Elsewhere) -> list[str]:
    """The copies that there seem to be, newest first, where nothing tells of them."""
    return sorted((it for it in place.names() if it.startswith(LISTED[0])), reverse=True)


def _whole(place: Elsewhere, one: str | Copied) -> Copy:
    """A copy with all its lines.

    Raises:
        RunDirectoryError: it is gone, cut, or no copy, or the lines before it are.
    """
    name = one if isinstance(one, str) else one.name
    content = (place.read(name) or b"") if isinstance(one, str) else one.read(place)
    try:
        header, _, body = opened(content).partition(b"\n")
        about = json.loads(header)
        if about["format"] != FORMAT:
            raise RunDirectoryError(f"{place.url}/{name}: was written by another version")
        config, checkpoint, _ = about["parts"]
        earlier = [Piece(**piece) for piece in about["earlier"]]
        return Copy(
            home=about["home"],
            replayable=about["replayable"],
            round=about["round"],
            step=_step(about),
            config=body[:config],
            checkpoint=body[config : config + checkpoint],
            lines=b"".join(it.read(place) for it in earlier) + body[config + checkpoint :],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise RunDirectoryError(f"{place.url}/{name}: is no whole copy: {error}") from error


def _step(about: dict[str, Any]) -> int:
    """How far the next round was; earlier versions told how many cohorts had paid for it."""
    if "step" in about:
        return int(about["step"])
    paid = int(about["unsettled"])
    return 2 * paid + bool(paid)


def sealed(content: bytes) -> bytes:
    """The content after its checksum."""
    return hashlib.sha256(content).hexdigest().encode() + b"\n" + content


def opened(content: bytes) -> bytes:
    """What `_sealed` took.

    Raises:
        ValueError: it is not what it was.
    """
    told, _, rest = content.partition(b"\n")
    if told != hashlib.sha256(rest).hexdigest().encode():
        raise ValueError("its checksum is another")
    return rest
