"""What a one-shot round costs: operations, bytes, and seconds at given rates.

The counts follow from the plan and from how many spoke and opened, so an ideal sum can tell what
the one-shot sum would have cost, and a benchmark has something to be held against.
"""

from __future__ import annotations

import numpy as np

from codex_ray.secagg.committee import CommitteePlan
from codex_ray.secagg.cost import Attendance, Operations, Rates, Seconds
from codex_ray.secagg.lattice import KEY_ELEMENTS, Masked, Modulus
from codex_ray.secagg.one_shot_messages import MaskedUpload, ShareSum
from codex_ray.secagg.one_shot_session import NONCE_BYTES, sealed_length
from codex_ray.secagg.packed_shamir import share_length


def count_one_shot(
    plan: CommitteePlan, seen: Attendance, *, dimension: int, bits: int
) -> Operations:
    """The operations of a one-shot round with these sizes and this attendance.

    Args:
        plan: the sizes of the session.
        seen: `masked` is how many spoke, `unmasked` how many of the committee gave a sum; there are
            no other trips.
        dimension, bits: of the summands.
    """
    dealt, opened = seen.masked * plan.size, seen.unmasked * seen.masked
    upload = _upload_bytes(plan, dimension=dimension, modulus=Modulus.of_sum(plan.members, bits))
    answer = len(ShareSum(np.zeros(share_length(KEY_ELEMENTS, plan.packing), "<u4")).to_frame())
    return Operations(
        agreements=dealt + opened,
        signatures=0,
        verifications=0,
        seals=dealt + opened,
        shares=dealt,
        rebuilt=1,
        client_masks=seen.masked,
        server_masks=1,
        additions=seen.masked,
        bytes_up=seen.masked * upload + seen.unmasked * answer,
    )


def price_one_shot(
    counted: Operations, rates: Rates, *, dimension: int, modulus: Modulus, coordinate: float
) -> Seconds:
    """What the operations take at these rates, of which `key_pair` and `mask` do not occur.

    Args:
        counted: what `count_one_shot` gave.
        rates: measured with envelopes and shares as long as those of the plan.
        dimension: of the summands.
        modulus: of the masked inputs.
        coordinate: seconds that a lattice mask takes for each coordinate of a summand.
    """
    nothing = Masked.nothing(dimension, modulus)
    clients = (
        counted.agreements * rates.agreement
        + counted.seals * rates.seal
        + counted.shares * rates.share
        + counted.client_masks * dimension * coordinate
    )
    server = (
        counted.additions * (nothing.low.nbytes + nothing.high.nbytes) * rates.add
        + counted.server_masks * dimension * coordinate
        + counted.rebuilt * rates.rebuild
    )
    return Seconds(clients, server)


def _upload_bytes(plan: CommitteePlan, *, dimension: int, modulus: Modulus) -> int:
    """The length of a client's one frame."""
    nothing = Masked.nothing(0, modulus)
    frame = MaskedUpload(nothing.low, nothing.high, bytes(NONCE_BYTES), b"").to_frame()
    word = nothing.low.itemsize + (nothing.high.itemsize if modulus.width > 32 else 0)
    return len(frame) + dimension * word + plan.size * sealed_length(plan.packing)
