"""Every fault of either provider, over real sockets: an error of its kind, nothing else, and then it is well again."""

import asyncio
import ssl
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from app.crypto.adapters.wire import MAX_ANSWER, Timeouts
from app.crypto.errors import (
    KeyRefusedError,
    NonsenseError,
    ProviderError,
    QuotaUsedError,
    RateLimitedError,
    RequestRefusedError,
    UnreachableError,
)
from tests.crypto.adapters.kit import NOON, TIMEOUTS, adapter_of, asking
from tests.simulators.coingecko import CoinGeckoSimulator
from tests.simulators.coinmarketcap import CoinMarketCapSimulator
from tests.simulators.coins import Coins
from tests.support.certificates import make_certificate
from tests.support.clocks import StandingClock

COMMON: list[tuple[str, dict[str, Any], type[ProviderError], str]] = [
    ("html", {"status": 502}, UnreachableError, "502"),
    ("html", {"status": 200}, NonsenseError, "not JSON"),
    ("html", {"status": 403}, KeyRefusedError, "403"),
    ("html", {"status": 404}, RequestRefusedError, "404"),
    ("html", {"status": 429}, RateLimitedError, "429"),
    ("cloudflare", {}, UnreachableError, "522"),
    ("garbage", {}, NonsenseError, "not JSON"),
    ("truncated", {}, UnreachableError, "connection"),
    ("cut_json", {}, NonsenseError, "not JSON"),
    ("slow", {}, UnreachableError, "timeout"),
    ("half_open", {}, UnreachableError, "timeout"),
    ("drip", {}, UnreachableError, "timeout"),
    ("huge", {}, NonsenseError, "too large"),
    ("bomb", {}, NonsenseError, "too large"),
    ("unknown_encoding", {}, NonsenseError, "unknown encoding"),
    ("not_gzip", {}, NonsenseError, "not gzip"),
    ("empty", {}, NonsenseError, "not JSON"),
    ("redirect", {}, NonsenseError, "302"),
    ("not_http", {}, UnreachableError, "connection"),
    ("reset", {}, UnreachableError, "connection"),
    ("nested", {}, NonsenseError, "not JSON"),
    ("numberless", {}, NonsenseError, "not JSON"),
    ("only_junk", {}, NonsenseError, "rows"),
    ("no_rows", {}, NonsenseError, "no rows"),
    ("refused", {}, RequestRefusedError, "400"),
    ("refused", {"http": 422}, RequestRefusedError, "422"),
    ("unavailable", {}, UnreachableError, ""),
    ("on_200", {"code": 500}, UnreachableError, "500"),
    ("on_200", {"code": 4711}, NonsenseError, "error 4711"),
]
GECKO: list[tuple[str, dict[str, Any], type[ProviderError], str]] = [
    ("too_many", {"retry_after": 7}, RateLimitedError, "429"),
    ("too_many", {"retry_after": None}, RateLimitedError, "429"),
    ("on_200", {"code": 429}, RateLimitedError, "429"),
    ("on_200", {"code": 10010}, KeyRefusedError, "10010"),
    ("refused_key", {}, KeyRefusedError, "10002"),
    ("refused_key", {"code": 0}, KeyRefusedError, "401"),
    ("junk_rows", {"count": 40}, NonsenseError, "rows"),
]
CAP: list[tuple[str, dict[str, Any], type[ProviderError], str]] = [
    ("too_many", {"retry_after": 7}, RateLimitedError, "1008"),
    ("error", {"code": 1001}, KeyRefusedError, "1001"),
    ("error", {"code": 1001, "http": 200}, KeyRefusedError, "1001"),
    ("error", {"code": 1006}, KeyRefusedError, "1006"),
    ("error", {"code": 1008, "http": 200}, RateLimitedError, "1008"),
    ("error", {"code": 1009}, RateLimitedError, "1009"),
    ("error", {"code": 1010}, QuotaUsedError, "1010"),
    ("error", {"code": 1010, "http": 200}, QuotaUsedError, "1010"),
    ("error", {"code": 1011}, RateLimitedError, "1011"),
]
CASES = [(CoinGeckoSimulator, *case) for case in [*COMMON, *GECKO]] + [
    (CoinMarketCapSimulator, *case) for case in [*COMMON, *CAP]
]
NAMES = [f"{kind.vendor.lower()}-{name}-{'-'.join(map(str, options.values()))}" for kind, name, options, *_ in CASES]


@pytest.mark.parametrize(("kind", "fault", "options", "error", "code"), CASES, ids=NAMES)
async def test_every_fault_is_an_error_of_its_kind_and_passes(
    kind: type[CoinGeckoSimulator | CoinMarketCapSimulator],
    fault: str,
    options: dict[str, Any],
    error: type[ProviderError],
    code: str,
):
    impatient = error is UnreachableError and code == "timeout"
    async with kind(Coins(20)) as simulator, asking(simulator) as adapter:
        simulator.fail(fault, **options)
        with pytest.raises(error) as raised, TIMEOUTS.hurried(needed=impatient):
            await adapter.listings(20)
        assert raised.value.code.startswith(code)
        assert type(raised.value) is error
        if fault == "too_many":
            assert (raised.value.retry_after, raised.value.told) == (
                (7, True) if options["retry_after"] else (60, False)
            )
        assert simulator.total == 1  # nothing was tried again
        rows, rejected = await adapter.listings(20)
        assert (len(rows) >= 19, rejected) == (True, 0)


