"""The local steps of a chunk of clients: one after the other, or several as one program."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Final, NamedTuple

import torch

from codex_ray.learning.clipping import Clipping
from codex_ray.learning.dp_sgd import DpSgd
from codex_ray.learning.epochs import EpochSteps, pieces
from codex_ray.learning.jobs import Job, Padded, Uneven
from codex_ray.learning.kernels import LaneKernel, LaneSteps
from codex_ray.learning.lane_noise import StepNoise
from codex_ray.learning.spans import LaneBatch
from codex_ray.learning.trainers import Sgd
from codex_ray.types import ClientId

DRAWN: Final = 1 << 16
"""Normals that are drawn in one go, where a step needs fewer."""


class Cut(NamedTuple):
    """Steps that are taken together: the first of them, and the one after the last."""

    first: int
    end: int

    @property
    def length(self) -> int:
        """How many they are."""
        return self.end - self.first


def cuts_of(jobs: Sequence[Job], kernel: LaneKernel) -> list[Cut]:
    """How the steps of a chunk, whose jobs come longest first, are cut.

    Between any two steps at which a job ends, or at which a batch is short and may not be padded,
    into powers of two, the largest first, none longer than the kernel joins.
    """
    stops = {0} | {len(job.batches) for job in jobs}
    for step in range(len(jobs[0].batches)):
        if _is_short(jobs, step, kernel):
            stops |= {step, step + 1}
    cuts = []
    for at, last in pairwise(sorted(stops)):
        ends = accumulate(pieces(last - at, kernel.joined), initial=at)
        cuts += [Cut(*two) for two in pairwise(ends)]
    return cuts


def _is_short(jobs: Sequence[Job], step: int, kernel: LaneKernel) -> bool:
    """Whether a step's batches are short and may not be padded; all lanes' are as long."""
    return kernel.exact and jobs[0].lengths[step] < jobs[0].rows


def plain_steps(
    trainer: Sgd, room: LaneSteps, jobs: Sequence[Job], data: Padded | Uneven, kernel: LaneKernel
) -> Iterator[int]:
    """Takes the steps of SGD by cuts, and yields where each ends; an empty batch does nothing."""
    data, rate = data.averaged(), trainer.learning_rate
    for cut in cuts_of(jobs, kernel):
        first = cut.first == 0
        if isinstance(room, EpochSteps) and not _is_short(jobs, cut.first, kernel):
            room.descend_through(_through(data, cut), rate=rate, first=first)
        else:
            rows = jobs[0].lengths[cut.first] if kernel.exact else None
            room.descend(data.step(cut.first, rows), rate=rate, first=first)
        yield cut.end


@dataclass(frozen=True)
class PrivateSteps:
    """Takes the steps of DP-SGD.

    Attributes:
        trainer: whose learning rate, clip norm and noise.
        sizes: of the model's parameters, by which noise is drawn.
    """

    trainer: DpSgd
    sizes: Sequence[int]
    _noise: dict[tuple[int, int], tuple[StepNoise, torch.Tensor]] = field(
        default_factory=dict, repr=False
    )

    def take(
        self,
        room: LaneSteps,
        jobs: Sequence[Job],
        data: Padded | Uneven,
        kernel: LaneKernel,
        *,
        lanes: int,
        counts: dict[ClientId, Clipping],
    ) -> Iterator[int]:
        """Takes steps cut by cut, and yields where each ends; at last `counts` has what it did."""
        rate, clip_norm = self.trainer.rate, self.trainer.clip_norm
        clipped = torch.zeros(lanes, dtype=torch.int64, device=data.there.device)
        lost, noise = clipped.clone(), self._drawn(jobs, kernel, lanes, clipped.device)
        for cut in cuts_of(jobs, kernel):
            first, by = cut.first == 0, noise(cut)
            if isinstance(room, EpochSteps):
                found = room.descend_clipped_through(
                    _through(data, cut), by, rate=rate, clip_norm=clip_norm, first=first
                )
            else:
                found = room.descend_clipped(
                    data.step(cut.first), rate=rate, clip_norm=clip_norm, first=first
                )
                room.shift(by[:, 0], rate=-rate)
            clipped, lost = clipped + found[0], lost + found[1]
            yield cut.end
        for job, few, none in zip(jobs, clipped.tolist(), lost.tolist(), strict=False):
            counts[job.client] = Clipping(sum(job.lengths), few, none)

    def _drawn(
        self, jobs: Sequence[Job], kernel: LaneKernel, lanes: int, device: torch.device
    ) -> Callable[[Cut], torch.Tensor]:
        """What gives the noise of each cut in turn [lanes, steps, d], drawn as few times as pays.

        What it gives is overwritten when more is drawn.
        """
        streams = [job.streams.stream("noise") for job in jobs]
        scale = self.trainer.noise_multiplier * self.trainer.clip_norm
        dimension = sum(self.sizes)
        least = _steps_of_noise(len(jobs[0].batches), dimension) if kernel.joined == 1 else 1
        held, begins = torch.empty(0), 0

        def of(cut: Cut) -> torch.Tensor:
            nonlocal held, begins
            if cut.first == 0 or cut.end > begins + held.shape[1]:
                steps = max(least, cut.length)
                drawing, room = self._room(lanes, steps)
                for lane, stream in enumerate(streams):
                    drawing.draw(stream, scale, out=room[lane])
                held, begins = room.to(device).view(lanes, steps, dimension), cut.first
            return held[:, cut.first - begins : cut.end - begins]

        return of

    def _room(self, lanes: int, steps: int) -> tuple[StepNoise, torch.Tensor]:
        """What draws the noise of so many steps, and room for every lane's, made once."""
        if (lanes, steps) not in self._noise:
            room = torch.zeros((lanes, steps * sum(self.sizes)))
            self._noise[lanes, steps] = StepNoise([*self.sizes] * steps), room
        return self._noise[lanes, steps]


def _through(data: Padded | Uneven, cut: Cut) -> LaneBatch:
    """The batches of several steps."""
    assert isinstance(data, Padded)  # Lanes lie end to end only where each step is by itself.
    return data.through(cut.first, cut.length)


def _steps_of_noise(steps: int, dimension: int) -> int:
    """For how many steps noise is drawn at a time: small models' for many, to save calls."""
    draws = -(-steps // max(1, DRAWN // dimension))
    return -(-steps // draws)
