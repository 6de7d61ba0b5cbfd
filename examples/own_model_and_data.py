"""Your own model and your own data, through the Python door.

Run it with `python examples/own_model_and_data.py`; it takes a few seconds.
"""

import numpy as np
from torch import nn

import codex_ray


def clinics(count: int = 8, records: int = 60) -> codex_ray.InMemory:
    """Clinics that measure the same five things on patients of different ages."""
    rng = np.random.default_rng(0)

    def patients(n: int, shift: float) -> codex_ray.Records:
        features = rng.normal(shift, 1.0, size=(n, 5)).clip(-4, 4) / 4
        risk = features @ np.array([2.0, -1.0, 1.5, 0.0, 0.5]) + rng.normal(0, 0.1, n)
        return codex_ray.Records(features.astype(np.float32), (risk > 0).astype(np.int64))

    return codex_ray.InMemory(
        [patients(records, shift) for shift in np.linspace(-1, 1, count)], patients(400, 0.0)
    )


def network() -> nn.Module:
    """A small network; GroupNorm, because BatchNorm mixes patients."""
    return nn.Sequential(nn.Linear(5, 16), nn.GroupNorm(4, 16), nn.Tanh(), nn.Linear(16, 1))


EXPERIMENT = {
    "name": "clinics",
    "rounds": 15,
    "budget": {"epsilon": 8.0, "delta": 1e-5},
    "trainer": {
        "kind": "dp_sgd",
        "learning_rate": 2.0,
        "clip_norm": 1.0,
        "noise_multiplier": 2.5,
        "batch_size": 30,
        "batches": {"kind": "poisson", "sampling_rate": 0.5, "steps": 2},
    },
    "federation": {"protocol": {"kind": "secagg"}},
}


def main(**options: object) -> codex_ray.RunResult:
    """Eight clinics, one network, and what it cost each patient."""
    result = codex_ray.run(EXPERIMENT, model=network, data=clinics(), **options)
    print(f"accuracy {result.metrics['accuracy']:.3f} at epsilon {result.epsilon:.2f} a patient")
    print(f"model and report in {result.directory}")
    return result


if __name__ == "__main__":
    main()
