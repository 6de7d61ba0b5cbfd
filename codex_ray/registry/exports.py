"""A version in the formats that others run, and beside it a signed note of which one it is.

ONNX is a protocol buffer, and .pt2 (torch.export) a zip of the graph as JSON and of the weights as
raw bytes. torch would pickle the example inputs into a .pt2 as well; they are left out, and an
archive that holds a pickle all the same is refused.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import torch

from codex_ray.errors import ModelError
from codex_ray.learning.models import Model
from codex_ray.records.keys import SigningKey
from codex_ray.records.run_directory import write_atomically
from codex_ray.records.signed import Signed
from codex_ray.registry.building import rebuild
from codex_ray.registry.manifest import Name, Sha256, Spent
from codex_ray.registry.refusals import RegistryError
from codex_ray.registry.served import ServedModel

SUFFIXES: Final = (".onnx", ".pt2")
INPUT, OUTPUT = "records", "logits"


class ExportNote(Signed):
    """What an exported file is: SHA-256 of the file, and the version that it comes from.

    Attributes:
        manifest: SHA-256 of that version's manifest.
        output: what comes out: [n, 1] is the logit of a binary label, [n, k] those of k classes.
    """

    format: Literal["codex_ray model export 1"] = "codex_ray model export 1"
    name: Name
    version: int
    manifest: Sha256
    file: str
    sha256: Sha256
    input_shape: tuple[int, ...]
    output: str
    privacy: tuple[Spent, ...]
    unsafe: tuple[str, ...]


def export(
    served: ServedModel,
    to: Path,
    *,
    key: SigningKey | None = None,
    input_shape: Sequence[int] | None = None,
) -> ExportNote:
    """The note of the file that was written to `to`, and beside it as `to`.json.

    Its input is a batch [n, *input_shape] of any size n, in float32.

    Raises:
        RegistryError: no such format, or the library for it is missing, or nothing names the shape.
        ModelError: the model cannot be exported.
    """
    if to.suffix not in SUFFIXES:
        raise RegistryError(f"{to}: is exported by its ending: give one of {', '.join(SUFFIXES)}")
    shape = tuple(input_shape or served.manifest.input_shape or ())
    model = rebuild(served, input_shape=shape)
    says = {
        "codex_ray.version": served.version.label,
        "codex_ray.manifest": served.version.manifest_sha256,
    }
    content = (_onnx if to.suffix == ".onnx" else _pt2)(model, shape, says)
    note = ExportNote(
        name=served.version.name,
        version=served.version.version,
        manifest=served.version.manifest_sha256,
        file=to.name,
        sha256=hashlib.sha256(content).hexdigest(),
        input_shape=shape,
        output=f"{OUTPUT} [n, {model.outputs}], float32",
        privacy=served.manifest.privacy,
        unsafe=served.unsafe,
    )
    if key is not None:
        note = note.signed_by(key)
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RegistryError(f"{to.parent}: cannot be made: {error.strerror or error}") from None
    write_atomically(to, content)
    write_atomically(note_of(to), note.to_bytes())
    return note


def note_of(to: Path) -> Path:
    """Where the note of an exported file is."""
    return to.with_name(f"{to.name}.json")


def _traced(model: Model, shape: tuple[int, ...]) -> torch.export.ExportedProgram:
    """The model's graph for batches of any size.

    Raises:
        ModelError: what it does depends on its input in ways that no graph holds.
    """
    # Of two records: a batch of one would be taken for a constant.
    batch = torch.export.Dim("n", min=1)
    try:
        return torch.export.export(
            model.module, (torch.zeros(2, *shape),), dynamic_shapes=((({0: batch}),))
        )
    except Exception as error:  # torch raises classes of its own by the dozen
        raise ModelError(
            f"model: cannot be exported: {type(error).__name__}: {str(error).splitlines()[0]}"
        ) from error


def _pt2(model: Model, shape: tuple[int, ...], says: Mapping[str, str]) -> bytes:
    program = _traced(model, shape)
    program.example_inputs = None  # or torch.save would pickle them
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files=dict(says))
    content = buffer.getvalue()
    if found := list(pickled(content)):
        raise ModelError(f"model: torch.export would pickle {', '.join(found)}: export to .onnx")
    return content


def pickled(archive: bytes) -> Iterator[str]:
    """The members of a .pt2 that hold a pickle, or say that another one does."""
    with zipfile.ZipFile(io.BytesIO(archive)) as members:
        for name in members.namelist():
            content = members.read(name)
            is_torch_file = content[:2] in (b"PK", b"\x80\x02") and not name.endswith(".json")
            if is_torch_file and _opens_as_torch_file(content):
                yield name
            if name.endswith("_config.json"):
                said = json.loads(content).get("config", {})
                yield from (key for key, meta in said.items() if meta.get("use_pickle"))


def _opens_as_torch_file(content: bytes) -> bool:
    """Whether these are bytes of torch.save, or of the pickle module; weights may begin alike."""
    if content[:2] == b"\x80\x02" and content.endswith(b"."):
        return True
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as inner:
            return any(name.endswith(".pkl") for name in inner.namelist())
    except zipfile.BadZipFile:
        return False


def _onnx(model: Model, shape: tuple[int, ...], says: Mapping[str, str]) -> bytes:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise RegistryError(
            f"ONNX needs the package {error.name}: pip install 'codex-ray[export]'"
        ) from None
    program = _traced(model, shape)
    with _quiet():
        exported: Any = torch.onnx.export(
            program, input_names=[INPUT], output_names=[OUTPUT], dynamo=True, verbose=False
        )
    proto = exported.model_proto
    for name, value in says.items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = name, value
    found: bytes = proto.SerializeToString()
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says to those who work on it."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
