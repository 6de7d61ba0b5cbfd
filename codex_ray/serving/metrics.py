"""What a server counts: requests by route and status, seconds, reloads; nothing of any caller."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from codex_ray.records.prometheus_text import Sample, Series, to_text

BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

REQUESTS: Final = Series("codex_ray_serve_requests_total", "counter", "Requests answered.")
REFUSALS: Final = Series(
    "codex_ray_serve_refusals_total", "counter", "Requests refused, by what they were told."
)
SECONDS: Final = Series("codex_ray_serve_seconds_total", "counter", "Seconds spent on requests.")
WITHIN: Final = Series(
    "codex_ray_serve_within_total", "counter", "Requests answered within le seconds."
)
RECORDS: Final = Series("codex_ray_serve_records_total", "counter", "Records predicted.")
ONGOING: Final = Series("codex_ray_serve_ongoing", "gauge", "Requests that are being answered.")
READY: Final = Series("codex_ray_serve_ready", "gauge", "1 when there is a model to answer.")
MODEL: Final = Series("codex_ray_serve_model", "gauge", "1, for the version that answers.")
SWAPS: Final = Series("codex_ray_serve_swaps_total", "counter", "Models that replaced another.")
FAILURES: Final = Series(
    "codex_ray_serve_reload_failures_total", "counter", "Models that could not be loaded."
)
UNLOGGED: Final = Series(
    "codex_ray_serve_log_failures_total", "counter", "Lines that the access log could not take."
)
UNSAFE: Final = Series(
    "codex_ray_serve_unsafe", "gauge", "1, for each safeguard that was switched off."
)


class Tally:
    """Counts of one server."""

    def __init__(self) -> None:
        self._requests: Counter[tuple[str, int]] = Counter()
        self._refusals: Counter[str] = Counter()
        self._within: Counter[tuple[str, float]] = Counter()
        self._seconds: Counter[str] = Counter()
        self.records = 0
        self.unlogged = 0

    def answered(self, route: str, status: int, seconds: float, *, refusal: str | None) -> None:
        """Counts one request; every name is one of ours, so there are few of them."""
        self._requests[route, status] += 1
        self._seconds[route] += seconds  # type: ignore[assignment]  # a sum of floats
        for bound in BOUNDS:
            if seconds <= bound:
                self._within[route, bound] += 1
        self._within[route, float("inf")] += 1
        if refusal is not None:
            self._refusals[refusal] += 1

    def text(
        self,
        *,
        ongoing: int,
        model: tuple[str, str] | None,
        swaps: int,
        failures: int,
        unsafe: Iterable[str],
        labels: Mapping[str, str],
    ) -> bytes:
        """All figures as Prometheus reads them; `labels` tell this server from others."""

        def one(value: float, **more: str) -> Sample:
            return Sample(value, {**labels, **more})

        requests = [
            one(n, route=route, status=str(status))
            for (route, status), n in sorted(self._requests.items())
        ]
        within = [
            one(n, route=route, le="+Inf" if le == float("inf") else repr(le))
            for (route, le), n in sorted(self._within.items())
        ]
        served = [] if model is None else [one(1, model=model[0], version=model[1])]
        return to_text(
            [
                (REQUESTS, requests),
                (REFUSALS, [one(n, code=code) for code, n in sorted(self._refusals.items())]),
                (SECONDS, [one(s, route=route) for route, s in sorted(self._seconds.items())]),
                (WITHIN, within),
                (RECORDS, [one(self.records)]),
                (ONGOING, [one(ongoing)]),
                (READY, [one(model is not None)]),
                (MODEL, served),
                (SWAPS, [one(swaps)]),
                (FAILURES, [one(failures)]),
                (UNLOGGED, [one(self.unlogged)]),
                (UNSAFE, [one(1, switch=name) for name in sorted(unsafe)]),
            ]
        )
