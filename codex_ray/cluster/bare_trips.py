"""What Ray itself takes for a trip to its actors and back: the floor under every empty round."""

from __future__ import annotations

import time
from statistics import median
from typing import Any, Final

import ray

BLOCKS: Final = 5


class EchoServer:
    """Sends back what it gets."""

    def handle(self, piece: bytes) -> bytes:
        """The piece."""
        return piece


class CallerServer:
    """Exchanges pieces with actors from a process of its own, as a coordinator does."""

    def seconds(self, actors: list[Any], *, size: int, trips: int) -> list[float]:
        """Wall seconds of one trip to all of them and back, in each of a few blocks.

        Args:
            actors: of `EchoServer`.
            size: bytes that each is sent, and sends back.
            trips: in each block.
        """
        piece, found = bytes(size), []
        for _ in range(1 + BLOCKS):  # the first warms up
            began = time.perf_counter()
            for _ in range(trips):
                waiting = [actor.handle.remote(piece) for actor in actors]
                while waiting:
                    done, waiting = ray.wait(waiting, timeout=60.0)
                    ray.get(done)
            found.append((time.perf_counter() - began) / trips)
        return found[1:]


def seconds_a_trip(*, actors: int, size: int, trips: int) -> float:
    """Wall seconds of a trip to so many idle actors, each with `size` bytes both ways; the median.

    It is for the inside of a `ray_session`.
    """
    echoes = [ray.remote(num_cpus=0)(EchoServer).remote() for _ in range(actors)]
    caller = ray.remote(num_cpus=0)(CallerServer).remote()
    try:
        return median(ray.get(caller.seconds.remote(echoes, size=size, trips=trips)))
    finally:
        for actor in (*echoes, caller):
            ray.kill(actor)
