"""Local training of many clients in one program, with the draws of the reference.

Batches and noise come from the same streams as in `trainers.LocalTraining`, so an update differs
from the reference's by rounding alone. A chunk has a fixed number of lanes and a batch a fixed
number of rows, whoever is in them; what is missing is padded and counts for nothing. So an update
has the same bits whatever chunk its client is in, wherever in it, and however full it is.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import Final

import torch

from codex_ray.learning.batches import PoissonBatches
from codex_ray.learning.captured import CapturedSteps, CudaGraphs
from codex_ray.learning.clipping import Clipping
from codex_ray.learning.dp_sgd import DpSgd
from codex_ray.learning.jobs import Job, Padded, Uneven, rows_for
from codex_ray.learning.kernels import LaneKernel, LaneSteps, lane_kernel
from codex_ray.learning.lanes import Chunk
from codex_ray.learning.local_steps import PrivateSteps, plain_steps
from codex_ray.learning.opening import may_prefetch, opened
from codex_ray.learning.plans import Plan
from codex_ray.learning.trainers import LocalTraining, Sgd, Take, check_labels
from codex_ray.privacy.mechanism import Fact
from codex_ray.privacy.passengers import Told
from codex_ray.types import ClientId, Residues

LOG = logging.getLogger(__name__)
WINDOW: Final = 8
"""Chunks whose clients are drawn together, to put those of like length side by side."""
AHEAD: Final = 2
"""And where the next ones' records are opened meanwhile, of whom there should be some."""


