"""A host imports nothing that it has no use for: there may be ten of them on two cores."""

from __future__ import annotations

import subprocess
import sys

HEAVY = (
    "dp_accounting", "matplotlib", "opacus", "scipy.optimize", "scipy.signal", "scipy.stats",
    "sklearn", "tensorboard", "torch._dynamo", "torch._inductor",
)  # fmt: skip


def test_a_host_imports_no_accountant_no_plots_and_no_statistics() -> None:
    look = f"import sys, codex_ray.cluster.hosts; print([m for m in {HEAVY} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
