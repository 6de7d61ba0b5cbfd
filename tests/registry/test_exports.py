"""What is exported computes the same, says which version it is, and holds no pickle."""

from __future__ import annotations

import hashlib
import io
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from codex_ray.config import load_yaml
from codex_ray.errors import InputError
from codex_ray.records.keys import SigningKey
from codex_ray.registry import Registry, RegistryError, rebuild
from codex_ray.registry.exports import ExportNote, export, note_of, pickled
from codex_ray.registry.signed import parsed

Runs = Callable[[str], Path]
BATCHES = (1, 2, 7)


@pytest.fixture
def heart(registry: Registry, runs: Runs) -> Registry:
    registry.register(runs("claims"), "heart")
    return registry


def _records(count: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(
        np.random.default_rng(count).normal(size=(count, *shape)).astype(np.float32)
    )


def _same_in_onnx(content: bytes, module: nn.Module, *shape: int) -> None:
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    proto = onnx.load_from_string(content)
    onnx.checker.check_model(proto, full_check=True)
    computed = ReferenceEvaluator(proto)
    for count in BATCHES:
        records = _records(count, *shape)
        found = computed.run(None, {"records": records.numpy()})[0]
        assert found.shape == (count, found.shape[1])
        np.testing.assert_allclose(found, module(records).detach().numpy(), atol=1e-5)


def _same_in_torch(path: Path, module: nn.Module, *shape: int) -> None:
    loaded = torch.export.load(path).module()
    for count in BATCHES:
        records = _records(count, *shape)
        torch.testing.assert_close(loaded(records), module(records), atol=1e-5, rtol=0)


def test_onnx_computes_the_same_for_any_batch(heart: Registry, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    served = heart.load("heart", 1)
    note = export(served, tmp_path / "heart.onnx")
    content = (tmp_path / "heart.onnx").read_bytes()
    _same_in_onnx(content, rebuild(served).module, 2)
    said = {entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props}
    assert said["codex_ray.version"] == "heart@1"
    assert said["codex_ray.manifest"] == served.version.manifest_sha256 == note.manifest


def test_pt2_computes_the_same_for_any_batch_and_holds_no_pickle(
    heart: Registry, tmp_path: Path
) -> None:
    served = heart.load("heart", 1)
    export(served, tmp_path / "heart.pt2")
    _same_in_torch(tmp_path / "heart.pt2", rebuild(served).module, 2)
    content = (tmp_path / "heart.pt2").read_bytes()
    assert [*pickled(content)] == []
    with zipfile.ZipFile(io.BytesIO(content)) as members:
        found = {name.partition("/")[2]: members.read(name) for name in members.namelist()}
    assert found["extra/codex_ray.version"] == b"heart@1"
    assert found["data/sample_inputs/model.pt"] == b""
    weights = b"".join(v for k, v in sorted(found.items()) if k.startswith("data/weights/weight"))
    assert len(weights) == 4 * sum(tensor.numel() for tensor in served.params.values())


def test_a_pt2_with_example_inputs_is_seen_to_hold_a_pickle(heart: Registry) -> None:
    """What torch writes by itself, so that the check above could fail."""
    module = rebuild(heart.load("heart", 1)).module
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(module, (torch.zeros(2, 2),)), buffer)
    assert len([*pickled(buffer.getvalue())]) == 1


def test_the_note_names_the_version_and_is_signed(
    heart: Registry, tmp_path: Path, key: SigningKey
) -> None:
    served = heart.load("heart", 1)
    to = tmp_path / "new" / "heart.pt2"
    note = export(served, to, key=key)
    read = parsed(ExportNote, note_of(to).read_bytes(), trusted=[key.public], of="note")
    assert read == note
    assert (read.name, read.version, read.manifest) == ("heart", 1, served.version.manifest_sha256)
    assert read.sha256 == hashlib.sha256(to.read_bytes()).hexdigest()
    assert read.privacy == served.manifest.privacy
    assert read.unsafe == served.unsafe
    assert read.output == "logits [n, 1], float32"


def test_another_ending_or_a_missing_library_is_said(
    heart: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = heart.load("heart", 1)
    with pytest.raises(RegistryError, match=r"give one of \.onnx, \.pt2"):
        export(served, tmp_path / "heart.bin")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(RegistryError, match=r"pip install 'codex-ray\[export\]'"):
        export(served, tmp_path / "heart.onnx")
    assert [*tmp_path.glob("heart*")] == []


def convolution() -> nn.Module:
    """A small image network, for records [1, 8, 8]."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)
    )


def test_a_models_own_function_and_shape_are_used(
    registry: Registry, copied: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model of kind python, whose input shape somebody has to say."""
    from safetensors.torch import save_file

    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    torch.manual_seed(0)
    trained = convolution()
    run = copied("claims-nothing")
    text = (run / "config.yaml").read_text()
    config = load_yaml(run / "config.yaml")
    assert config["model"]["kind"] == "mlp"
    start = text.index("model:")
    end = text.index("\n", text.rindex("outputs:"))
    block = "model:\n  kind: python\n  factory: test_exports:convolution"
    (run / "config.yaml").write_text(text[:start] + block + text[end:])
    save_file({k: v.detach() for k, v in trained.named_parameters()}, run / "model.safetensors")
    registry.register(run, "image")
    served = registry.load("image", 1, unsafe=["allow_uncertified"])
    with pytest.raises(RegistryError, match="--input-shape"):
        export(served, tmp_path / "image.pt2")
    with pytest.raises(InputError, match="does not take records"):
        export(served, tmp_path / "image.pt2", input_shape=[2])
    export(served, tmp_path / "image.pt2", input_shape=[1, 8, 8])
    _same_in_torch(tmp_path / "image.pt2", trained, 1, 8, 8)
    export(served, tmp_path / "image.onnx", input_shape=[1, 8, 8])
    _same_in_onnx((tmp_path / "image.onnx").read_bytes(), trained, 1, 8, 8)
