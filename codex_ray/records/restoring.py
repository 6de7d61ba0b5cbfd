"""From a copy elsewhere to a run directory here: one that is new, or one that has less."""

from __future__ import annotations

from pathlib import Path

from codex_ray.errors import RunDirectoryError
from codex_ray.records.checkpoint import HOME, from_bytes
from codex_ray.records.copied import Copy
from codex_ray.records.run_directory import RunDirectory, create_whole, write_atomically


def restore(copy: Copy, path: Path) -> RunDirectory:
    """A new run directory at `path` with what the copy holds.

    Raises:
        RunDirectoryError: there is something at `path`, the checkpoint in the copy cannot be read,
            or the disk refuses.
    """
    RunDirectory.check_free(path)
    directory = RunDirectory(path)
    try:
        directory.checkpoint.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunDirectoryError(f"{path}: cannot be made: {error.strerror or error}") from error
    refresh(copy, directory)
    # Last of all: only now is it the directory of a run.
    if not create_whole(directory.config, copy.config):
        raise RunDirectoryError(f"{path}: another run was begun there at the same moment")
    return directory


def refresh(copy: Copy, directory: RunDirectory) -> None:
    """Gives a run directory, which nobody writes to, the checkpoint and the lines of a copy.

    Raises:
        RunDirectoryError: the checkpoint cannot be read, or the disk refuses.
    """
    name = f"round-{copy.round:06d}.safetensors"
    from_bytes(copy.checkpoint, name=f"{name} in the copy", home=copy.home)
    write_atomically(directory.rounds, copy.lines)
    write_atomically(directory.checkpoint / HOME, copy.home.encode())
    write_atomically(directory.checkpoint / name, copy.checkpoint)