@pytest.mark.parametrize("kind", [CoinGeckoSimulator, CoinMarketCapSimulator])
@pytest.mark.parametrize("fault", ["wrong_type", "zipped"])
async def test_what_is_no_fault_is_read(kind: type[CoinGeckoSimulator | CoinMarketCapSimulator], fault: str):
    """The body decides, whatever its header calls it."""
    clock = StandingClock(NOON)
    async with kind(Coins(20), now=clock.now) as simulator, asking(simulator) as adapter:
        simulator.fail(fault)
        first = await adapter.listings(20)
        assert first == await adapter.listings(20)


@pytest.mark.parametrize("kind", [CoinGeckoSimulator, CoinMarketCapSimulator])
async def test_silence_between_two_pieces_is_a_timeout_too(kind: type[CoinGeckoSimulator | CoinMarketCapSimulator]):
    patience = Timeouts(connect=30.0, read=0.5, whole=30.0)
    async with kind(Coins(20)) as simulator, asking(simulator, timeouts=patience) as adapter:
        simulator.fail("half_open")
        with pytest.raises(UnreachableError) as raised:
            await adapter.listings(20)
    assert raised.value.code == "timeout"


@pytest.mark.parametrize("kind", [CoinGeckoSimulator, CoinMarketCapSimulator])
async def test_nobody_is_there(kind: type[CoinGeckoSimulator | CoinMarketCapSimulator]):
    async with kind() as simulator:
        pass
    async with asking(simulator) as adapter:
        with pytest.raises(UnreachableError) as raised:
            await adapter.listings(5)
    assert raised.value.code == "connection"


async def test_a_bomb_is_not_unpacked():
    async with CoinGeckoSimulator() as simulator, asking(simulator) as adapter:
        await adapter.listings(5)
        simulator.fail("bomb", megabytes=64)
        tracemalloc.start()
        try:
            with pytest.raises(NonsenseError, match="too large"):
                await adapter.listings(5)
            assert tracemalloc.get_traced_memory()[1] < 4 * MAX_ANSWER
        finally:
            tracemalloc.stop()


async def test_a_wait_can_be_asked_for_as_a_date():
    clock = StandingClock(NOON)
    async with CoinGeckoSimulator() as simulator, asking(simulator, clock=clock) as adapter:
        simulator.fail("too_many", retry_after="Tue, 10 Nov 2026 12:04:30 GMT")
        simulator.fail("too_many", retry_after="soon")
        waits = []
        for _ in range(2):
            with pytest.raises(RateLimitedError) as raised:
                await adapter.listings(5)
            waits.append((raised.value.retry_after, raised.value.told))
        assert waits == [(150, True), (60, False)]


async def test_a_redirect_is_not_followed_with_the_key():
    async with (
        CoinMarketCapSimulator() as elsewhere,
        CoinMarketCapSimulator() as simulator,
        asking(simulator) as adapter,
    ):
        simulator.fail("redirect", to=elsewhere.base_url + "/v1/cryptocurrency/listings/latest")
        with pytest.raises(NonsenseError):
            await adapter.listings(5)
        assert elsewhere.total == 0


async def test_certificates_are_verified(tmp_path: Path):
    certificate = make_certificate(tmp_path)
    async with CoinMarketCapSimulator(Coins(9)) as simulator:
        server = await asyncio.start_server(simulator._accept, "127.0.0.1", 0, ssl=certificate.server_context())
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            async with asking(simulator, base_url=url, tls=None) as doubting:
                with pytest.raises(UnreachableError, match="tls"):
                    await doubting.listings(5)
            assert simulator.total == 0
            trusting = ssl.create_default_context(cafile=certificate.authority)
            async with asking(simulator, base_url=url, tls=trusting) as adapter:
                assert len((await adapter.listings(5))[0]) == 5
        finally:
            server.close()


@pytest.mark.parametrize("kind", [CoinGeckoSimulator, CoinMarketCapSimulator])
async def test_the_key_travels_in_a_header_and_is_in_no_error(
    kind: type[CoinGeckoSimulator | CoinMarketCapSimulator],
):
    async with (
        kind(key="the-right-key") as simulator,
        asking(simulator) as adapter,
        asking(simulator, key="another-secret") as wrong,
    ):
        await adapter.listings(5)
        request = simulator.requests[0]
        header = {"COINGECKO": "x-cg-demo-api-key", "COINMARKETCAP": "x-cmc_pro_api_key"}[simulator.vendor]
        assert request.headers[header] == "the-right-key"
        assert "key" not in request.query
        with pytest.raises(KeyRefusedError) as raised:
            await wrong.listings(5)
        assert f"{simulator.vendor}_API_KEY" in raised.value.detail or "COINGECKO_BASE_URL" in raised.value.detail
        assert "another-secret" not in raised.value.detail
        for bad in ("with space", "line\nbreak", "schlüssel"):
            malformed = adapter_of(simulator, key=bad)
            with pytest.raises(KeyRefusedError) as raised:
                await malformed.listings(5)
            assert raised.value.code == "malformed"
        assert simulator.total == 2
