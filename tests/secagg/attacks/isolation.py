"""How a server would single out one client by telling each holder of shares another story.

No client gives both its secrets away, and still the summand of one can be read: open its self-mask
seed, and for everyone that it masked with the escrow. Whom each holder is told to have dropped is
a matching problem, solved here; what the holders answer is up to them.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from lying_server import LyingServer
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow

from codex_ray.secagg.messages import ShareDelivery
from codex_ray.types import ClientId


def delivers_only(victim: ClientId, some: Collection[ClientId]):
    """A lie on trip 3: of all that was sealed for `victim` it gets what comes from `some`."""

    def change(one, request):
        kept = {peer: box for peer, box in request.sealed.items() if peer in some}
        return ShareDelivery(kept) if one == victim else request

    return change


def stories(server: LyingServer, owners: Collection[ClientId]):
    """For each client whom it is to take for dropped, so that `threshold` do so of each owner.

    None if that cannot be: each client must be told of `threshold` survivors, itself among them.
    A maximum flow from owners over holders, whose capacity is how many drops they would believe.
    """
    listed, members = sorted(owners), sorted(server.clients)
    place = {one: 2 + index for index, one in enumerate(members)}
    first = 2 + len(members)
    capacity = np.zeros((first + len(listed),) * 2, dtype=np.int32)
    for one in members:
        around = set(server.clients[one]._secrets.held) | {one}
        capacity[place[one], 1] = max(0, len(around) - server.threshold)
    for at, owner in enumerate(listed, start=first):
        capacity[0, at] = server.threshold
        for holder in set(server.holders_of(owner)) - {owner}:
            capacity[at, place[holder]] = owner in server.clients[holder]._secrets.held
    found = maximum_flow(csr_array(capacity), 0, 1)
    if found.flow_value < server.threshold * len(listed):
        return None
    flow = found.flow.toarray()
    return {
        one: {owner for at, owner in enumerate(listed, start=first) if flow[at, place[one]] > 0}
        for one in members
    }
