"""What a committee's answers tell when each member may have heard of other survivors.

An honest member j gives the sum of f_i(j) over the clients i that it heard of, where f_i is the
polynomial of client i, of degree below R. Of the T corrupt members the server has each f_i(j). It
learns a combination of keys, sum of a_i f_i(0), if weights c_j of the answers make the rest cancel:
for each client, summed over those who heard of it, c_j f(j) has to be a f(0) for all f of that
degree, but for what corrupt members see. With c_j times the product of (j - t) over the corrupt t
in the place of c_j that says: sum of c_j j^e = 0 for e = 1 to R - T - 1, and for e = 0 it is a.

Clients of which the same members heard share an equation, and an a.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from codex_ray.secagg.shamir import PRIME

Pattern = frozenset[int]
"""The members, by number, that heard of a client."""


def patterns(heard: Mapping[int, Collection[int]]) -> dict[Pattern, list[int]]:
    """The clients by who heard of them; of some nobody did, and they are left out."""
    found: dict[Pattern, list[int]] = {}
    for client in sorted({one for some in heard.values() for one in some}):
        mine = frozenset(member for member, some in heard.items() if client in some)
        found.setdefault(mine, []).append(client)
    return found


def weights(of: Sequence[Pattern], *, degrees: int) -> list[dict[int, int]]:
    """A basis of the weights of answers for which everything but the keys cancels.

    `degrees` is R - T: so many answers of honest members are needed beside those of the corrupt.
    """
    members = sorted(frozenset().union(*of))
    rows = [
        [pow(member, power, PRIME) if member in mine else 0 for member in members]
        for mine in of
        for power in range(1, degrees)
    ]
    return [dict(zip(members, it, strict=True)) for it in _kernel(rows, len(members))]


def learned(of: Sequence[Pattern], *, degrees: int) -> list[list[int]]:
    """The combinations of keys that are learned: reduced rows with a factor for each pattern."""
    factors = [
        [sum(found[member] for member in mine) % PRIME for mine in of]
        for found in weights(of, degrees=degrees)
    ]
    return _reduced(factors)[0]


def one_sum(heard: Mapping[int, Collection[int]], *, degrees: int) -> tuple[int, ...] | None:
    """The honest clients in the only sum that is learned, () if none is, None if there is more."""
    found = patterns(heard)
    rows = learned(list(found), degrees=degrees)
    if not rows:
        return ()
    if len(rows) > 1 or set(rows[0]) - {0, 1}:
        return None
    chosen = (some for some, factor in zip(found.values(), rows[0], strict=True) if factor)
    return tuple(sorted(one for some in chosen for one in some))


def _reduced(rows: list[list[int]]) -> tuple[list[list[int]], list[int]]:
    """The reduced echelon form modulo the prime, without zero rows, and its pivots."""
    left, done, pivots = [list(row) for row in rows], [], []
    for column in range(len(rows[0]) if rows else 0):
        at = next((i for i, row in enumerate(left) if row[column]), None)
        if at is None:
            continue
        pivot = left.pop(at)
        scale = pow(pivot[column], -1, PRIME)
        pivot = [value * scale % PRIME for value in pivot]
        for others in (left, done):
            for row in others:
                if factor := row[column]:
                    row[:] = [(a - factor * b) % PRIME for a, b in zip(row, pivot, strict=True)]
        done.append(pivot)
        pivots.append(column)
    return done, pivots


def _kernel(rows: list[list[int]], columns: int) -> list[list[int]]:
    done, pivots = _reduced(rows)
    basis = []
    for free in sorted(set(range(columns)) - set(pivots)):
        vector = [0] * columns
        vector[free] = 1
        for pivot, row in zip(pivots, done, strict=True):
            vector[pivot] = -row[free] % PRIME
        basis.append(vector)
    return basis
