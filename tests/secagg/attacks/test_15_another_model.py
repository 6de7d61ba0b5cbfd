"""Attack 15: one client is sent a model that the others are not (Pasquini et al. 2022).

Its update is then the only one that depends on that model, and shows in the sum.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from lying_server import CONTEXT, TEN, LyingServer, looks_uniform, small_summands
from secagg_modes import MODES, mode_name
from secagg_network import a_membership

from codex_ray.errors import SumAborted
from codex_ray.secagg import client as client_module
from codex_ray.secagg.identity import SharedWork
from codex_ray.secagg.protocols import SecAgg
from codex_ray.secagg.roster import Opening
from codex_ray.types import Stage

VICTIM = 3


def with_another_model(protocol, digest: bytes = b"x" * 32) -> LyingServer:
    """A session in which the victim trained on a model of its own."""
    parts = small_summands(TEN)
    contexts = dict.fromkeys(TEN, CONTEXT) | {VICTIM: replace(CONTEXT, model_digest=digest)}
    clients = {
        one: protocol.client(
            one, contexts[one], parts[one].copy(), membership=a_membership(one, TEN)
        )
        for one in TEN
    }
    return LyingServer(protocol, parts=parts, clients=clients)


@pytest.mark.parametrize("protocol", MODES[:4], ids=mode_name)
def test_another_model_for_one_client_gives_no_sum(protocol):
    server = with_another_model(protocol)
    with pytest.raises(SumAborted):
        server.finish()
    assert set(server.refusals) == set(TEN)


@pytest.mark.parametrize("protocol", MODES[4:], ids=mode_name)
def test_where_nonces_are_committed_to_it_leaves_that_client_out(protocol):
    """Its commitment is bound to its model, and opens nothing in the session of the others."""
    server = with_another_model(protocol)
    result = server.finish()
    assert set(result.members) == set(TEN) - {VICTIM}
    assert VICTIM not in server.replies[Stage.MASKED_INPUT]


def test_another_model_makes_garbage_even_if_the_envelopes_open(monkeypatch):
    """Only the pair masks still depend on the model: they do not cancel, no update comes out."""
    genuine = client_module.pair_keys

    def pair_keys(secret, session, **names):
        common = genuine(secret, bytes(32), **names)
        return replace(common, mask=genuine(secret, session, **names).mask)

    monkeypatch.setattr(client_module, "pair_keys", pair_keys)
    for name in ("seal", "unseal", "commit", "self_mask_key"):
        original = getattr(client_module, name)

        def of_no_session(first, second, *rest, original=original, **names):
            if original.__name__ in ("seal", "unseal"):
                return original(first, second, bytes(32), **names)
            return original(first, bytes(32), **names)

        monkeypatch.setattr(client_module, name, of_no_session)
    monkeypatch.setattr("codex_ray.secagg.unmask.commit", client_module.commit)
    monkeypatch.setattr("codex_ray.secagg.unmask.unseal", client_module.unseal)
    monkeypatch.setattr("codex_ray.secagg.unmask.self_mask_key", client_module.self_mask_key)
    monkeypatch.setattr(SharedWork, "verify", lambda *_: None)
    server = with_another_model(SecAgg())
    total = server.finish().groups[0].total
    others = np.sum([server.parts[one] for one in TEN if one != VICTIM], axis=0, dtype=np.uint32)
    assert looks_uniform(total) and looks_uniform(total - others)


def test_mutation_a_session_that_ignores_the_model_gives_the_sum(monkeypatch):
    """What the victim adds is then on its own in the sum, and the others cancel by training."""
    genuine = Opening.bound.func

    def of_no_model(opening):
        return genuine(replace(opening, context=replace(opening.context, model_digest=b"m" * 32)))

    monkeypatch.setattr(Opening, "bound", property(of_no_model))
    server = with_another_model(SecAgg())
    total = server.finish().groups[0].total
    np.testing.assert_array_equal(
        total, np.sum(list(server.parts.values()), axis=0, dtype=np.uint32)
    )
