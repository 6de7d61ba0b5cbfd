"""Where a server listens, by its options: with TLS, or behind a proxy that can be told apart."""

from __future__ import annotations

import argparse
import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING

from codex_ray.errors import InputError

if TYPE_CHECKING:
    from codex_ray.serving.local import Listening


def listening_of(arguments: argparse.Namespace) -> Listening:
    """Where to listen, with TLS unless somebody took that upon themselves.

    Raises:
        InputError: there is no certificate.
    """
    from codex_ray.serving.local import Listening

    if (arguments.cert is None) != (arguments.key is None):
        raise InputError("--cert and --key go together: give both")
    if arguments.cert is None and not (arguments.insecure_http or arguments.proxies):
        raise InputError(
            "there is no certificate: make one with codex-ray certs init --for serving and "
            f"codex-ray certs issue {arguments.host} --for serving, and give its node.pem as "
            "--cert and node-key.pem as --key"
        )
    if arguments.cert is None:
        _check_reach(arguments)
        return Listening(arguments.host, arguments.port)
    certificate, key = Path(arguments.cert), Path(arguments.key)
    _check_pair(certificate, key)
    return Listening(arguments.host, arguments.port, certificate, key)


def _check_reach(arguments: argparse.Namespace) -> None:
    """Refuses proxies that anybody on the network could pass for.

    Raises:
        InputError: there is nothing by which they could be told apart.
    """
    loopback = arguments.host == "localhost" or _is_loopback(arguments.host)
    if not (loopback or arguments.proxy_address or arguments.insecure_http):
        raise InputError(
            f"--proxies at {arguments.host}, without --cert: whoever reaches the port could say "
            "who they are and that they came by TLS: name your proxy as --proxy-address, or listen "
            "at 127.0.0.1"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def proxy_networks(arguments: argparse.Namespace) -> tuple[str, ...]:
    """The networks of --proxy-address.

    Raises:
        InputError: one is none, or there are no proxies.
    """
    if arguments.proxy_address and not arguments.proxies:
        raise InputError("--proxy-address: says where a proxy is: give --proxies N as well")
    found = []
    for text in arguments.proxy_address:
        try:
            found.append(str(ipaddress.ip_network(text)))
        except ValueError as error:
            raise InputError(f"--proxy-address {text}: is no network: {error}") from None
    return tuple(found)


def _check_pair(certificate: Path, key: Path) -> None:
    """Raises InputError where others may read the key, or the two are no pair."""
    import ssl

    from codex_ray.records.private_files import read_private

    read_private(key)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"{certificate} and {key}: cannot be used for TLS: {error}") from None
