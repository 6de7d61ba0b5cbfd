"""What the tests of serving share."""

from __future__ import annotations

from pathlib import Path

import pytest
from asking import House


@pytest.fixture
def house(tmp_path: Path) -> House:
    """A server with one key, as it comes by default."""
    return House(tmp_path)
