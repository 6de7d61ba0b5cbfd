"""codex_ray: private federated learning, simulated at scale on Ray.

`codex_ray.run(config, overrides)` runs an experiment; the command line is `codex-ray`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from codex_ray.api import run
    from codex_ray.cluster.sweep import sweep
    from codex_ray.data.dataset import Records
    from codex_ray.data.in_memory import InMemory
    from codex_ray.experiment import Experiment
    from codex_ray.records.result import RunResult

_DOORS = {
    "run": "codex_ray.api",
    "sweep": "codex_ray.cluster.sweep",
    "Experiment": "codex_ray.experiment",
    "RunResult": "codex_ray.records.result",
    "Records": "codex_ray.data.dataset",
    "InMemory": "codex_ray.data.in_memory",
}
__all__ = ["Experiment", "InMemory", "Records", "RunResult", "__version__", "run", "sweep"]


def __getattr__(name: str) -> Any:
    # Lazy, so that `codex-ray --version` and `--help` do not wait for torch.
    if name in _DOORS:
        return getattr(import_module(_DOORS[name]), name)
    raise AttributeError(f"module 'codex_ray' has no attribute {name!r}")
