"""A trial's setting and outcome, where TensorBoard's tab HPARAMS looks for them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams


def write_hparams(folder: Path, *, values: Mapping[str, Any], outcome: Mapping[str, float]) -> None:
    """Adds `values` and `outcome` to the event files in `folder`; the rest as text."""
    plain = {k: v if isinstance(v, (bool, int, float, str)) else str(v) for k, v in values.items()}
    figures = {f"outcome/{k}": float(v) for k, v in outcome.items() if math.isfinite(v)}
    with SummaryWriter(str(folder), filename_suffix=".hparams") as writer:
        assert writer.file_writer is not None  # SummaryWriter opens it.
        for summary in hparams(plain, figures):  # type: ignore[no-untyped-call]
            writer.file_writer.add_summary(summary)
        for name, value in figures.items():
            writer.add_scalar(name, value, 0)
