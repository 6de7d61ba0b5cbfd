"""How a request came: by TLS or not, and from which address, as far as that can be believed."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from codex_ray.serving.http import Scope

UNKNOWN = "unknown"
Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Doors:
    """What is in front of the server.

    Attributes:
        insecure_http: whether plain HTTP will do: keys then cross the network for all to read.
        proxies: how many proxies that are ours stand in front; 0 believes no header about it. The
            outermost ends TLS and says so.
        nearest: networks in which the innermost of them is; whoever connects from elsewhere is no
            proxy of ours. Empty: nobody else can reach us.
    """

    insecure_http: bool = False
    proxies: int = 0
    nearest: tuple[str, ...] = ()

    def https(self, scope: Scope, headers: Mapping[bytes, bytes]) -> bool:
        """Whether the caller came by TLS."""
        if self._behind(scope):
            return headers.get(b"x-forwarded-proto") == b"https"
        return bool(scope.get("scheme") == "https")

    def address(self, scope: Scope, headers: Mapping[bytes, bytes]) -> str:
        """Of the caller; of IPv6 the /64, which one household or server has to itself.

        Each proxy appends whom it saw, so the entry that our outermost wrote is the `proxies`-th
        from the right; what is left of it was sent, and may be anything.
        """
        text = _client(scope)
        if self._behind(scope):
            seen = headers.get(b"x-forwarded-for", b"").decode("latin-1").split(",")
            text = seen[-self.proxies].strip() if len(seen) >= self.proxies else UNKNOWN
        found = _address(text)
        if found is None:
            return UNKNOWN
        if isinstance(found, ipaddress.IPv6Address):
            return str(ipaddress.ip_network((found, 64), strict=False))
        return str(found)

    def _behind(self, scope: Scope) -> bool:
        """Whether it came from a proxy of ours."""
        if not self.proxies or not self.nearest:
            return bool(self.proxies)
        found = _address(_client(scope))
        return found is not None and any(found in it for it in _networks(self.nearest))


def _client(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else UNKNOWN


def _address(text: str) -> Address | None:
    """The address that a text is; one of IPv4 that is written as one of IPv6 is one of IPv4."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return found if mapped is None else mapped


@lru_cache(maxsize=16)
def _networks(named: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(it) for it in named)
