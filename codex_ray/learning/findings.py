"""What is known of plans on this machine: their figures, kept in a folder from run to run."""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

from pydantic import Field, TypeAdapter, ValidationError

from codex_ray.learning.plans import Plan
from codex_ray.types import Component

LOG = logging.getLogger(__name__)


class Finding(Component):
    """What one plan took on this machine: CPU seconds, and seconds on a device or of compiling.

    Attributes:
        plan: which.
        seconds: of one client's update.
        before: the first update: compiling.
    """

    plan: Plan
    seconds: float = Field(gt=0)
    before: float = Field(default=0.0, ge=0)

    def work(self, updates: int, waiting: int = 1) -> float:
        """Seconds that so many updates take, where so many cores wait for what comes before."""
        return waiting * self.before + updates * self.seconds


_FINDINGS: Final = TypeAdapter(list[Finding])


def read_findings(file: Path) -> list[Finding] | None:
    """What is remembered; None if that is nothing, or nothing that can be read."""
    try:
        known = _FINDINGS.validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError):
        known = []
    if not known:
        LOG.warning("%s cannot be read: plans are tried again", file)
    return known or None


def write_findings(file: Path, known: Sequence[Finding]) -> None:
    """Remembers the findings; a folder that cannot be written is no reason to stop."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as beside:
            beside.write(_FINDINGS.dump_json(list(known), indent=1))
        Path(beside.name).replace(file)
    except OSError as error:
        LOG.warning("%s cannot be written (%s): plans are tried again next time", file, error)


def cache_folder() -> Path:
    """$CODEX_RAY_CACHE, or else ~/.cache/codex_ray."""
    named = os.environ.get("CODEX_RAY_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "codex_ray"


@cache
def kernels_digest() -> str:
    """A hash of this package's kernels, whose figures are others' when they are others."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def processor() -> str:
    """What the processor calls itself."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()
