"""IDX and .npz files: read to the byte, and refused with the file and what is wrong with it."""

import gzip
import struct

import numpy as np
import pytest

from codex_ray.data.idx import read_idx, read_npz
from codex_ray.errors import DataError

IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
LABELS = np.array([7, 1], dtype=np.uint8)


def idx(array, *, kind=8):
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, kind, array.ndim, *array.shape)
    return header + array.tobytes()


def written(path, content):
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"])
def test_images_come_back_in_their_shape(tmp_path, name):
    path = written(tmp_path / name, idx(IMAGES))
    found = read_idx(path, axes=3, field="data.images")
    assert found.dtype == np.uint8 and np.array_equal(found, IMAGES)


def test_the_bytes_of_the_published_header_are_understood(tmp_path):
    """As MNIST's own page has them: magic 2049, then the count, both with the high byte first."""
    path = written(tmp_path / "labels", bytes([0, 0, 8, 1, 0, 0, 0, 3, 5, 0, 4]))
    assert read_idx(path, axes=1, field="data.labels").tolist() == [5, 0, 4]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is no IDX file"),
        (b"P5 28 28 255", "is no IDX file"),
        (idx(LABELS), "holds values of type 0x08 on 1 axes, not .* on 3: name the file of the im"),
        (idx(IMAGES, kind=13), "holds values of type 0x0d on 3 axes"),
        (idx(IMAGES)[:10], "ends within its header"),
        (idx(IMAGES)[:-1], "2 x 3 x 4 values, which are 24 bytes, but 23 follow"),
        (idx(IMAGES) + b"\0", "2 x 3 x 4 values, which are 24 bytes, but 25 follow"),
    ],
)
def test_what_is_not_such_a_file_is_refused(tmp_path, content, said):
    path = written(tmp_path / "images", content)
    with pytest.raises(DataError, match=f"^data.images: .*images .*{said}") as caught:
        read_idx(path, axes=3, field="data.images")
    assert "\n" not in str(caught.value)


def test_a_damaged_gzip_is_refused(tmp_path):
    path = tmp_path / "images.gz"
    for content in (gzip.compress(idx(IMAGES))[:-9], idx(IMAGES)):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"images\.gz cannot be read .*get the file again"):
            read_idx(path, axes=3, field="data.images")


def test_a_missing_file_is_looked_for_beside_it(tmp_path):
    written(tmp_path / "t10k-images-idx3-ubyte", idx(IMAGES))
    with pytest.raises(DataError, match="did you mean 't10k-images-idx3-ubyte'"):
        read_idx(tmp_path / "t10k-image-idx3-ubyte", axes=3, field="data.images")
    with pytest.raises(DataError, match=r"data\.images: .*nowhere.* is no file, looked for from "):
        read_npz(tmp_path / "nowhere" / "mnist.npz", field="data.images")


def test_npz_holds_both(tmp_path):
    path = tmp_path / "digits.npz"
    np.savez_compressed(path, images=IMAGES, labels=LABELS)
    images, labels = read_npz(path, field="data.images")
    assert np.array_equal(images, IMAGES) and np.array_equal(labels, LABELS)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"images": IMAGES}, "holds the arrays images: it needs images .* and labels"),
        ({"images": IMAGES, "labels": LABELS.astype(np.int64)}, "labels is int64 of shape"),
        ({"images": IMAGES / 255, "labels": LABELS}, "images is float64 of shape"),
        ({"images": IMAGES[0], "labels": LABELS}, r"images is uint8 of shape \(3, 4\)"),
        ({"images": IMAGES, "labels": np.array([{}, 1])}, "cannot be read as .npz"),
    ],
)
def test_an_npz_of_something_else_is_refused(tmp_path, arrays, said):
    path = tmp_path / "digits.npz"
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=said):
        read_npz(path, field="data.images")


def test_a_file_that_only_bears_the_name_is_refused(tmp_path):
    path = tmp_path / "digits.npz"
    with path.open("wb") as file:
        np.save(file, IMAGES)
    for _ in range(2):
        with pytest.raises(DataError, match=r"digits\.npz cannot be read as \.npz"):
            read_npz(path, field="data.images")
        path.write_bytes(b"PK\3\4 and then nothing")
