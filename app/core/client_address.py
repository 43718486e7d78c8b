"""Whose request it is, with and without reverse proxies."""

import ipaddress
import os
from collections.abc import Iterable, Mapping, MutableMapping
from functools import lru_cache
from typing import Any, TypeAlias

from app.core.settings import Network

PEER = "arrow.peer"

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


@lru_cache(maxsize=4096)
def network_of(address: str) -> str:
    """What clients are counted by: an IPv4 address, or the /64 of an IPv6 address (one customer has all of it)."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is None:
        return str(ipaddress.ip_network((int(parsed), 64), strict=False))
    return address


def within(address: Address | None, networks: Iterable[Network]) -> bool:
    """Whether `address` lies in one of `networks`."""
    return address is not None and any(address in network for network in networks)


def note_peer(scope: MutableMapping[str, Any], send: Any) -> None:
    """Put the connection's true peer into `scope`, as the server's transport knows it.

    uvicorn believes X-Forwarded-For from loopback by default and rewrites `client`; here TRUSTED_PROXIES alone decides.
    `send` must be the server's own, so this has to happen before any middleware.
    """
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    ask = getattr(transport, "get_extra_info", None)
    peer = ask("peername") if ask else None
    if isinstance(peer, tuple) and peer:
        scope[PEER] = peer[0]


class ClientAddressResolver:
    """The client's address: the peer's, or what trusted proxies say in `X-Forwarded-For`."""

    def __init__(self, trusted_proxies: Iterable[Network], environ: Mapping[str, str] = os.environ) -> None:
        self._trusted = tuple(trusted_proxies)
        self._uvicorn_was_told = "FORWARDED_ALLOW_IPS" in environ

    def _peer(self, scope: Mapping[str, Any]) -> str | None:
        """The other end of the connection, whatever the server made of forwarded headers before."""
        if not self._uvicorn_was_told and PEER in scope:
            return str(scope[PEER])
        client = scope.get("client")
        return client[0] if client else None

    def scheme(self, scope: Mapping[str, Any]) -> str | None:
        """`http` or `https` as a trusted proxy says in `X-Forwarded-Proto`, else None."""
        host = self._peer(scope) if self._trusted else None
        if host is None or not within(parse_address(host), self._trusted):
            return None
        for name, value in scope["headers"]:
            if name == b"x-forwarded-proto" and value in {b"http", b"https"}:
                return str(value.decode())
        return None

    def of(self, scope: Mapping[str, Any]) -> str:
        """The address as text; `unknown` where there is no network peer (a Unix socket)."""
        host = self._peer(scope)
        if host is None:
            return "unknown"
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
