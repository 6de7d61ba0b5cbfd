"""`codex-ray bench secagg`: rounds of secure aggregation beside what they cannot be faster than.

The floor of a round is the keystream and addition of the masks that it needs, and the plain sum of
its vectors, at the fastest that this processor does them, measured in the same process just before.
A bar was set on one machine; where this one's primitives are slower, 1.15 times what the published
cost model gives at this machine's rates takes its place.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from codex_ray.bench.processes import cpu_seconds, memory, watching_memory
from codex_ray.bench.rates import fused_floor, measure_rates, seconds_each
from codex_ray.bench.settings import Setting
from codex_ray.bench.sums import Summed, run_round
from codex_ray.federation.bare_sums import BareSum, Samples
from codex_ray.federation.federation import Federation
from codex_ray.randomness import fresh_secret
from codex_ray.secagg.cost import Attendance, Rates, count
from codex_ray.secagg.lattice import Modulus, fresh_key
from codex_ray.secagg.lattice import mask as lattice_mask
from codex_ray.secagg.parameters import Plan
from codex_ray.secagg.prg import apply_masks, fastest_backend
from codex_ray.secagg.protocols import OneShot
from codex_ray.types import SessionContext, Stage, word_type

SLACK = 1.15
SLOWEST_MASKING = 0.9
"""The least that masking may attain of the fused floor."""

_WORD = 4


@dataclass(frozen=True)
class Row:
    """One setting, measured.

    Attributes:
        setting: its name.
        degree, threshold: of its graph.
        seconds: CPU seconds of the side that the bar is on.
        client_ms: CPU milliseconds of one client that stays to the end.
        bar, bar_here: as published, and on this machine.
        floor: CPU seconds of masks and plain sum alone.
        masking: the fused floor of a mask over the time that the product's code takes for it.
        memory, memory_bar: bytes above the idle cluster at the peak; None in one process.
        masking_bar: the least that `masking` may be; None where masks are no keystream.
        bytes_up: sent by all clients.
        masks_recovered: of dropped clients.
        exact: whether the sum was right.
    """

    setting: str
    clients: int
    dimension: int
    degree: int
    threshold: int
    seconds: float
    client_ms: float | None
    bar: float
    bar_here: float
    client_bar_here: float | None
    floor: float
    masking: float
    masking_bar: float | None
    memory: int | None
    memory_bar: float | None
    bytes_up: int
    masks_recovered: int
    exact: bool

    @property
    def holds(self) -> bool:
        """Whether every bar of the setting is met."""
        return (
            self.exact
            and self.seconds <= self.bar_here
            and _within(self.client_ms, self.client_bar_here)
            and _within(self.memory, self.memory_bar)
            and _within(self.masking_bar, self.masking)
        )


def _within(figure: float | None, bar: float | None) -> bool:
    """Whether the figure is at most the bar, if there are both."""
    return figure is None or bar is None or figure <= bar


def bench(
    settings: Iterable[Setting], *, watch: Callable[[Row], None] = lambda row: None
) -> list[Row]:
    """A row for each setting; `watch` sees each as it is done."""
    rows = []
    for setting in settings:
        rows.append(_measure(setting))
        watch(rows[-1])
    return rows


def published_seconds(
    plan: Plan, seen: Attendance, rates: Rates, *, vector: int
) -> tuple[float, float]:
    """What the published cost model gives for one client and for the server, at these rates.

    client = 2 key pairs + 2k agreements + (k + 1) masks + k envelopes + Shamir (+ k signatures);
    server = n additions + a mask for each survivor and lost pair + k agreements for each dropped
    + a rebuilt secret for each client.
    """
    counted = count(plan, seen, dimension=vector // _WORD, bits=8 * _WORD)
    client = (
        2 * rates.key_pair
        + 2 * plan.degree * rates.agreement
        + (plan.degree + 1) * vector * rates.mask
        + 2 * plan.degree * rates.seal
        + 2 * plan.degree * rates.share
        + plan.signed * plan.degree * rates.verify
    )
    server = (
        counted.additions * vector * rates.add
        + counted.server_masks * vector * rates.mask
        + (seen.shared - seen.masked) * plan.degree * rates.agreement
        + counted.rebuilt * rates.rebuild
    )
    return client, server


def _measure(setting: Setting) -> Row:
    if isinstance(setting.protocol, OneShot):
        return _measure_one_shot(setting, setting.protocol)
    plan, vector = setting.protocol.plan(setting.clients), setting.dimension * _WORD
    rates = measure_rates(
        setting.dimension, threshold=plan.threshold, holders=plan.degree + plan.complete
    )
    attained = _masking_seconds(setting.dimension, masks=plan.degree + 1) / vector
    # Measured on either side: a machine that slows down meanwhile must not look like slow code.
    mask = min(rates.mask, fused_floor(setting.dimension))
    summed, peak = _on_hosts(setting) if setting.hosts else (_here(setting), None)
    client, server = published_seconds(plan, summed.attendance, rates, vector=vector)
    counted = count(plan, summed.attendance, dimension=setting.dimension, bits=8 * _WORD)
    masks = counted.server_masks + (counted.client_masks if setting.side == "round" else 0)
    published = server + (setting.clients * client if setting.side == "round" else 0.0)
    measured = summed.server_seconds
    if setting.side == "round":
        measured += summed.client_seconds
    return Row(
        setting=setting.name,
        clients=setting.clients,
        dimension=setting.dimension,
        degree=plan.degree,
        threshold=plan.threshold,
        seconds=measured,
        client_ms=None if setting.hosts else 1e3 * summed.client_seconds / summed.active,
        bar=setting.bar,
        bar_here=max(setting.bar, SLACK * published),
        client_bar_here=setting.client_bar and max(setting.client_bar, 1e3 * SLACK * client),
        floor=masks * vector * mask + counted.additions * vector * rates.add,
        masking=mask / attained,
        masking_bar=SLOWEST_MASKING,
        memory=peak,
        memory_bar=setting.memory_bar,
        bytes_up=summed.bytes_up,
        masks_recovered=summed.masks_recovered,
        exact=summed.exact,
    )


def _measure_one_shot(setting: Setting, protocol: OneShot) -> Row:
    """The same where masks come from a lattice.

    The floor is one keystream and addition for each client that speaks, which any scheme with a
    pseudorandom mask needs, and the plain sum.
    """
    plan = protocol.plan(setting.clients)
    vector = setting.dimension * (setting.bits // 8)
    mask = fused_floor(setting.dimension)
    summed = _here(setting)
    modulus = Modulus.of_sum(setting.clients, setting.bits)
    words = np.zeros(setting.dimension, dtype=word_type(setting.bits))
    context = SessionContext(b"bench".ljust(16), 0, 0, bytes(32), setting.dimension, setting.bits)
    key = fresh_key()
    attained = seconds_each(lambda: lattice_mask(words, key, context=context, modulus=modulus))
    return Row(
        setting=setting.name,
        clients=setting.clients,
        dimension=setting.dimension,
        degree=plan.size,
        threshold=plan.threshold,
        seconds=summed.client_seconds + summed.server_seconds,
        client_ms=1e3 * summed.client_seconds / summed.active,
        bar=setting.bar,
        bar_here=setting.bar,
        client_bar_here=None,
        floor=summed.active * vector * mask,
        masking=vector * mask / attained,
        masking_bar=None,
        memory=None,
        memory_bar=None,
        bytes_up=summed.bytes_up,
        masks_recovered=0,
        exact=summed.exact,
    )


def _masking_seconds(dimension: int, *, masks: int) -> float:
    """CPU seconds of one mask among those that a client puts on its summand."""
    words = np.zeros(dimension, dtype=np.uint32)
    applied = [(fresh_secret(), bool(at % 2)) for at in range(masks)]
    fastest_backend()  # chosen before the clock starts, as in a client's second session
    return seconds_each(lambda: apply_masks(words, applied)) / masks


def _here(setting: Setting) -> Summed:
    context = SessionContext(b"bench".ljust(16), 0, 0, bytes(32), setting.dimension, setting.bits)
    return run_round(
        setting.protocol, context, clients=setting.clients, silent_from=setting.silent_from
    )


def _on_hosts(setting: Setting) -> tuple[Summed, int]:
    """The second of two rounds over Ray hosts, and the peak memory above the idle cluster.

    The first round opens connections and meets enrolled keys for the first time.
    """
    from codex_ray.cluster.sum_hosts import sum_hosts

    federation = Federation(protocol=setting.protocol)
    with sum_hosts(
        federation,
        hosts=setting.hosts,
        clients=setting.clients,
        dimension=setting.dimension,
    ) as transport:
        idle = memory()
        for round_ in range(2):
            bare = BareSum(transport, setting.protocol, setting.dimension, setting.silent_from)
            began = cpu_seconds()
            with watching_memory() as peak:
                result = bare.run(setting.clients, round=round_)
            took = cpu_seconds() - began
    group = result.groups[0]
    answered = bare.answered
    summed = Summed(
        clients=setting.clients,
        active=answered[Stage.MASKED_INPUT],
        client_seconds=took,
        server_seconds=0.0,
        bytes_up=bare.bytes_up,
        attendance=Attendance(
            answered[Stage.ADVERTISE_KEYS],
            answered[Stage.SHARE_KEYS],
            answered[Stage.MASKED_INPUT],
            answered[Stage.UNMASK],
        ),
        masks_recovered=result.masks_recovered,
        exact=bool(np.array_equal(group.total, Samples(setting.dimension).total(group.members))),
    )
    return summed, peak.bytes - idle


def to_json(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """The rows as plain data, with the verdict of each."""
    return [asdict(row) | {"holds": row.holds} for row in rows]


def write_json(rows: Iterable[Row], file: Path) -> None:
    """Writes the rows and the keystream that this machine chose."""
    found = {"keystream": fastest_backend(), "rows": to_json(rows)}
    file.write_text(json.dumps(found, indent=2) + "\n")
