"""What torch.compile has made for one trial, another one finds: in its process and in others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

MODULE = """
import torch
from torch import nn

class Doubled(nn.Module):  # no stack of layers, so that there is something to compile
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(25, 10)

    def forward(self, images):
        found = self.inner(images.flatten(1))
        return found + torch.tanh(found)

def build():
    return Doubled()
"""
DRIVER = """
import json, sys
import codex_ray
from torch._dynamo.utils import counters

counts = []
for number in range(2):
    before = dict(counters["inductor"])
    codex_ray.run("run.yaml", {"federation.mechanism.noise_multiplier": 1.0 + number})
    counts.append({
        name: counters["inductor"][f"fxgraph_cache_{name}"] - before.get(f"fxgraph_cache_{name}", 0)
        for name in ("hit", "miss")
    })
print(json.dumps(counts))
"""


@pytest.mark.slow
def test_compiled_steps_are_found_in_the_cache(tmp_path: Path) -> None:
    (tmp_path / "doubled.py").write_text(MODULE)
    experiment = {
        "rounds": 1,
        "plan": {"kernel": "compiled", "clients": 1, "device": "cpu"},
        "data": {"kind": "synthetic_images", "clients": 3, "size": 5, "test_records": 20},
        "model": "doubled:build",
        "trainer": {"kind": "sgd", "learning_rate": 0.1},
        "federation": {
            "protocol": {"kind": "ideal"},
            "mechanism": {"kind": "gaussian", "clip_norm": 1.0, "noise_multiplier": 1.0},
        },
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(experiment))
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")}
    found = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", DRIVER],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        found += json.loads(done.stdout.splitlines()[-1])
    first, second, third, fourth = found
    assert first["miss"] > 0
    assert [again["miss"] for again in (second, third, fourth)] == [0, 0, 0]
    assert third["hit"] >= first["miss"]
