"""What is behind the guard: a prediction, the card, the weights, the description, the figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from codex_ray.records.prometheus_text import CONTENT_TYPE
from codex_ray.serving import routes
from codex_ray.serving.guard import Call
from codex_ray.serving.http import Refused, Reply, json_reply
from codex_ray.serving.live import Live
from codex_ray.serving.metrics import Tally
from codex_ray.serving.openapi import document
from codex_ray.serving.page import asset
from codex_ray.serving.strict_json import read_strict


class Endpoints:
    """Answers calls.

    Args:
        live: the model.
        tally: the counts.
        decimals: to which probabilities are rounded: fewer tell a thief of the model less.
        unsafe: the safeguards of this server that are switched off, by name.
        ongoing: how many requests are being answered.
        labels: that tell this server's figures from another's.
    """

    def __init__(
        self,
        live: Live,
        *,
        tally: Tally,
        decimals: int,
        unsafe: tuple[str, ...],
        ongoing: Callable[[], int],
        labels: Mapping[str, str],
    ) -> None:
        self._live = live
        self._tally = tally
        self._decimals = decimals
        self._unsafe = unsafe
        self._ongoing = ongoing
        self._labels = labels

    async def answer(self, call: Call) -> Reply:
        """The reply to a call.

        Raises:
            Refused: the input is wrong, or there is no model, or it has no answer to that.
        """
        match call.route:
            case routes.PREDICT:
                return await self._predict(call)
            case routes.CARD:
                return json_reply(self._card())
            case routes.WEIGHTS:
                return self._weights()
            case routes.OPENAPI:
                return json_reply(document(self._live.now().served))
            case routes.METRICS:
                return self._metrics()
            case routes.READY:
                self._live.now()
                return json_reply({"status": "ready"})
            case routes.HEALTH:
                return json_reply({"status": "ok"})
            case _:
                return asset(call.route.name)

    async def _predict(self, call: Call) -> Reply:
        current = self._live.now()
        records = current.served.schema.read(read_strict(call.body))
        found = await current.batcher.ask(records)
        if not np.isfinite(found).all():  # the model has no answer, so that there is none to pay
            raise Refused(422, "no_answer")
        await call.charge(len(records))
        self._tally.records += len(records)
        predictions = [
            {
                "label": current.served.labels[int(row.argmax())],
                "probabilities": [round(float(p), self._decimals) for p in row],
            }
            for row in found
        ]
        return json_reply(
            {
                "model": current.served.name,
                "version": current.served.version,
                "labels": list(current.served.labels),
                "predictions": predictions,
            }
        )

    def _card(self) -> dict[str, Any]:
        served = self._live.now().served
        return {
            "model": served.name,
            "version": served.version,
            "identity": served.identity,
            "unsafe": sorted({*served.unsafe, *self._unsafe}),
            "card": dict(served.card),
        }

    def _weights(self) -> Reply:
        served = self._live.now().served
        if served.weights is None:
            raise Refused(404, "not_found")
        return Reply(served.weights, content_type="application/octet-stream")

    def _metrics(self) -> Reply:
        served = self._live.peek() if self._live.ready else None
        text = self._tally.text(
            ongoing=self._ongoing(),
            model=None if served is None else (served.name, served.version),
            swaps=self._live.swaps,
            failures=self._live.failures,
            unsafe={*self._unsafe, *(() if served is None else served.unsafe)},
            labels=self._labels,
        )
        return Reply(text, content_type=CONTENT_TYPE)
