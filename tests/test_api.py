"""The Python door: what it refuses, and how soon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import codex_ray
from codex_ray import api
from codex_ray.errors import RunDirectoryError


def test_a_folder_that_is_taken_is_refused_before_anything_is_started(
    silos: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other.txt").write_text("mine")
    monkeypatch.setattr(api, "_session", lambda experiment: pytest.fail("Ray was started"))
    with pytest.raises(RunDirectoryError, match="is not empty"):
        codex_ray.run(silos | {"cluster": {"hosts": 2}}, out=tmp_path)
