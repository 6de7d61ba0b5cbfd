"""Attack 26: to be silent. Whoever drops at whichever trip, the rest has its sum.

Published code aborts the round, or crashes, if a client drops before its masked input. Random
schedules are in test_fuzz.py.
"""

from __future__ import annotations

import numpy as np
import pytest
from lying_server import TEN, LyingServer, looks_uniform
from secagg_modes import MODES, mode_name, stages_of

from codex_ray.secagg import server as server_module
from codex_ray.secagg.protocols import SecAgg
from codex_ray.types import Stage

EVERY_STAGE = [
    pytest.param(protocol, stage, id=f"{mode_name(protocol)}-{stage.name.lower()}")
    for protocol in MODES
    for stage in stages_of(protocol.adversary)
]


def without(silent, stage, protocol):
    """The result of a session in which `silent` say nothing from `stage` on, and its summands."""
    server = LyingServer(protocol)
    server.until(stage)
    while True:
        inbox = {one: server.ask(one, it) for one, it in server.outbox.items() if one not in silent}
        try:
            server.outbox = server.session.send(inbox)
        except StopIteration as end:
            (group,) = end.value.groups
            assert not server.refusals
            return group, server.parts


def error_of(group, parts):
    return group.total - np.sum([parts[one] for one in group.members], axis=0, dtype=np.uint32)


@pytest.mark.parametrize(("protocol", "stage"), EVERY_STAGE)
@pytest.mark.parametrize("silent", [(0,), (9,), (1, 3, 4, 8)], ids=len)
def test_the_rest_has_its_exact_sum(protocol, stage, silent):
    group, parts = without(silent, stage, protocol)
    still_in = stage > Stage.MASKED_INPUT
    assert group.members == (TEN if still_in else tuple(sorted(set(TEN) - set(silent))))
    assert not error_of(group, parts).any()


def test_mutation_a_server_that_forgets_the_dropped_has_garbage(monkeypatch):
    genuine = server_module._owners

    def survivors_only(roster, sharing, survivors):
        owners = genuine(roster, sharing, survivors)
        return {one: owner for one, owner in owners.items() if one in survivors}

    monkeypatch.setattr(server_module, "_owners", survivors_only)
    assert looks_uniform(error_of(*without((3,), Stage.MASKED_INPUT, SecAgg())))
    assert not error_of(*without((3,), Stage.SHARE_KEYS, SecAgg())).any()
