"""The registry: runs become versions, versions go into stages, and only what holds comes out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from codex_ray.records.keys import SigningKey, TrustedKey
from codex_ray.registry.certified import checked
from codex_ray.registry.drafts import draft
from codex_ray.registry.events import Event, Switch
from codex_ray.registry.index import Index
from codex_ray.registry.log import Log
from codex_ray.registry.manifest import Manifest, Name, StoredFile
from codex_ray.registry.objects import Objects
from codex_ray.registry.refusals import RegistryError, TamperError
from codex_ray.registry.served import ServedModel, Shelf
from codex_ray.registry.snapshot import snapshot
from codex_ray.registry.states import PRODUCTION, States, Version

_NAME: TypeAdapter[str] = TypeAdapter(Name)


@dataclass(frozen=True)
class Registered:
    """The version that a run is, and whether it is new."""

    version: Version
    new: bool


class Registry:
    """The models under a folder, as far as trusted keys vouch for them, from any thread.

    Made by `open` and `create`.
    """

    def __init__(
        self,
        folder: Path,
        trusted: Sequence[TrustedKey],
        *,
        key: SigningKey | None,
        head: str | None = None,
    ) -> None:
        own = () if key is None else (key.public,)
        keys = tuple(dict.fromkeys((*own, *trusted)))
        if not keys:
            raise RegistryError(f"{folder}: nobody is trusted: give somebody's public key")
        self.folder = folder
        self._key = key
        self._log = Log(folder, trusted=keys, key=key, head=head)
        self._shelf = Shelf(Objects(folder), keys)

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        trusted: Sequence[TrustedKey],
        key: SigningKey | None = None,
        head: str | None = None,
    ) -> Registry:
        """The registry in `folder`.

        Args:
            trusted: who is believed, on events, manifests and certificates alike.
            key: signs changes; its owner is trusted too. Reading needs none.
            head: "EVENTS:HASH" as `head()` gave it: a registry that does not go on from there is
                refused, though it be consistent in itself.

        Raises:
            RegistryError: there is none, or nobody is trusted.
            TamperError: it is not what trusted keys signed.
        """
        path = Path(folder)
        if not Index(path).exists():
            raise RegistryError(
                f"{path}: holds no registry: give another --registry, or make one with codex-ray "
                "run FILE --register NAME"
            )
        found = cls(path, trusted, key=key, head=head)
        found._log.states()
        return found

    @classmethod
    def create(
        cls,
        folder: str | Path,
        *,
        key: SigningKey,
        trusted: Sequence[TrustedKey] = (),
        head: str | None = None,
    ) -> Registry:
        """The registry in `folder`, as `open`; if there is none it is made, for its owner alone.

        Raises:
            RegistryError: it cannot be made.
            TamperError: there is one, and it is not what trusted keys signed.
        """
        path = Path(folder)
        if not Index(path).exists():
            try:
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise RegistryError(
                    f"{path}: cannot be made: {error.strerror or error}: choose another --registry"
                ) from None
            cls(path, trusted, key=key)._log.create()
        return cls.open(path, trusted=trusted, key=key, head=head)

    def head(self) -> str:
        """How far the log has come, "EVENTS:HASH": who keeps it can tell an older one."""
        return self._log.head()

    def events(self) -> tuple[Event, ...]:
        """Everything that was ever changed."""
        return self._log.events()

    def versions(self, name: str | None = None) -> list[Version]:
        """Every version (of a name), in the order of names and numbers.

        Raises:
            RegistryError: there is none of that name.
        """
        states = self._log.states()
        if name is not None:
            states.check_name(name)
        return states.versions(name)

    def current(self, name: str, *, stage: str = PRODUCTION) -> Version | None:
        """The version in a stage; None if there is none, or it was revoked."""
        states = self._log.states()
        promotion = states.current(name, stage)
        return None if promotion is None else states.version(name, promotion.version)

    def version(self, name: str, number: int | None = None, *, stage: str = PRODUCTION) -> Version:
        """The version of that number; without one, what is in a stage.

        Raises:
            RegistryError: there is none, and what to do about it.
        """
        return self._log.states().chosen(name, number, stage=stage)

    def manifest(self, version: Version) -> Manifest:
        """What a version is, with its signature checked.

        Raises:
            TamperError: it is not what a trusted key signed.
        """
        return self._shelf.manifest(version)

    def load(
        self,
        name: str,
        version: int | None = None,
        *,
        stage: str = PRODUCTION,
        unsafe: Collection[Switch] = (),
        recompute: bool = True,
    ) -> ServedModel:
        """The model, after everything that vouches for it has been checked.

        Args:
            version: its number; without one, whatever is in `stage`.
            unsafe: the unsafe switches that whoever asks takes upon themselves. Without a number
                those count as well with which the version was promoted to the stage; they are good
                for that stage alone.
            recompute: also compute the certificate again, as `account --verify` does, if the code
                that registered the version runs here. Whoever signed the manifest had done that;
                another release would say the same in other words, so that it holds the version to
                the manifest. Without it this code does so as well: for further copies of what was
                loaded with it.

        Raises:
            RegistryError: there is no such version, or it is revoked, or has no certificate.
            TamperError: something is not what a trusted key signed.
        """
        states = self._log.states()
        found = states.chosen(name, version, stage=stage)
        promotion = states.current(name, stage) if version is None else None
        switches: set[str] = {*(() if promotion is None else promotion.unsafe), *unsafe}
        states.check_promotable(found.name, found.version)
        manifest = self.manifest(found)
        if manifest.uncertified is not None and "allow_uncertified" not in switches:
            raise RegistryError(
                f"{found.label}: {manifest.uncertified}: promote it with --allow-uncertified if it "
                "may be used all the same; the event and its card will say so"
            )
        again = recompute and "skip_recompute" not in switches and manifest.of_this_code
        return self._shelf.contents(found, manifest, switches=switches, recompute=again)

    def look_at(self, version: Version, *, recompute: bool = False) -> ServedModel:
        """A version to be read about or exported, even if it is revoked or has no certificate.

        Raises:
            TamperError: something of it is not what a trusted key signed.
        """
        return self._shelf.contents(
            version, self.manifest(version), switches=version.unsafe, recompute=recompute
        )

    def register(
        self,
        run: str | Path,
        name: str,
        *,
        parent: int | None = None,
        input_shape: Sequence[int] | None = None,
        data_card: str | Path | None = None,
    ) -> Registered:
        """The version that a finished run is from now on, or that it has been since before.

        Args:
            parent: the version that it goes on from; by default the last one of its name.
            input_shape: of one record, where the model does not tell it itself.
            data_card: the data's card; by default the one in the run directory, if there is one.

        Raises:
            InputError: there is no such run or parent, it has not ended, or the name is none.
            TamperError: the run's certificate does not hold.
        """
        check_name(name)
        objects, key = self._shelf.objects, self._log.signing()
        found = snapshot(Path(run), data_card=None if data_card is None else Path(data_card))
        about = checked(found.files, found.hashes, trusted=self._shelf.trusted, of=str(run))
        with objects.shared():
            files = {
                file: StoredFile(sha256=objects.put(content), size=len(content))
                for file, content in sorted(found.files.items())
            }
            drafted = draft(found, name, files, about=about, input_shape=input_shape)

            def decide(states: States) -> dict[str, Any] | None:
                if states.of_run(name, drafted.run_digest) is not None:
                    return None
                last = states.last_number(name)
                if parent is not None:
                    states.version(name, parent)
                numbered = {"version": last + 1, "parent": parent or last or None}
                manifest = drafted.model_copy(update=numbered).signed_by(key)
                return {
                    **_change("registered", name, last + 1),
                    "manifest": objects.put(manifest.to_bytes()),
                    "run_digest": drafted.run_digest,
                }

            event = self._log.add(decide)
        states = self._log.states()
        number = states.of_run(name, drafted.run_digest)
        assert number is not None  # it was there, or has been added
        return Registered(states.version(name, number), new=event is not None)

    def promote(
        self, name: str, version: int, *, stage: str = PRODUCTION, unsafe: Collection[Switch] = ()
    ) -> Version:
        """The version, now in a stage, after `load` took it. Nothing happens if it was there.

        Raises:
            RegistryError: it is revoked, or has no certificate, or there is none of that number.
            TamperError: something of it is not what a trusted key signed.
        """
        check_name(stage, what="stage")
        switches = tuple(sorted(set(unsafe)))
        self.load(name, version, unsafe=switches)

        def decide(states: States) -> dict[str, Any] | None:
            now = states.current(name, stage)
            if now is not None and (now.version, now.unsafe) == (version, switches):
                return None
            states.check_promotable(name, version)
            return _change("promoted", name, version) | {"stage": stage, "unsafe": switches}

        self._log.add(decide)
        return self.version(name, version)

    def rollback(self, name: str, *, stage: str = PRODUCTION) -> Version:
        """The version that was in a stage before, and is there again.

        It is checked as `load` does, with the switches that it was promoted with.

        Raises:
            RegistryError: there was none that is not revoked.
            TamperError: something of it is not what a trusted key signed.
        """
        target = self._log.states().before(name, stage)
        switches: tuple[Any, ...] = target.unsafe
        self.load(name, target.version, unsafe=switches)

        def decide(states: States) -> dict[str, Any]:
            if states.before(name, stage) != target:
                raise RegistryError(f"{name}: somebody has just changed {stage}: look again")
            change = _change("rolled back", name, target.version)
            return change | {"stage": stage, "unsafe": switches}

        self._log.add(decide)
        return self.version(name, target.version)

    def revoke(self, name: str, version: int, *, reason: str) -> Version:
        """The version, never to be promoted or loaded again.

        Raises:
            RegistryError: there is none, or it is revoked already, or no reason is given.
        """
        words = " ".join(reason.split())
        if not words or not words.isprintable():
            raise RegistryError(
                f"{name}@{version}: give the --reason for which it is revoked, in printable text"
            )

        def decide(states: States) -> dict[str, Any]:
            states.check_promotable(name, version)
            return _change("revoked", name, version) | {"reason": words}

        self._log.add(decide)
        return self.version(name, version)

    def verify(
        self, versions: Iterable[Version] | None = None, *, recompute: bool = True
    ) -> list[str]:
        """A line for each thing that is not as it should be in (these) versions; none is well.

        That the event log holds was found when the registry was opened, and is found again here.

        Args:
            recompute: also compute certificates again that this code has registered.
        """
        wrong: list[str] = []
        for version in self.versions() if versions is None else versions:
            try:
                again = recompute and self.manifest(version).of_this_code
                self.look_at(version, recompute=again)
            except TamperError as error:
                wrong.append(str(error))
        return wrong

    def reads_otherwise(self, versions: Iterable[Version] | None = None) -> list[str]:
        """A line for each version of another release whose certificate this one would not write.

        It holds all the same: whoever signed its manifest had computed the certificate again. But a
        reader may want to know that figures, or words, have changed since.
        """
        found: list[str] = []
        for version in self.versions() if versions is None else versions:
            code = self.manifest(version).code
            try:
                if not self.manifest(version).of_this_code:
                    self.look_at(version, recompute=True)
            except TamperError as error:
                found.append(
                    f"{error}; codex_ray {code.codex_ray} ({code.source[:12]}) verified it"
                )
        return found

    def sweep(self) -> list[Path]:
        """Removes the files that no version has (a crash leaves some), and returns their paths.

        Raises:
            TamperError: a version cannot be read, so that nobody knows what it has.
        """
        with self._shelf.objects.alone():
            return self._shelf.objects.sweep(self._named())

    def unnamed(self) -> list[Path]:
        """The files that no version has."""
        named = self._named()
        return [path for path in self._shelf.objects.all_files() if path.name not in named]

    def _named(self) -> set[str]:
        named: set[str] = set()
        for version in self.versions():
            named.add(version.manifest_sha256)
            named |= {stored.sha256 for stored in self.manifest(version).files.values()}
        return named


def check_name(name: str, *, what: str = "name") -> None:
    """Refuses a name that is not safe in a path, a URL and a log line.

    Raises:
        RegistryError: saying what one looks like.
    """
    try:
        _NAME.validate_python(name)
    except ValidationError:
        raise RegistryError(
            f"{name!r}: is no {what}: letters, digits, '.', '_' and '-', at most 64, the first a "
            "letter or digit"
        ) from None


def _change(kind: str, name: str, version: int) -> dict[str, Any]:
    return {"kind": kind, "name": name, "version": version}
