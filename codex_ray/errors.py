"""Every error that codex_ray raises on purpose, as one tree: catch the branch that you can handle.

A message says what is wrong, where, and what to do about it, in one line.
"""

from __future__ import annotations


class CodexRayError(Exception):
    """The root: whatever codex_ray raises on purpose."""


class InputError(CodexRayError):
    """What the user wrote or pointed at cannot be used (the command line exits with 2)."""


class ConfigError(InputError):
    """A field of an experiment is wrong; the message names the field by its dotted key."""


class DataError(InputError):
    """A data set cannot be trained on: a missing file, a value that is no number, an odd label."""


class ModelError(InputError):
    """A model cannot be trained as asked; the message names the layer and the remedy."""


class RunDirectoryError(InputError):
    """A run directory holds another run, no run, or a checkpoint that cannot be read."""


class PrivacyError(CodexRayError):
    """A privacy claim that the implementation cannot back."""


class ProtocolError(CodexRayError):
    """A message breaks the secure-aggregation protocol; whoever raises it has revealed nothing."""


class SumAborted(CodexRayError):  # noqa: N818  # the protocol's own word: abort
    """A session ended without a sum: too few clients answered for a secret and exact one."""


class HostLost(CodexRayError):  # noqa: N818  # a fault of the infrastructure, not of the caller
    """A host died or went silent: an infrastructure fault, never a client dropout."""


class ClusterError(CodexRayError):
    """The cluster cannot carry the experiment; the message says what is missing."""
