"""The polynomial that most of some points lie on: Reed-Solomon decoding modulo 2^31 - 1 (Gao 2003).

Points (x, y) of a polynomial f of degree below k, of which e are wrong: let g vanish at all x, and
h go through all points. With v the polynomial that vanishes where y is wrong, v h = v f modulo g,
and v f has a degree below k + e. Euclid's algorithm on g and h meets that product once remainders
fall below (points + k)/2, as long as 2 e <= points - k. Polynomials are lists of coefficients, the
lowest first, without zeros at the end.
"""

from __future__ import annotations

from collections.abc import Sequence

from codex_ray.secagg.shamir import PRIME

_Polynomial = list[int]


def nearest_polynomial(
    points: Sequence[int], values: Sequence[int], *, degree_below: int
) -> _Polynomial | None:
    """The polynomial with all but (points - degree_below)/2 of these values, if there is one."""
    vanishing: _Polynomial = [1]
    for point in points:
        vanishing = _times(vanishing, [-point % PRIME, 1])
    earlier, later = vanishing, _through(points, values)
    before: _Polynomial = []
    factor: _Polynomial = [1]
    while 2 * (len(later) - 1) >= len(points) + degree_below:
        quotient, rest = _divided(earlier, later)
        earlier, later = later, rest
        before, factor = factor, _minus(before, _times(quotient, factor))
    found, rest = _divided(later, factor)
    return None if rest or len(found) > degree_below else found


def value_at(polynomial: Sequence[int], point: int) -> int:
    """The value of a polynomial (Horner's rule)."""
    total = 0
    for coefficient in reversed(polynomial):
        total = (total * point + coefficient) % PRIME
    return total


def _through(points: Sequence[int], values: Sequence[int]) -> _Polynomial:
    """The polynomial through all points, by Newton's divided differences."""
    slopes = list(values)
    for step in range(1, len(points)):
        for at in range(len(points) - 1, step - 1, -1):
            run = pow(points[at] - points[at - step], -1, PRIME)
            slopes[at] = (slopes[at] - slopes[at - 1]) * run % PRIME
    found: _Polynomial = []
    for point, slope in zip(reversed(points), reversed(slopes), strict=True):
        found = _minus(_times(found, [-point % PRIME, 1]), [-slope % PRIME])
    return found


def _times(one: _Polynomial, other: _Polynomial) -> _Polynomial:
    product = [0] * (len(one) + len(other) - 1) if one and other else []
    for at, coefficient in enumerate(one):
        for shift, factor in enumerate(other):
            product[at + shift] = (product[at + shift] + coefficient * factor) % PRIME
    return product


def _minus(one: _Polynomial, other: _Polynomial) -> _Polynomial:
    size = max(len(one), len(other))
    padded = (it + [0] * (size - len(it)) for it in (one, other))
    return _trimmed([(first - second) % PRIME for first, second in zip(*padded, strict=True)])


def _divided(one: _Polynomial, other: _Polynomial) -> tuple[_Polynomial, _Polynomial]:
    """Quotient and remainder."""
    rest, quotient = list(one), [0] * max(0, len(one) - len(other) + 1)
    leading = pow(other[-1], -1, PRIME)
    for at in range(len(quotient) - 1, -1, -1):
        factor = quotient[at] = rest[at + len(other) - 1] * leading % PRIME
        for shift, coefficient in enumerate(other):
            rest[at + shift] = (rest[at + shift] - factor * coefficient) % PRIME
    return _trimmed(quotient), _trimmed(rest[: len(other) - 1])


def _trimmed(coefficients: _Polynomial) -> _Polynomial:
    while coefficients and not coefficients[-1]:
        coefficients.pop()
    return coefficients
