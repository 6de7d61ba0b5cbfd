"""What clients answer about their records before a run: on the hosts that carry them, or here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from codex_ray.data.column_statistics import Floats
from codex_ray.data.raw_tables import RawTables
from codex_ray.errors import ProtocolError
from codex_ray.federation.bare_sums import SumHost
from codex_ray.federation.pooled_sums import as_words
from codex_ray.federation.transport import LocalTransport, Transport
from codex_ray.preparation.questions import Question, Shown
from codex_ray.preparation.release import Release
from codex_ray.randomness import Randomness
from codex_ray.types import ClientId, Residues


@dataclass(frozen=True)
class Answers:
    """Clients whose records can be read in this process, and who can be asked in it.

    Attributes:
        release: how the figures of the run are found.
        tables: everybody's records, read as they are asked for.
        randomness: from which clients draw their noise.
    """

    release: Release
    tables: RawTables = field(repr=False)
    randomness: Randomness

    def summand(self, question: Question, client: ClientId) -> Residues:
        """A client's answer, as it adds it to the sum of all.

        Raises:
            ProtocolError: it would tell more than the run's claim allows.
        """
        noised = self.release.prepare.noise_multiplier is not None
        if isinstance(question, Shown) != noised:
            raise ProtocolError(
                f"a question for {question.kind}, where figures are "
                f"{'noised' if noised else 'exact'}: it is not answered"
            )
        points = self._points(client)
        if isinstance(question, Shown):
            return self.release.summand(points, client, self.randomness)
        return as_words(question.of(points))

    def own(self, clients: Sequence[ClientId]) -> Iterator[Floats]:
        """Each one's figures [d], with noise of its own that hides a record of it from anybody.

        Raises:
            ProtocolError: nobody shows figures of its own in this run.
        """
        if not self.release.shown_by_owner:
            raise ProtocolError("no client of this run shows figures of its own")
        for client in clients:
            yield self.release.own(self._points(client), client, self.randomness)

    def carrier(self, question: Question, dimension: int, bits: int) -> SumHost:
        """What carries clients who answer that question with so many words of so many bits."""
        protocol = self.release.federation.protocol_for(self.release.population)
        of = partial(self.summand, question)
        return SumHost(protocol, dimension=dimension, bits=bits, summand_of=of, ahead=True)

    def seam(self, question: Question, dimension: int, bits: int) -> Transport:
        """A seam to such clients within this process."""
        return LocalTransport(self.carrier(question, dimension, bits))

    def _points(self, client: ClientId) -> Floats:
        """Its values in public units [n, m]; NaN where one is missing."""
        return self.tables.columns.counted_ranges.public(self.tables.numbers(client))
