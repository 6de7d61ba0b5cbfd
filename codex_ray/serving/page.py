"""One small page on which a person tries a prediction; it loads nothing from anywhere else."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from codex_ray.serving.http import Reply

_KINDS = {
    "page": ("page.html", "text/html; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
}


@cache
def asset(name: str) -> Reply:
    """The page, its script or its style."""
    file, kind = _KINDS[name]
    content = files("codex_ray.serving").joinpath(file).read_bytes()
    return Reply(content, content_type=kind)
