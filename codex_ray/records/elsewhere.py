"""A folder somewhere else: a path, a bucket, or whatever pyarrow or fsspec can reach.

`file://` and plain paths (an NFS mount is one) are written here, because only so can a file be
waited for, and replaced by its name. `s3://`, `gs://`, `abfs://` and `hdfs://` go through pyarrow,
which Ray brings, and which needs nothing else for them. Every other scheme goes to fsspec, where a
package for it may have to be installed. Who may write there is taken from the environment alone
(AWS_ACCESS_KEY_ID and its like, or the machine's own role): an address that has a secret in it is
refused, as addresses are written down.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlsplit

from codex_ray.errors import RunDirectoryError
from codex_ray.records.run_directory import create_whole, write_atomically

BY_ARROW = frozenset({"s3", "gs", "gcs", "abfs", "abfss", "hdfs"})
HARMLESS = frozenset({"region", "scheme", "endpoint_override"})
"""What may stand behind the question mark of an address."""


class Elsewhere(Protocol):
    """A folder of whole files. Every refusal is a RunDirectoryError that names the place."""

    url: str

    def read(self, name: str) -> bytes | None:
        """What a file holds; None if there is none."""
        ...

    def size(self, name: str) -> int:
        """How many bytes a file has; -1 if there is none."""
        ...

    def put(self, name: str, content: bytes) -> None:
        """Makes or replaces a file; a store of objects, and a local disk, replace it whole."""
        ...

    def create(self, name: str, content: bytes) -> bool:
        """Makes a file; False if somebody else's is there."""
        ...

    def delete(self, name: str) -> None:
        """Removes a file, if there is one."""
        ...

    def names(self) -> list[str]:
        """The files there are, in order; none where there is no folder."""
        ...


def elsewhere(url: str) -> Elsewhere:
    """The folder at an address.

    Raises:
        RunDirectoryError: it holds a secret, or nothing here knows how to reach it.
    """
    url = url.rstrip("/")
    scheme, path = check_address(url), urlsplit(url).path
    if scheme in ("", "file"):
        return _Folder(Path(path if scheme else url), url)
    try:
        if scheme in BY_ARROW:
            from pyarrow import fs as arrow

            reached, root = arrow.FileSystem.from_uri(url)
            return _Arrow(reached, root, url)
        from fsspec.core import url_to_fs  # type: ignore[import-untyped]  # nor has this

        reached, root = url_to_fs(url)
        return _Fsspec(reached, root, url)
    except Exception as error:  # whatever a library of others says about an address
        raise RunDirectoryError(f"{url}: cannot be reached: {_words(error)}") from error


def is_address(path: str) -> bool:
    """Whether this names a place by a scheme, and is no path."""
    return "://" in path


def place_of(path: str | Path) -> str:
    """An address as it is, and a path in full: as both are written down."""
    return str(path) if is_address(str(path)) else str(Path(path).absolute())


def check_address(url: str) -> str:
    """The scheme of an address that holds no secret.

    Raises:
        RunDirectoryError: it does.
    """
    if not is_address(url):
        if not url.startswith("/"):
            raise RunDirectoryError(f"{url}: is neither an address nor a whole path: write it out")
        return ""
    parts = urlsplit(url)
    said = {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)}
    container = parts.scheme in ("abfs", "abfss") and ":" not in parts.netloc.partition("@")[0]
    if ("@" in parts.netloc and not container) or not said <= HARMLESS:
        raise RunDirectoryError(
            f"{parts.scheme}://...: has more in it than a place: leave out names, passwords and "
            "keys, and give them by the environment"
        )
    return parts.scheme


