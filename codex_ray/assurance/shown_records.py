"""Records that are noised before anything is trained on them: is the noise there, and the clip?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from codex_ray.assurance.checks import RARE, Draw, Floats, check_streams, check_variance
from codex_ray.assurance.verdict import Verdict
from codex_ray.data.dataset import FederatedDataset, Records
from codex_ray.learning.local_noise import LocalGaussianRecords, NoisedDataset, RandomisedResponse
from codex_ray.randomness import SeedTree

MOST_CLIENTS = 400
"""Clients whose records are looked at."""
ALIKE = 8
"""Clients whose noises are compared with each other."""
COORDINATES = 100_000
"""How much noise of made-up records is looked at."""


def shown_verdicts(
    noise: RandomisedResponse | LocalGaussianRecords, shown: FederatedDataset, streams: SeedTree
) -> Iterator[Verdict]:
    """How the records that are trained on differ from those that the clients hold.

    `streams` are the audit's own, for records that it makes up.
    """
    held = shown.dataset if isinstance(shown, NoisedDataset) else shown
    clients = range(min(shown.population, MOST_CLIENTS))
    pairs = [(held.client(one), shown.client(one)) for one in clients if len(held.client(one))]
    if not pairs:
        return
    labels = noise.labels if isinstance(noise, LocalGaussianRecords) else noise
    if isinstance(noise, LocalGaussianRecords):
        if isinstance(shown, NoisedDataset):
            yield from _long_records(noise, shown, streams)
        apart = [_noise_between(*pair, clip_norm=noise.clip_norm) for pair in pairs]
        deviation = noise.noise_multiplier * noise.clip_norm
        found = check_variance(np.concatenate(apart), deviation)
        yield replace(found, name="noise on records", words=f"records: {found.words}")
    if labels is not None:
        before, after = (np.concatenate([pair[at].labels for pair in pairs]) for at in (0, 1))
        yield _check_answers(before, after, labels)


def _long_records(
    noise: LocalGaussianRecords, shown: NoisedDataset, streams: SeedTree
) -> Iterator[Verdict]:
    """What is shown of clients that all hold the same records, which are far too long."""
    shape = shown.test().features.shape[1:]
    size, clients = math.prod(shape), min(ALIKE, shown.population)
    count = max(2, -(-COORDINATES // (clients * size)))
    long = np.full((count, *shape), 10 * noise.clip_norm / math.sqrt(size), np.float32)
    probe = replace(
        shown,
        dataset=_Alike(shown.dataset, Records(long, np.zeros(count, np.int64))),
        secret=streams,
        _shown={},
    )
    seen = np.stack([probe.client(one).features.reshape(count, size) for one in range(clients)])
    along = float(seen.astype(np.float64).sum(axis=2).mean()) / math.sqrt(size)
    noises = (seen - seen.mean(axis=1, keepdims=True)).reshape(clients, -1).astype(np.float64)
    deviation = noise.noise_multiplier * noise.clip_norm
    if clients > 1:
        yield check_streams(noises, whose="clients")
    yield check_variance(noises.ravel(), deviation * math.sqrt(1 - 1 / count))
    limit = noise.clip_norm + 5 * deviation / math.sqrt(clients * count)
    words = (
        f"records of norm {10 * noise.clip_norm:g} are shown with a norm of about {along:.3g}, "
        f"where clip_norm {noise.clip_norm:g} allows {limit:.3g}"
    )
    yield Verdict(
        "clipping of records",
        "check",
        noise.clip_norm,
        along,
        0.0,
        limit,
        along <= limit,
        words if along <= limit else f"{words}: the noise is too small for them",
    )


def _noise_between(held: Records, shown: Records, *, clip_norm: float) -> Floats:
    """What was added to the clipped features [n, ...] of a client's records, as one vector."""
    flat = held.features.astype(np.float64).reshape(len(held), -1 if len(held) else 0)
    norms = np.linalg.norm(flat, axis=1, keepdims=True)
    flat = flat * np.minimum(1.0, clip_norm / np.maximum(norms, clip_norm))
    added: Floats = shown.features.astype(np.float64).ravel() - flat.ravel()
    return added


def _check_answers(held: Draw, shown: Draw, rule: RandomisedResponse) -> Verdict:
    """Whether labels [n] were answered with the probabilities that epsilon allows.

    How many were kept, and how many turned into each of the others, counted round the circle of
    labels, are binomial; each is judged at its share of `RARE`.
    """
    from scipy.stats import binom

    count, classes = len(held), rule.classes
    turned = np.bincount((shown - held) % classes, minlength=classes)
    chances = [rule.kept, *[(1 - rule.kept) / (classes - 1)] * (classes - 1)]
    least = min(
        2 * float(min(binom.cdf(often, count, chance), binom.sf(often - 1, count, chance)))
        for often, chance in zip(turned, chances, strict=True)
    )
    share = RARE / classes
    low, high = (float(at(share / 2, count, rule.kept)) / count for at in (binom.ppf, binom.isf))
    found, passed = float(turned[0]) / count, least >= share
    words = (
        f"labels: {found:.1%} of {count} are shown as they are, where randomised response keeps "
        f"{rule.kept:.1%} (a sound build: {low:.1%} to {high:.1%})"
    )
    if not passed:
        words += f": such answers have a probability of {least:.1e}, so the claim is false"
    return Verdict("answered labels", "check", rule.kept, found, low, high, passed, words)


@dataclass(frozen=True)
class _Alike:
    """A data set whose clients all hold the same records."""

    inner: FederatedDataset
    records: Records

    @property
    def population(self) -> int:
        """As many clients as there were."""
        return self.inner.population

    def client(self, client: int) -> Records:
        """The same for everyone."""
        return self.records

    def test(self) -> Records:
        """The test set."""
        return self.inner.test()
