"""Whose request it is, with and without reverse proxies."""

import ipaddress
import os
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, TypeAlias

from app.core.settings import Network

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


@lru_cache(maxsize=4096)
def parse_address(text: str) -> Address | None:
    """An IP address from `text` (a port, brackets or a zone are dropped, IPv4 in IPv6 unwrapped), or None."""
    bare = text.strip()
    if bare.startswith("["):
        bare = bare[1:].partition("]")[0]
    elif bare.count(":") == 1:
        bare = bare.partition(":")[0]
    try:
        address = ipaddress.ip_address(bare.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


@lru_cache(maxsize=4096)
def canonical(text: str) -> str:
    """An address in its one canonical form; text that is no address stays as it is."""
    return str(parse_address(text) or text)


def within(address: Address | None, networks: Iterable[Network]) -> bool:
    """Whether `address` lies in one of `networks`."""
    return address is not None and any(address in network for network in networks)


class ClientAddressResolver:
    """The client's address: the peer's, or what trusted proxies say in `X-Forwarded-For`."""

    def __init__(self, trusted_proxies: Iterable[Network], environ: Mapping[str, str] = os.environ) -> None:
        self._trusted = tuple(trusted_proxies)
        self._uvicorn_was_told = "FORWARDED_ALLOW_IPS" in environ

    def of(self, scope: Mapping[str, Any]) -> str:
        """The address as text; `unknown` where there is no network peer (a Unix socket)."""
        client = scope.get("client")
        if not client:
            return "unknown"
        host, port = client
        if port == 0 and not self._uvicorn_was_told:
            # uvicorn's own default believes X-Forwarded-For from 127.0.0.1 and then sets port 0.
            # The rule here is TRUSTED_PROXIES alone, so go back to the peer that it must have been.
            host = "127.0.0.1"
        if not self._trusted:
            return canonical(host)
        peer = parse_address(host)
        if not within(peer, self._trusted):
            return canonical(host)
        hops = [hop for name, value in scope["headers"] if name == b"x-forwarded-for" for hop in value.split(b",")]
        for hop in reversed(hops):
            address = parse_address(hop.decode("latin-1"))
            if address is None:
                break
            peer = address
            if not within(address, self._trusted):
                break
        return str(peer)
