"""The few doors there are: what may be asked, by which method, and the action that it amounts to.

A path is compared as the bytes that came, undecoded, so that no spelling of `..` or `%2f` means
anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from codex_ray.serving.http import Refused


@dataclass(frozen=True)
class Route:
    """One thing that can be asked for.

    Attributes:
        name: also what the access log and the metrics say.
        action: what the policy has to allow; None is open to everyone who can connect.
        reads_body: whether it takes a body, which is JSON.
        supported: False is a door for the policy's sake: whoever may open it finds a wall (405).
    """

    name: str
    action: str | None
    reads_body: bool = False
    supported: bool = True


PREDICT: Final = Route("predict", "model:Predict", reads_body=True)
CARD: Final = Route("card", "model:GetCard")
WEIGHTS: Final = Route("weights", "model:GetObject")
OPENAPI: Final = Route("openapi", "model:GetSchema")
METRICS: Final = Route("metrics", "metrics:Get")
HEALTH: Final = Route("healthz", None)
READY: Final = Route("readyz", None)
PAGE: Final = Route("page", None)
PAGE_SCRIPT: Final = Route("page.js", None)
PAGE_STYLE: Final = Route("page.css", None)

PROBES: Final = frozenset((b"/healthz", b"/readyz"))
"""Paths that whoever watches over the server asks, and that cost nothing."""

ROUTES: Final[Mapping[bytes, Mapping[str, Route]]] = {
    b"/v1/predict": {"POST": PREDICT},
    b"/v1/card": {"GET": CARD},
    b"/v1/model": {
        "GET": WEIGHTS,
        "PUT": Route("put_weights", "model:PutObject", supported=False),
        "DELETE": Route("delete_weights", "model:DeleteObject", supported=False),
    },
    b"/openapi.json": {"GET": OPENAPI},
    b"/metrics": {"GET": METRICS},
    b"/healthz": {"GET": HEALTH},
    b"/readyz": {"GET": READY},
    b"/": {"GET": PAGE},
    b"/page.js": {"GET": PAGE_SCRIPT},
    b"/page.css": {"GET": PAGE_STYLE},
}


def allowed(methods: Mapping[str, Route]) -> str:
    """The methods that a path answers to, as the header Allow wants them."""
    return ", ".join(method for method, route in methods.items() if route.supported)


def find_route(raw_path: bytes, method: str) -> Route:
    """The route of a path, as its bytes came, and a method; HEAD is a GET.

    Raises:
        Refused: 404, or 405 with the methods that there are.
    """
    methods = ROUTES.get(raw_path)
    if methods is None:
        raise Refused(404, "not_found")
    route = methods.get("GET" if method == "HEAD" else method)
    if route is None:
        raise Refused(405, "method_not_allowed", headers={"allow": allowed(methods)})
    return route
