"""The files that MNIST and its kin come in, read strictly: IDX, packed or not, and NumPy's .npz.

An IDX file is two zero bytes, the type of a value, the number of axes, each axis's length as a
big-endian 32-bit integer, and the values (http://yann.lecun.com/exdb/mnist). Only unsigned bytes
are read here, which grey levels and labels are.
"""

from __future__ import annotations

import gzip
import math
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from codex_ray.data.unknown_name import did_you_mean
from codex_ray.errors import DataError

Bytes = npt.NDArray[np.uint8]

_UNSIGNED_BYTE = 8
_WHAT = {1: "labels [n]", 3: "images [n, rows, columns]"}


def read_idx(path: Path, *, axes: int, field: str) -> Bytes:
    """The values of an IDX file of unsigned bytes with so many axes, in its shape.

    Args:
        path: the file, unpacked if its name ends in .gz.
        axes: how many axes it must have: 3 for images, 1 for labels.
        field: dotted key of the configuration field that names the file, for the messages.

    Raises:
        DataError: there is no such file, it is not IDX, has other axes or values of another type,
            or is longer or shorter than it says.
    """
    held = _contents(path, field)
    if len(held) < 4 or held[:2] != b"\0\0":
        raise DataError(
            f"{field}: {path} is no IDX file, which begins with two zero bytes: name the file "
            "as it was published, ending in .gz if it is packed"
        )
    kind, found = held[2], held[3]
    if kind != _UNSIGNED_BYTE or found != axes:
        raise DataError(
            f"{field}: {path} holds values of type {kind:#04x} on {found} axes, not unsigned bytes "
            f"(0x08) on {axes}: name the file of the {_WHAT[axes]}"
        )
    start = 4 + 4 * axes
    if len(held) < start:
        raise DataError(f"{field}: {path} ends within its header: get the file again")
    shape = struct.unpack(f">{axes}I", held[4:start])
    expected = math.prod(shape)
    if len(held) - start != expected:
        raise DataError(
            f"{field}: {path} says that it holds {' x '.join(map(str, shape))} values, which are "
            f"{expected} bytes, but {len(held) - start} follow: get the file again"
        )
    return np.frombuffer(held, np.uint8, offset=start).reshape(shape)


def read_npz(path: Path, *, field: str) -> tuple[Bytes, Bytes]:
    """Images [n, rows, columns] and labels [n] of an .npz file with arrays of these two names.

    Raises:
        DataError: there is no such file, it cannot be read, an array is missing, or one has other
            axes or values of another type.
    """
    if not path.is_file():
        raise _no_file(path, field)
    try:
        # Nothing in the file is ever run: an array of Python objects is refused.
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in ("images", "labels")}
    except KeyError:
        raise DataError(
            f"{field}: {path} holds the arrays {', '.join(arrays.files) or 'none'}: it needs "
            "images [n, rows, columns] and labels [n]"
        ) from None
    except (
        OSError,
        ValueError,
        TypeError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
        AttributeError,
    ) as error:
        raise DataError(
            f"{field}: {path} cannot be read as .npz ({error}): save it anew"
        ) from error
    for name, axes in (("images", 3), ("labels", 1)):
        array = found[name]
        if array.dtype != np.uint8 or array.ndim != axes:
            raise DataError(
                f"{field}: {path}: {name} is {array.dtype} of shape {array.shape}: save it as "
                f"uint8, {_WHAT[axes]}"
            )
    return found["images"], found["labels"]


def _contents(path: Path, field: str) -> bytes:
    """The bytes of the file, unpacked."""
    if not path.is_file():
        raise _no_file(path, field)
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as packed:
                return packed.read()
        return path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{field}: {path} cannot be read ({error}): get the file again") from error


def _no_file(path: Path, field: str) -> DataError:
    beside = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
    near = f"; in {path.parent}: {did_you_mean(path.name, beside)}" if beside else ""
    return DataError(
        f"{field}: {path} is no file, looked for from {Path.cwd()}{near}: correct the name"
    )
