"""A driver that may be killed: it resumes a run on a cluster, with kills, and tells of each round.

    python -m codex_ray.cluster.chaos_driver RUN <kills >>told

The way back into a run is the one of `codex-ray run --resume`; a run that has only begun is resumed
before its first round.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence

from codex_ray.api import open_run
from codex_ray.assembly import assemble
from codex_ray.cluster.kills import Kills
from codex_ray.cluster.session import ray_rounds, ray_session
from codex_ray.errors import CodexRayError
from codex_ray.running import finish
from codex_ray.threads import single_thread


def drive(path: str, kills: Kills) -> None:
    """Runs what is left of the run at `path`, and writes its result; told in lines of JSON.

    Raises:
        CodexRayError: whatever ends the run.
    """
    experiment, directory = open_run(path, {})
    single_thread()
    assembled = assemble(experiment)
    text = kills.model_copy(update={"driver": os.getpid()}).to_text()
    with ray_session(experiment.cluster.address) as overlooked, directory.locked():
        for result in ray_rounds(experiment, directory, kills=text):
            if result is not None:
                line = {"round": result.round, "at": time.time(), "driver": os.getpid()}
                print(json.dumps(line), flush=True)
        finish(assembled, directory, overlooked=overlooked)


def main(arguments: Sequence[str]) -> int:
    """The exit status: 1 for a run that ended with an error."""
    try:
        drive(arguments[0], Kills.read(sys.stdin.read()))
    except CodexRayError as error:
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
