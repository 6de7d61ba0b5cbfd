"""Who masks with whom: a circulant graph over a public shuffle of the members, or all with all.

On a circle in shuffled order each member is joined to the degree/2 nearest on either side, a Harary
graph: of all graphs of that degree it takes the most dropouts to tear it apart (Bell et al. 2020,
section 3). The shuffle follows from a public seed and the member list, so anyone can compute the
graph again. The seed is the digest of all advertisements: who wants another graph needs another
client's nonce.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from codex_ray.randomness import Stream
from codex_ray.types import ClientId

Neighbourhoods = dict[ClientId, tuple[ClientId, ...]]


def draw_graph(members: Collection[ClientId], seed: bytes, *, degree: int) -> Neighbourhoods:
    """Each member's neighbours in increasing order; complete from degree members - 1 on."""
    order = sorted(members)
    if len(set(order)) != len(order):
        raise ValueError("a member is listed twice")
    if degree >= len(order) - 1:
        return {one: tuple(other for other in order if other != one) for one in order}
    circle = _circle(order, seed)
    return {one: _near(circle, at, degree=degree) for at, one in enumerate(circle)}


def neighbours(
    me: ClientId, members: Collection[ClientId], *, seed: bytes, degree: int
) -> tuple[ClientId, ...]:
    """The neighbours of `me` in that graph, without the rest of it."""
    order = sorted(members)
    if degree >= len(order) - 1:
        return tuple(other for other in order if other != me)
    circle = _circle(order, seed)
    return _near(circle, circle.index(me), degree=degree)


def _near(circle: list[ClientId], at: int, *, degree: int) -> tuple[ClientId, ...]:
    if degree < 2 or degree % 2:
        raise ValueError(f"a circulant graph needs an even degree from 2 on, not {degree}")
    reach = [step for step in range(-degree // 2, degree // 2 + 1) if step]
    return tuple(sorted(circle[(at + step) % len(circle)] for step in reach))


def _circle(order: list[ClientId], seed: bytes) -> list[ClientId]:
    """The members in shuffled order."""
    listed = b"".join(one.to_bytes(8, "little") for one in order)
    key = hashlib.sha256(b"graph" + seed + listed).digest()
    return [order[at] for at in Stream(key).permutation(len(order))]


def holders(
    me: ClientId, directory: Collection[ClientId], *, complete: bool
) -> tuple[ClientId, ...]:
    """Who holds the shares of `me`, in the order of their share numbers 1, 2, ...

    On the complete graph everyone does, `me` too: "threshold of n" then counts clients, as in
    Bonawitz et al. (2017), and with n = 10 and threshold 6 a sum survives four dropouts. On a
    k-regular graph only the neighbours do, because the finder's tails count t of k neighbours: an
    own share would be one more honest answer for the seed, and 2t > k + corrupt no longer excludes
    that two survivor claims each find t answers when k + corrupt is odd. (On the complete graph k +
    1 + corrupt = n + A < 2t.)
    """
    others = set(directory) - {me}
    return tuple(sorted(others | {me} if complete else others))


def sustainable(
    graph: Neighbourhoods, alive: Collection[ClientId], *, needed: int
) -> tuple[ClientId, ...]:
    """The largest part of `alive` in which each has at least `needed` neighbours of that part.

    Whoever is left out could not be unmasked later, and is left out now, before anyone masks with
    it.
    """
    kept = set(alive)
    while weak := {one for one in kept if sum(peer in kept for peer in graph[one]) < needed}:
        kept -= weak
    return tuple(sorted(kept))