@dataclass(frozen=True)
class VectorisedTraining:
    """What a host carries, as `LocalTraining`, with clients trained by a plan.

    A model or a trainer that the plan's kernel cannot do is left to the reference, and the log says
    so once.

    Attributes:
        reference: the same training, one client at a time.
        plan: by which kernel, and how many clients at a time.
    """

    reference: LocalTraining
    plan: Plan
    _counts: dict[ClientId, Clipping] = field(default_factory=dict, repr=False)
    _shape: list[tuple[int, ...]] = field(default_factory=list, repr=False)
    _kernels: dict[tuple[int, ...], LaneKernel | None] = field(default_factory=dict, repr=False)
    _rooms: dict[tuple[int, int], LaneSteps] = field(default_factory=dict, repr=False)
    _data: dict[tuple[int, int], Padded] = field(default_factory=dict, repr=False)
    _features: list[torch.Tensor] = field(default_factory=list, repr=False)
    _graphs: CudaGraphs = field(default_factory=CudaGraphs, repr=False)

    def train(
        self, params: torch.Tensor, clients: Sequence[ClientId], round: int
    ) -> torch.Tensor:  # [n, d]
        """The updates [n, d] of `clients`, in their order, on the plan's device."""
        self._counts.clear()
        kernel = self._kernel_of(clients)
        device = torch.device(self.plan.device)
        if kernel is None:
            return self.reference.train(params, clients, round).to(device)
        start = params.to(device)
        out = torch.zeros((len(clients), self.dimension), device=device)
        lanes, ahead = kernel.lanes(self.plan), may_prefetch(self.reference.dataset)
        window = lanes * (AHEAD if ahead else WINDOW)
        places = range(len(clients))

        def jobs_of(some: range) -> list[Job]:
            with torch.no_grad():  # which is every thread's own
                return [self._job(place, clients[place], round, kernel) for place in some]

        windows = [places[first : first + window] for first in places[::window]]
        with torch.no_grad():
            for jobs in opened(windows, jobs_of, ahead=ahead):
                for chunk in _chunks(jobs, lanes, exact=kernel.exact):
                    self._train(kernel, chunk, start, out)
        return out

    def _kernel_of(self, clients: Sequence[ClientId]) -> LaneKernel | None:
        """The kernel for the clients' records; None for the reference."""
        if self.plan.kernel == "reference" or not clients:
            return None
        if not self._shape:  # which is that of all clients: opening one may take long
            self._shape.append(self.reference.dataset.client(clients[0]).features.shape[1:])
        return self._kernel(self._shape[0])

    def _kernel(self, shape: tuple[int, ...]) -> LaneKernel | None:
        """The kernel for records of that shape; None for the reference, and the log says why."""
        if shape not in self._kernels:
            found = lane_kernel(
                self.reference.model, self.reference.trainer, self.plan, example=shape
            )
            if isinstance(found, str):
                LOG.warning("clients are trained one at a time: %s", found)
            self._kernels[shape] = None if isinstance(found, str) else found
        return self._kernels[shape]

    def _is_uneven(self, kernel: LaneKernel) -> bool:
        """Whether lanes lie end to end, as they do where batches are of random size."""
        trainer = self.reference.trainer
        assert isinstance(trainer, Sgd | DpSgd)  # There is a kernel for no other.
        on_cpu = torch.device(self.plan.device).type == "cpu"
        return kernel.uneven and on_cpu and isinstance(trainer.batches, PoissonBatches)

    def _job(self, place: int, client: ClientId, round: int, kernel: LaneKernel) -> Job:
        """The client's training, drawn as the reference draws it."""
        reference = self.reference
        assert isinstance(reference.trainer, Sgd | DpSgd)  # There is a kernel for no other.
        records = reference.dataset.client(client)
        check_labels(records, reference.model.outputs, where=f"client {client}")
        streams = reference.streams.child("train", round, client)
        rule = reference.trainer.batches
        batches = rule.draw(len(records), streams.stream("batches"))
        compiled = self.plan.kernel == "compiled"
        rows = 0 if self._is_uneven(kernel) else rows_for(rule, batches, compiled=compiled)
        return Job(place, client, records, batches, rows, streams)

    def _room(self, kernel: LaneKernel, rows: int, lanes: int) -> LaneSteps:
        """The weights of a chunk of that shape, made once."""
        if (rows, lanes) not in self._rooms:
            chunk = Chunk(lanes, rows, torch.device(self.plan.device), self.plan.product)
            steps = kernel.steps(chunk)
            if chunk.device.type == "cuda" and self.plan.kernel == "vectorised":
                steps = CapturedSteps(steps, self._graphs)
            self._rooms[rows, lanes] = steps
        return self._rooms[rows, lanes]

    def _batches(self, jobs: list[Job], lanes: int) -> Padded | Uneven:
        """The batches of a chunk, in memory that the next one overwrites."""
        job = jobs[0]
        if not job.rows:
            memory = self._features[0] if self._features else None
            found = Uneven.of(jobs, lanes, memory)
            if memory is None or memory.data_ptr() != found.features.data_ptr():
                self._features[:] = [found.features]
            return found
        steps, rows, shape = len(job.batches), job.rows, job.records.features.shape[1:]
        held = self._data.get((rows, lanes))
        if held is None or held.labels.shape[1] < steps or held.features.shape[3:] != shape:
            held = self._data[rows, lanes] = Padded.room(lanes, steps, rows, shape)
        return Padded.of(jobs, held).to(torch.device(self.plan.device))

    def _train(
        self, kernel: LaneKernel, jobs: list[Job], params: torch.Tensor, out: torch.Tensor
    ) -> None:
        """Trains one chunk, and puts each update in its place."""
        most = kernel.lanes(self.plan)
        part = self.plan.part_of(most)
        lanes = min(most, -(-len(jobs) // part) * part)
        room = self._room(kernel, jobs[0].rows, lanes)
        data = self._batches(jobs, lanes)
        room.load(params)
        trainer = self.reference.trainer
        if isinstance(trainer, DpSgd):
            ends = self._private.take(room, jobs, data, kernel, lanes=lanes, counts=self._counts)
        else:
            assert isinstance(trainer, Sgd)
            ends = plain_steps(trainer, room, jobs, data, kernel)
        done = len(jobs)
        for end in ends:
            # Jobs come longest first. One that is done is read out before its lane goes on.
            live = sum(len(job.batches) > end for job in jobs)
            if live < done:
                self._store(room, params, out, jobs=jobs[live:done], lanes=slice(live, done))
                done = live

    def _store(
        self,
        room: LaneSteps,
        params: torch.Tensor,
        out: torch.Tensor,
        *,
        jobs: list[Job],
        lanes: slice,
    ) -> None:
        """Puts the updates of jobs that are done in their places, by one pass if they are a run."""
        places = [job.place for job in jobs]
        if places == list(range(places[0], places[0] + len(jobs))):
            room.store(out[places[0] : places[0] + len(jobs)], params, lanes)
            return
        found = torch.empty((len(jobs), self.dimension), device=out.device)
        room.store(found, params, lanes)
        out[places] = found

    @cached_property
    def _private(self) -> PrivateSteps:
        """What takes the steps of DP-SGD."""
        trainer = self.reference.trainer
        assert isinstance(trainer, DpSgd)  # Others' steps are taken elsewhere.
        return PrivateSteps(trainer, [shape.numel() for _, shape in self.reference.model.names()])

    def clipping(self, client: ClientId) -> tuple[int, int, int]:
        """(records met, clipped, not finite) in the client's last training; for debugging only."""
        counts = self._counts.get(client)
        if counts is None:
            return self.reference.clipping(client)
        return counts.examples, counts.clipped, counts.not_finite

    def summed(
        self, params: torch.Tensor, client: ClientId, round: int, *, clip_norm: float, take: Take
    ) -> Residues:
        """As the reference: each record's step is rounded by itself, so there is no chunk."""
        return self.reference.summed(params, client, round, clip_norm=clip_norm, take=take)

    def tell(
        self, params: torch.Tensor, clients: Sequence[ClientId], asked: Collection[Fact]
    ) -> list[Told]:
        """As the reference."""
        return self.reference.tell(params, clients, asked)

    @property
    def dimension(self) -> int:
        """d, the length of an update."""
        return self.reference.dimension


def _chunks(jobs: list[Job], lanes: int, *, exact: bool) -> Iterator[list[Job]]:
    """The jobs that have steps, by shape and longest first, so many at a time."""

    def shape(job: Job) -> tuple[int, ...]:
        return job.lengths if exact else (job.rows,)

    jobs = sorted(
        (job for job in jobs if job.batches),
        key=lambda job: (shape(job), -len(job.batches), job.place),
    )
    for _, alike in groupby(jobs, key=shape):
        rest = list(alike)
        for first in range(0, len(rest), lanes):
            yield rest[first : first + lanes]
