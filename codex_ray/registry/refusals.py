"""What a registry refuses: something that there is not, or something that was changed."""

from __future__ import annotations

from codex_ray.errors import CodexRayError, InputError


class RegistryError(InputError):
    """A version that there is not, or that may not be promoted or served as asked."""


class TamperError(CodexRayError):
    """A file, an event or a signature in a registry is not what a trusted key signed."""