class _Folder:
    """A local one, or one that is mounted."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url

    def read(self, name: str) -> bytes | None:
        with _telling(self.url, name, "read"):
            try:
                return (self.folder / name).read_bytes()
            except FileNotFoundError:
                return None

    def size(self, name: str) -> int:
        with _telling(self.url, name, "read"):
            try:
                return (self.folder / name).stat().st_size
            except FileNotFoundError:
                return -1

    def put(self, name: str, content: bytes) -> None:
        with _telling(self.url, name, "written"):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / name, content)

    def create(self, name: str, content: bytes) -> bool:
        with _telling(self.url, name, "written"):
            self.folder.mkdir(parents=True, exist_ok=True)
            return create_whole(self.folder / name, content)

    def delete(self, name: str) -> None:
        with _telling(self.url, name, "removed"):
            (self.folder / name).unlink(missing_ok=True)

    def names(self) -> list[str]:
        with _telling(self.url, "", "read"):
            if not self.folder.is_dir():
                return []
            return sorted(it.name for it in self.folder.iterdir() if not it.name.startswith("."))


class _Arrow:
    """One that pyarrow reaches. Its stores of objects show an object once it is closed."""

    def __init__(self, reached: Any, root: str, url: str) -> None:
        self._fs, self._root, self.url = reached, root.rstrip("/"), url

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def read(self, name: str) -> bytes | None:
        with _telling(self.url, name, "read"):
            if self._info(name).is_file:
                with self._fs.open_input_stream(self._at(name), compression=None) as stream:
                    return bytes(stream.read())
            return None

    def size(self, name: str) -> int:
        with _telling(self.url, name, "read"):
            about = self._info(name)
            return int(about.size) if about.is_file else -1

    def _info(self, name: str) -> Any:
        return self._fs.get_file_info(self._at(name))

    def put(self, name: str, content: bytes) -> None:
        with _telling(self.url, name, "written"):
            if self._fs.type_name in ("hdfs", "local"):
                self._fs.create_dir(self._root, recursive=True)
            with self._fs.open_output_stream(self._at(name), compression=None) as stream:
                stream.write(content)

    def create(self, name: str, content: bytes) -> bool:
        return _create_by_looking(self, name, content)

    def delete(self, name: str) -> None:
        with _telling(self.url, name, "removed"):
            if self._info(name).is_file:
                self._fs.delete_file(self._at(name))

    def names(self) -> list[str]:
        from pyarrow.fs import FileSelector

        with _telling(self.url, "", "read"):
            chosen = FileSelector(self._root, allow_not_found=True)
            return sorted(it.base_name for it in self._fs.get_file_info(chosen) if it.is_file)


class _Fsspec:
    """One that fsspec reaches."""

    def __init__(self, reached: Any, root: str, url: str) -> None:
        self._fs, self._root, self.url = reached, root.rstrip("/"), url

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def read(self, name: str) -> bytes | None:
        with _telling(self.url, name, "read"):
            self._fs.invalidate_cache()  # others write here too
            try:
                return bytes(self._fs.cat_file(self._at(name)))
            except FileNotFoundError:
                return None

    def size(self, name: str) -> int:
        with _telling(self.url, name, "read"):
            self._fs.invalidate_cache()
            try:
                return int(self._fs.info(self._at(name))["size"])
            except FileNotFoundError:
                return -1

    def put(self, name: str, content: bytes) -> None:
        with _telling(self.url, name, "written"):
            self._fs.makedirs(self._root, exist_ok=True)
            self._fs.pipe_file(self._at(name), content)

    def create(self, name: str, content: bytes) -> bool:
        with _telling(self.url, name, "written"):
            self._fs.makedirs(self._root, exist_ok=True)
            try:
                self._fs.pipe_file(self._at(name), content, mode="create")
            except FileExistsError:
                return False
            except (NotImplementedError, TypeError, ValueError):  # a store that cannot say "if"
                return _create_by_looking(self, name, content)
        return self.read(name) == content  # some stores take the mode, and do not know it

    def delete(self, name: str) -> None:
        with _telling(self.url, name, "removed"):
            if self.size(name) >= 0:
                self._fs.rm_file(self._at(name))

    def names(self) -> list[str]:
        with _telling(self.url, "", "read"):
            self._fs.invalidate_cache()
            try:
                found = self._fs.ls(self._root, detail=True)
            except FileNotFoundError:
                return []
            names = (str(it["name"]).rpartition("/")[2] for it in found if it["type"] == "file")
            return sorted(name for name in names if name)


def _create_by_looking(place: Elsewhere, name: str, content: bytes) -> bool:
    """The same where a store has no "only if there is none": look, write, and look who was last."""
    if place.size(name) >= 0:
        return False
    place.put(name, content)
    return place.read(name) == content


@contextmanager
def _telling(url: str, name: str, what: str) -> Iterator[None]:
    """Whatever goes wrong in the block, told as one line with the place in it.

    Raises:
        RunDirectoryError: something did.
    """
    try:
        yield
    except RunDirectoryError:
        raise
    except Exception as error:  # each library of others has a tree of errors of its own
        raise RunDirectoryError(f"{url}/{name}: cannot be {what}: {_words(error)}") from error


def _words(error: Exception) -> str:
    return " ".join((str(error).strip() or type(error).__name__).split())
