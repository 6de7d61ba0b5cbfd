"""What several tests of local training need."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs as they are: what they compute is seen without the minutes of compiling them."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
