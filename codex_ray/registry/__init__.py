"""The registry of trained models: signed versions under one folder, and who may be served.

    registry = Registry.open(folder, trusted=[read_trusted_key(Path("alice.pub.pem"))])
    served = registry.load("heart")                      # what is in production
    served = registry.load("heart", version=3)           # that version, promoted or not
    served.params, served.config, served.manifest, served.certificate, served.unsafe

`load` gives a model only after all of this holds, and otherwise raises with one line that says why:
every event's signature and place in the chain; the manifest's signature by a trusted key; the
SHA-256 of every file; the certificate, signed by a trusted key and computed again by codex-ray's
own verification (by the code that registered it: another release holds it to the manifest); and
that the version is not revoked. A version without a certificate is loaded
from a stage only if a signed event promoted it there with `allow_uncertified`, and by its number
only with `unsafe={"allow_uncertified"}`; `served.unsafe` then says so, for the page that people
read. Nothing is unpickled and no code of the run is executed. `rebuild(served)` makes a
`learning.models.Model` of it; for a model of kind `python` that calls the function which its
(signed) config names.

For whoever serves:

* `registry.current(name, stage="production")` is the `Version` in a stage, or None; it reads the
  event log and no model, so it can be asked once a second to notice promotions, rollbacks and
  revocations (`.label` is "heart@3", `.manifest_sha256` is its identity, `.state` its state).
* A `Registry` keeps the events that it has checked: a log that later lacks one of them, or has
  another in its place, is refused (`TamperError`), and so is a folder put back to an older day
  while it is watched. It may be used from several threads.
* `TamperError` (a file, event or signature is not what was signed) and `RegistryError` (no such
  version, revoked, not certified, ...) are both `CodexRayError`.
"""

from codex_ray.registry.building import rebuild
from codex_ray.registry.place import registry_folder, trusted_keys
from codex_ray.registry.refusals import RegistryError, TamperError
from codex_ray.registry.registry import Registered, Registry
from codex_ray.registry.served import ServedModel
from codex_ray.registry.states import PRODUCTION, Version

__all__ = [
    "PRODUCTION",
    "Registered",
    "Registry",
    "RegistryError",
    "ServedModel",
    "TamperError",
    "Version",
    "rebuild",
    "registry_folder",
    "trusted_keys",
]
