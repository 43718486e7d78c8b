"""Whose request it is, behind chains of proxies and liars."""

import ipaddress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.client_address import ClientAddressResolver, note_peer, parse_address, within

PROXIES = [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8")]
ADDRESSES = st.ip_addresses()
INSIDE = st.ip_addresses(network="10.0.0.0/8") | st.ip_addresses(network="fd00::/8")
OUTSIDE = ADDRESSES.filter(lambda address: not within(parse_address(str(address)), PROXIES))
JUNK = st.sampled_from(["", "unknown", "_hidden", "10.0.0.1.2", "::g", "300.1.1.1", "<script>", "\x00", "é"])


def scope(peer: str | None, *forwarded: str, port: int = 4711) -> dict[str, Any]:
    headers = [(b"x-forwarded-for", value.encode("utf-8")) for value in forwarded]
    return {"client": (peer, port) if peer is not None else None, "headers": [(b"host", b"arrow"), *headers]}


def resolver(trusted: list[Any] = PROXIES, **environ: str) -> ClientAddressResolver:
    return ClientAddressResolver(trusted, environ)


@given(
    liar=st.lists(ADDRESSES.map(str) | JUNK, max_size=4),
    client=OUTSIDE,
    chain=st.lists(INSIDE, min_size=1, max_size=4),
    split=st.integers(0, 8),
)
def test_the_client_is_the_last_one_that_is_no_proxy(liar: list[str], client: Any, chain: list[Any], split: int):
    """Each proxy adds whom it sees at the end; whatever the client wrote in front decides nothing."""
    hops = [*liar, str(client), *(str(proxy) for proxy in chain[:-1])]
    # The header may come in one piece or in two.
    forwarded = [", ".join(part) for part in (hops[:split], hops[split:]) if part]

    found = resolver().of(scope(str(chain[-1]), *forwarded))

    assert found == str(parse_address(str(client)))


@given(peer=OUTSIDE, claims=st.lists(ADDRESSES.map(str) | JUNK, max_size=4))
def test_a_stranger_is_who_it_is_whatever_it_claims(peer: Any, claims: list[str]):
    assert resolver().of(scope(str(peer), ", ".join(claims))) == str(parse_address(str(peer)))


@given(peer=ADDRESSES, claims=st.lists(ADDRESSES.map(str) | JUNK, max_size=4))
def test_without_trusted_proxies_the_header_means_nothing(peer: Any, claims: list[str]):
    assert resolver([]).of(scope(str(peer), ", ".join(claims))) == str(parse_address(str(peer)))


@given(chain=st.lists(INSIDE, min_size=1, max_size=5))
def test_a_request_that_comes_from_a_proxy_itself(chain: list[Any]):
    hops = ", ".join(str(address) for address in chain[:-1])

    assert resolver().of(scope(str(chain[-1]), *([hops] if hops else []))) == str(chain[0])


@given(junk=JUNK, chain=st.lists(INSIDE, min_size=1, max_size=3))
def test_beyond_what_cannot_be_read_nobody_is_believed(junk: str, chain: list[Any]):
    """A proxy that hides its client: the request counts as the proxy's, never as somebody named further left."""
    hops = ["203.0.113.9", junk, *(str(address) for address in chain[:-1])]

    assert resolver().of(scope(str(chain[-1]), ", ".join(hops))) == str(chain[0])


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        (" 192.0.2.1 ", "192.0.2.1"),
        ("192.0.2.1:8443", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("[::ffff:192.0.2.1]:80", "192.0.2.1"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("", None),
        ("unknown", None),
        ("1.2.3", None),
        ("01.2.3.4", None),
        ("example.com", None),
        ("[", None),
        ("%", None),
    ],
)
def test_ways_to_write_an_address(text: str, address: str | None):
    found = parse_address(text)

    assert (str(found) if found else None) == address


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_none(text: str):
    found = parse_address(text)

    assert found is None or ipaddress.ip_address(str(found)) == found


def test_nobody_is_within_no_network():
    assert not within(None, PROXIES)
    assert not within(parse_address("10.1.1.1"), [])
    assert within(parse_address("::ffff:10.1.1.1"), PROXIES)


def test_a_peer_without_an_address():
    assert resolver().of(scope(None, "203.0.113.5")) == "unknown"
    assert resolver().of(scope("/run/arrow.sock", "203.0.113.5")) == "/run/arrow.sock"


class Protocol:
    """What a server's `send` belongs to: it knows the socket."""

    class transport:  # noqa: N801 (the server's name for it)
        @staticmethod
        def get_extra_info(name: str) -> tuple[str, int] | None:
            return ("127.0.0.1", 50_000) if name == "peername" else None

    async def send(self, message: object) -> None: ...


def test_what_uvicorn_made_of_the_header_is_undone():
    """Its default believes the header from loopback and rewrites `client`: only TRUSTED_PROXIES decides here."""
    told = scope("203.0.113.5", "203.0.113.5", port=443)
    note_peer(told, Protocol().send)
    local = [ipaddress.ip_network("127.0.0.0/8")]

    assert resolver([]).of(told) == "127.0.0.1"
    assert resolver(local).of(told) == "203.0.113.5"
    # Whoever sets FORWARDED_ALLOW_IPS wants uvicorn to decide.
    assert resolver([], FORWARDED_ALLOW_IPS="*").of(told) == "203.0.113.5"


def test_without_a_transport_the_server_is_believed():
    told = scope("203.0.113.5")
    note_peer(told, print)
    assert resolver([]).of(told) == "203.0.113.5"
