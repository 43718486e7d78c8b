"""Brokers' lists of instruments: checked, stored, swapped whole, and found."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from app.brokerage.adapters.zerodha.client import ZerodhaBroker
from app.brokerage.errors import BrokerUnavailableError
from app.brokerage.listing_models import DOCUMENTS
from app.brokerage.listing_store import PART, DoubtfulListError, ListingStore
from app.brokerage.listing_table import BrokerTable, TableBuilder, fault_of, plain_symbol
from app.brokerage.words import BrokerName, Exchange, Listing
from app.core.errors import UnavailableError
from tests.brokerage.accounts.kit import PlainBroker
from tests.simulators.brokers.kite.simulator import KiteSimulator
from tests.support.clocks import StandingClock
from tests.support.mongodb import Db, empty_database

EARLY = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
"""07:30 in India, a Monday: the list of the day is not there yet."""
GROWW = BrokerName.GROWW


def share(symbol: str, **values: object) -> Listing:
    return Listing(exchange=Exchange.NSE, symbol=symbol, key=f"{symbol}|1", tick_size=Decimal("0.05"), **values)  # type: ignore[arg-type]


def many(count: int) -> list[Listing]:
    return [share(f"SHARE{number:05}") for number in range(count)]


def table_of(*listings: Listing) -> BrokerTable:
    builder = TableBuilder()
    for listing in listings:
        builder.add(listing)
    return builder.build()


# The table

amounts = st.none() | st.decimals(0, 100_000, places=2)
listings = st.builds(
    Listing,
    exchange=st.sampled_from(Exchange),
    symbol=st.from_regex(r"[A-Z0-9][A-Z0-9&_]{0,8}", fullmatch=True),
    key=st.from_regex(r"[ -~]{1,20}", fullmatch=True),
    tick_size=st.decimals("0.01", 100, places=2),
    lot_size=st.integers(1, 10_000),
    freeze_quantity=st.none() | st.integers(1, 10**6),
    kind=st.sampled_from(["EQ", "FUT", "CE", "PE", "INDEX"]),
    isin=st.none() | st.just("INE002A01018"),
    expiry=st.none() | st.dates(date(2026, 1, 1), date(2030, 1, 1)),
    strike=amounts,
    lower_circuit=amounts,
    upper_circuit=amounts,
)


@given(st.lists(listings, max_size=30))
def test_everything_that_went_in_is_found_as_it_was(rows: list[Listing]) -> None:
    built = table_of(*rows)
    table = BrokerTable.decode(built.encode())
    places = {(row.exchange, row.symbol) for row in rows}
    assert len(table) == len(places)
    for row in rows:
        found = table.find(row.exchange, row.symbol.lower())
        assert found in [other for other in rows if (other.exchange, other.symbol) == (row.exchange, row.symbol)]
    assert table.find(Exchange.NSE, "NO SUCH THING") is None
    today = date(2027, 6, 1)
    kept = [table.find(*place) for place in places]
    assert table.ended(today) == sum(row is not None and row.expiry is not None and row.expiry < today for row in kept)


@given(st.binary(max_size=200))
def test_what_is_no_table_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"compressed|cut off|no table"):
        BrokerTable.decode(data)
    whole = table_of(share("RELIANCE")).encode()
    for cut in range(0, len(whole), 5):
        with pytest.raises(ValueError, match=r"compressed|cut off"):
            BrokerTable.decode(whole[:cut])


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"symbol": ""}, "symbol"),
        ({"symbol": "A\tB"}, None),  # any white space is one space
        ({"symbol": "A$B"}, "symbol"),
        ({"symbol": "A" * 65}, "symbol"),
        ({"key": "a\tb"}, "key"),
        ({"key": ""}, "key"),
        ({"kind": "É"}, "key"),
        ({"tick_size": Decimal(0)}, "tick size"),
        ({"tick_size": Decimal("NaN")}, "tick size"),
        ({"lot_size": 0}, "lot"),
        ({"freeze_quantity": 0}, "freeze quantity"),
        ({"strike": Decimal(-1)}, "amount"),
        ({"upper_circuit": Decimal("Infinity")}, "amount"),
    ],
)
def test_junk_is_told_apart(change: dict[str, object], fault: str | None) -> None:
    sound = {"exchange": Exchange.NSE, "symbol": "A", "key": "k", "tick_size": Decimal("0.05")}
    assert fault_of(Listing(**{**sound, **change})) == fault  # type: ignore[arg-type]


def test_series_and_spelling() -> None:
    table = table_of(share("RELIANCE"), share("M&M"), share("M&MFIN"), share("BAJAJ-AUTO"), share("NIFTY 50"))
    for written in ("RELIANCE", "reliance-eq", " Reliance "):
        assert table.find(Exchange.NSE, written) == share("RELIANCE")
    assert plain_symbol(Exchange.BSE, "X-EQ") == "X-EQ"
    assert table.find(Exchange.NSE, "BAJAJ-AUTO")
    assert table.find(Exchange.NSE, "nifty  50")
    assert table.find(Exchange.NSE, "M") is None
    assert table.find(Exchange.BSE, "RELIANCE") is None
    assert table.like(Exchange.NSE, "RELIANCEE") == ["RELIANCE"]
    assert table.like(Exchange.NSE, "M&") == ["M&M", "M&MFIN"]
    assert table.like(Exchange.NSE, "") == []


def test_a_large_table_is_small_and_fast() -> None:
    built = table_of(*many(30_000))
    began = time.perf_counter()
    for number in range(0, 30_000, 30):
        assert built.find(Exchange.NSE, f"SHARE{number:05}") is not None
    assert (time.perf_counter() - began) / 1000 < 0.001  # seconds each, on whatever machine
    assert len(built.encode()) < 2 << 20


# The store


@pytest_asyncio.fixture
async def db(mongodb_url: str) -> AsyncIterator[Db]:
    async with empty_database(mongodb_url, DOCUMENTS) as made:
        yield made


class Lists:
    """A store of one process, with a broker whose list the test makes."""

    def __init__(self, db: Db) -> None:
        self.db, self.clock = db, StandingClock(EARLY)
        self.broker = PlainBroker(self.clock)
        self.store = self.process()

    def process(self, holder: str = "here") -> ListingStore:
        brokers = {GROWW: self.broker}
        return ListingStore(db=self.db, brokers=brokers, clock=self.clock, holder=holder)  # type: ignore[dict-item]

    async def has(self, symbol: str, store: ListingStore | None = None) -> bool:
        return await (store or self.store).find(GROWW, Exchange.NSE, symbol) is not None


@pytest.fixture
def lists(db: Db) -> Lists:
    return Lists(db)


async def test_who_asks_first_gets_the_list_fetched_once_for_all(lists: Lists) -> None:
    lists.broker.listed = [*many(50), share("OLD26NOV", kind="FUT", expiry=date(2026, 11, 20))]
    found = await asyncio.gather(*(lists.has("SHARE00007") for _ in range(20)))
    assert all(found)
    assert lists.broker.fetches == 1
    assert not await lists.has("NOTHERE")
    assert not await lists.has("OLD26NOV")  # ended
    assert await lists.store.like(GROWW, Exchange.NSE, "SHARE0004")
    other = lists.process("other")
    assert await lists.has("SHARE00007", other)
    assert lists.broker.fetches == 1


async def test_no_list_yet_and_none_to_be_had(lists: Lists) -> None:
    lists.broker.error = BrokerUnavailableError("away")
    with pytest.raises(UnavailableError, match="Groww is not here yet"):
        await lists.has("RELIANCE")
    with pytest.raises(UnavailableError, match="not here yet"):
        await lists.store.find(BrokerName.UPSTOX, Exchange.NSE, "RELIANCE")
    lists.broker.error = None
    lists.broker.listed = many(3)
    with pytest.raises(UnavailableError, match="not here yet"):
        await lists.has("SHARE00001")
    assert lists.broker.fetches == 1  # every order that is tried would fetch all of it again
    lists.clock.move(seconds=31)
    assert await lists.has("SHARE00001")


async def test_a_new_list_is_in_force_everywhere_within_a_minute_and_the_old_one_gone(lists: Lists) -> None:
    lists.broker.listed = many(100)
    other = lists.process("other")
    assert await lists.has("SHARE00001")
    assert await lists.has("SHARE00001", other)
    lists.broker.listed = [*many(100), share("NEWCOMER")]
    assert await lists.store.refresh(GROWW) is True
    assert await lists.store.refresh(GROWW) is False
    assert await lists.has("NEWCOMER")
    assert not await lists.has("NEWCOMER", other)
    lists.clock.move(seconds=61)
    assert await lists.has("NEWCOMER", other)
    assert await lists.db["broker_listing_parts"].count_documents({}) == 1


async def test_large_lists_come_in_parts_and_a_killed_writer_changes_nothing(lists: Lists) -> None:
    noise = random.Random(7)  # noqa: S311 (so that it does not compress)
    lists.broker.listed = [share(f"S{number:05}", isin=noise.randbytes(40).hex()) for number in range(24_000)]
    await lists.store.refresh(GROWW)
    state = await lists.db["broker_listings"].find_one({"_id": "groww"}) or {}
    assert state["parts"] == await lists.db["broker_listing_parts"].count_documents({}) > 1
    sizes = [len(row["data"]) async for row in lists.db["broker_listing_parts"].find({})]
    assert max(sizes) == PART
    left = {"_id": "groww|killed|0", "broker": "groww", "version": "killed", "at": EARLY, "data": b"half"}
    await lists.db["broker_listing_parts"].insert_one(left)
    assert await lists.has("S00007", lists.process("fresh"))
    lists.broker.listed = lists.broker.listed[:23_000]
    await lists.store.refresh(GROWW)
    assert await lists.db["broker_listing_parts"].count_documents({"version": "killed"}) == 0


async def test_a_damaged_list_is_fetched_again(lists: Lists) -> None:
    lists.broker.listed = many(100)
    await lists.store.refresh(GROWW)
    await lists.db["broker_listing_parts"].update_many({}, {"$set": {"data": b"damaged"}})
    assert await lists.has("SHARE00001", lists.process("fresh"))
    assert lists.broker.fetches == 2


async def test_a_list_that_cannot_be_right_is_not_taken(lists: Lists) -> None:
    contracts = [share(f"F{number:05}", kind="FUT", expiry=date(2026, 11, 26)) for number in range(100)]
    lists.broker.listed = [*many(900), *contracts]
    await lists.store.refresh(GROWW)
    for wrong in ([], many(700), [*many(700), *[share("")] * 400]):
        lists.broker.listed = wrong
        with pytest.raises(DoubtfulListError):
            await lists.store.refresh(GROWW)
    assert await lists.has("SHARE00899")
    health = await lists.store.health()
    assert (health["status"], health["groww"]["rows"]) == ("degraded", 1000)
    # The end of contracts is no loss.
    lists.clock.move(days=5)
    lists.broker.listed = many(750)
    assert await lists.store.refresh(GROWW) is True
    assert (await lists.store.health())["status"] == "ok"


async def test_a_doubted_list_is_believed_when_another_day_agrees(lists: Lists) -> None:
    lists.broker.listed = many(1000)
    await lists.store.refresh(GROWW)
    lists.broker.listed = many(500)
    for hours in (0, 12):
        lists.clock.move(hours=hours)
        with pytest.raises(DoubtfulListError, match="500 instruments, where 1,000"):
            await lists.store.refresh(GROWW)
    lists.clock.move(hours=9)
    assert await lists.store.refresh(GROWW) is True
    assert not await lists.has("SHARE00900")


async def test_one_process_at_a_time_fetches(lists: Lists) -> None:
    lists.broker.listed = many(10)
    await lists.db["leases"].insert_one(
        {"_id": "broker listings groww", "holder": "another", "expires_at": EARLY + timedelta(minutes=5)}
    )
    with pytest.raises(UnavailableError, match="Another process"):
        await lists.store.refresh(GROWW)
    assert lists.broker.fetches == 0


async def test_each_morning_brings_the_list_of_the_day(lists: Lists) -> None:
    lists.broker.listed = many(10)
    due = lists.store.refresh_due
    assert await due([GROWW]) == {"groww": "new"}
    assert await due([GROWW]) == {}
    lists.clock.moment = datetime(2026, 11, 23, 2, 46, tzinfo=UTC)  # 08:16 in India
    lists.broker.error = BrokerUnavailableError("away")
    assert await due([GROWW]) == {"groww": "broker-unavailable"}
    assert await due([GROWW]) == {}  # not again at once
    lists.clock.move(minutes=5)
    lists.broker.error = None
    assert await due([GROWW]) == {"groww": "same"}
    assert await due([GROWW]) == {}
    lists.clock.move(minutes=5)
    assert await due([BrokerName.UPSTOX]) == {"upstox": "unavailable"}


async def test_kites_own_list(lists: Lists) -> None:
    async with KiteSimulator(now=lists.clock.now) as kite:
        broker = ZerodhaBroker(lists.clock, base_url=kite.base_url)
        brokers = {BrokerName.ZERODHA: broker}
        store = ListingStore(db=lists.db, brokers=brokers, clock=lists.clock, holder="here")
        found = await store.find(BrokerName.ZERODHA, Exchange.NSE, "RELIANCE-EQ")
        assert found is not None
        assert (found.symbol, found.tick_size) == ("RELIANCE", kite.book.find("NSE", "RELIANCE").tick)
        await store.close()
        await broker.close()
