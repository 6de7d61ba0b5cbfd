"""Clients in this process who can be asked for summands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from codex_ray.federation.bare_sums import SumHost
from codex_ray.federation.pooled_sums import Pool
from codex_ray.federation.transport import LocalTransport
from codex_ray.secagg.protocols import SumProtocol
from codex_ray.types import Residues


def pool_of(
    protocol: SumProtocol, population: int, answer: Callable[[Any, int], Residues]
) -> Pool[Any]:
    """So many clients; `answer` gives what one of them (the second argument) says to a question."""

    def seam(question: Any, dimension: int, bits: int) -> LocalTransport:
        def of(client: int) -> Residues:
            return answer(question, client)

        return LocalTransport(SumHost(protocol, dimension=dimension, bits=bits, summand_of=of))

    return Pool(protocol, population, b"statistics".ljust(16), seam)
