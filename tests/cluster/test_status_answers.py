"""A coordinator tells how far it is in milliseconds, while it samples, sums, noises and saves."""

from __future__ import annotations

import statistics
import time
from contextlib import closing
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import ray

from codex_ray.assembly import assemble
from codex_ray.cluster.coordinator import Coordinator
from codex_ray.cluster.crew import Crew
from codex_ray.config import experiment_from, load_yaml, override, to_yaml
from codex_ray.records.run_directory import RunDirectory
from codex_ray.running import begin

FILE = Path(__file__).resolve().parents[2] / "experiments" / "cross_device.yaml"
CHANGES = {"cluster.hosts": 2, "rounds": 12, "plan": "reference"}


@pytest.mark.slow
@pytest.mark.usefixtures("ray_local")
def test_status_takes_milliseconds_while_rounds_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = experiment_from(override(load_yaml(FILE), CHANGES))
    directory = RunDirectory.create(tmp_path / "run", config=to_yaml(experiment))
    begin(assemble(experiment), directory)
    with closing(Crew.start(experiment, [])) as crew:
        coordinator = Coordinator.remote()
        stream = coordinator.run.options(num_returns="streaming").remote(
            str(directory.path), crew.berth.spec, crew
        )
        assert ray.get(next(stream)) == ""
        over = Event()
        listening = Thread(target=_listen, args=(stream, over))
        listening.start()
        took, stages = [], set()
        while not over.is_set():
            began = time.perf_counter()
            status = ray.get(coordinator.status.remote(), timeout=60)
            took.append(time.perf_counter() - began)
            stages.add(status["stage"])
            time.sleep(0.005)
        listening.join()
        ray.kill(coordinator)
    cuts = [1e3 * it for it in statistics.quantiles(took, n=20)]
    with capsys.disabled():
        print(f"\n{len(took)} answers: median {cuts[9]:.1f} ms, 95% within {cuts[18]:.1f} ms")
    assert len(stages) > 3  # it was asked all along
    assert cuts[9] < 50


def _listen(stream: Any, over: Event) -> None:
    """Takes every round as a driver does."""
    try:
        for line in stream:
            ray.get(line)
    finally:
        over.set()
