"""Folding changes what a host sends, and neither the sum nor the bytes that are counted."""

from __future__ import annotations

import numpy as np
import pytest

from codex_ray.federation.bare_sums import BareSum, Samples, SumHost
from codex_ray.federation.folding import Folding, weight_of
from codex_ray.federation.transport import LocalTransport
from codex_ray.secagg.messages import FoldedInput, MaskedInput, SealedShares
from codex_ray.secagg.one_shot_messages import FoldedUpload, MaskedUpload
from codex_ray.secagg.protocols import Ideal, OneShot, SecAgg, SecAggPlus
from codex_ray.types import Stage


def inputs(bits: int, count: int) -> list[np.ndarray]:
    kind = np.uint16 if bits == 16 else np.uint32
    draw = np.random.default_rng(3)
    return [draw.integers(0, 2**bits, 9, dtype=np.uint64).astype(kind) for _ in range(count)]


@pytest.mark.parametrize("bits", [16, 20, 32])
def test_the_first_carries_the_sum_of_all(bits) -> None:
    words, folding = inputs(bits, 5), Folding(bits=bits)
    sent = [folding.fold(MaskedInput(it.copy())) for it in words]
    assert isinstance(sent[0], MaskedInput) and all(isinstance(it, FoldedInput) for it in sent[1:])
    want = sum(it.astype(np.uint64) for it in words) % 2**bits
    np.testing.assert_array_equal(sent[0].words, want)
    alone = len(MaskedInput(words[0]).to_frame())
    assert [weight_of(it) for it in sent] == [0, alone, alone, alone, alone]


def test_an_upload_keeps_its_own_shares() -> None:
    draw, folding = np.random.default_rng(4), Folding(bits=32)
    low = draw.integers(0, 2**32, (3, 7), dtype=np.uint64)
    high = draw.integers(0, 2**5, (3, 7), dtype=np.uint64)
    sent = [
        folding.fold(
            MaskedUpload(a.astype(np.uint32), b.astype(np.uint8), bytes([at]) * 32, b"shares")
        )
        for at, (a, b) in enumerate(zip(low, high, strict=True))
    ]
    total = (low + (high << np.uint64(32))).sum(axis=0) % np.uint64(2**40)
    first = sent[0]
    assert isinstance(first, MaskedUpload)
    carried = first.low.astype(np.uint64) + (first.high.astype(np.uint64) << np.uint64(32))
    np.testing.assert_array_equal(carried, total)
    assert [it.nonce for it in sent if isinstance(it, FoldedUpload)] == [b"\1" * 32, b"\2" * 32]


def test_what_is_not_summed_and_what_does_not_fit_is_left_alone() -> None:
    folding = Folding(bits=32)
    shares = SealedShares({}, b"", b"")
    assert folding.fold(shares) is shares
    folding.fold(MaskedInput(np.zeros(3, np.uint32)))
    odd = MaskedInput(np.zeros(4, np.uint32))
    assert folding.fold(odd) is odd


@pytest.mark.parametrize("protocol", [Ideal(), SecAgg(), SecAggPlus(), OneShot()], ids=repr)
def test_a_folding_host_gives_the_exact_sum_and_counts_every_byte(protocol) -> None:
    silent = {2: Stage.MASKED_INPUT, 5: Stage.UNMASK}
    bare = BareSum(LocalTransport(SumHost(protocol, dimension=50)), protocol, 50, silent)
    group = bare.run(12).groups[0]
    assert group.members == tuple(one for one in range(12) if one != 2)
    np.testing.assert_array_equal(group.total, Samples(50).total(group.members))
    assert bare.bytes_up > 11 * 200  # eleven vectors of 50 words, though one was carried
