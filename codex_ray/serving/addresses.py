"""How a request came: by TLS or not, and from which address, as far as that can be believed."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

from codex_ray.serving.http import Scope

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Doors:
    """What is in front of the server.

    Attributes:
        insecure_http: whether plain HTTP will do: keys then cross the network for all to read.
        proxies: how many proxies that are ours stand in front; 0 believes no header about it. The
            outermost ends TLS and says so, and the innermost is the only one that can reach us.
    """

    insecure_http: bool = False
    proxies: int = 0

    def https(self, scope: Scope, headers: Mapping[bytes, bytes]) -> bool:
        """Whether the caller came by TLS."""
        if self.proxies:
            return headers.get(b"x-forwarded-proto") == b"https"
        return bool(scope.get("scheme") == "https")

    def address(self, scope: Scope, headers: Mapping[bytes, bytes]) -> str:
        """Of the caller; of IPv6 the /64, which one household or server has to itself.

        Each proxy appends whom it saw, so the entry that our outermost wrote is the `proxies`-th
        from the right; what is left of it was sent, and may be anything.
        """
        client = scope.get("client")
        text = str(client[0]) if client else UNKNOWN
        if self.proxies:
            seen = headers.get(b"x-forwarded-for", b"").decode("latin-1").split(",")
            text = seen[-self.proxies].strip() if len(seen) >= self.proxies else UNKNOWN
        try:
            found = ipaddress.ip_address(text)
        except ValueError:
            return UNKNOWN
        if isinstance(found, ipaddress.IPv6Address):
            if found.ipv4_mapped is not None:
                return str(found.ipv4_mapped)
            return str(ipaddress.ip_network((found, 64), strict=False))
        return str(found)
