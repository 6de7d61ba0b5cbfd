"""Attack 23: a cipher's key that serves two messages gives away their difference."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
from lying_server import TEN, LyingServer
from secagg_modes import every_mode

from codex_ray.secagg import client as client_module
from codex_ray.secagg import keys as keys_module
from codex_ray.secagg.protocols import SecAgg
from codex_ray.types import Stage


class Recorded:
    """Every key that seals, with its nonce, and every key that masks, by who used it."""

    def __init__(self, monkeypatch) -> None:
        """Record until the test is over."""
        self.sealed: list[tuple[bytes, bytes]] = []
        self.masks: list[tuple[bytes, bool]] = []
        genuine = keys_module.AESGCM
        sealed, masks = self.sealed, self.masks

        class Watched:
            def __init__(self, cipher, key):
                self.cipher, self.key, self.decrypt = cipher, key, cipher.decrypt

            def encrypt(self, nonce, plain, data):
                sealed.append((self.key, nonce))
                return self.cipher.encrypt(nonce, plain, data)

        def apply_masks(words, some):
            kept = list(some)
            masks.extend(kept)
            genuine_masks(words, kept)

        genuine_masks = client_module.apply_masks
        monkeypatch.setattr(keys_module, "AESGCM", lambda key: Watched(genuine(key), key))
        monkeypatch.setattr(client_module, "apply_masks", apply_masks)


def two_sessions(protocol) -> LyingServer:
    """The server after the second of two sessions of the same round by the same clients."""
    for _ in range(2):
        server = LyingServer(protocol)
        server.finish()
    return server


@every_mode
def test_each_key_seals_one_message(monkeypatch, protocol):
    recorded = Recorded(monkeypatch)
    two_sessions(protocol)
    # An envelope to each peer, and an escrow.
    assert len(recorded.sealed) == 2 * 10 * (9 + 1)
    assert len(set(recorded.sealed)) == len({key for key, _ in recorded.sealed}) == 200


@every_mode
def test_each_mask_is_put_on_once_and_taken_off_once(monkeypatch, protocol):
    recorded = Recorded(monkeypatch)
    two_sessions(protocol)
    assert set(Counter(recorded.masks).values()) == {1}
    keys = Counter(key for key, _ in recorded.masks)
    # A self mask serves one client, a pair mask two that it cancels between.
    assert Counter(keys.values()) == {1: 2 * 10, 2: 2 * 45}
    assert not set(keys) & {key for key, _ in recorded.sealed}


def one_key_both_ways(monkeypatch) -> None:
    genuine = client_module.pair_keys

    def pair_keys(*args, **kwargs):
        keys = genuine(*args, **kwargs)
        both = bytes(
            np.bitwise_xor(*(np.frombuffer(it, "u1") for it in (keys.outward, keys.inward)))
        )
        return replace(keys, outward=both, inward=both)

    monkeypatch.setattr(client_module, "pair_keys", pair_keys)


def difference_is_shown() -> bool:
    """Whether two envelopes of a pair differ by as much as what is in them: four shares."""
    server = LyingServer(SecAgg())
    server.until(Stage.UNMASK)
    sent = server.replies[Stage.SHARE_KEYS]
    held = {one: server.clients[one]._secrets.held for one in (0, 1)}
    plain = [held[1][0].seed + held[1][0].escrow, held[0][1].seed + held[0][1].escrow]
    boxes = [sent[0].sealed[1], sent[1].sealed[0]]
    size = len(plain[0])
    plains, sealed = (
        np.bitwise_xor(*(np.frombuffer(it[:size], "u1") for it in some)) for some in (plain, boxes)
    )
    return np.array_equal(plains, sealed)


def test_two_envelopes_of_a_pair_show_nothing_of_each_other():
    assert not difference_is_shown()


def test_mutation_one_key_for_both_directions_shows_the_difference(monkeypatch):
    one_key_both_ways(monkeypatch)
    assert difference_is_shown()


def test_the_count_above_finds_that_mutation(monkeypatch):
    recorded = Recorded(monkeypatch)
    one_key_both_ways(monkeypatch)
    LyingServer(SecAgg()).finish()
    assert len(recorded.sealed) == 100
    assert len(set(recorded.sealed)) == 100 - len(TEN) * 9 // 2
