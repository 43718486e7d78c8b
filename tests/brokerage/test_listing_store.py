"""Brokers' lists of instruments: fetched, checked, stored, swapped whole, and found."""

import asyncio
import hashlib
import random
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

import pytest
import pytest_asyncio

from app.brokerage.adapters.making import Addresses
from app.brokerage.errors import BrokerRateLimitedError, BrokerUnavailableError
from app.brokerage.listing_models import DOCUMENTS
from app.brokerage.listing_sources import ListedElsewhere, ListedHere
from app.brokerage.listing_store import ListingStore
from app.brokerage.words import BrokerName, Exchange, Listing
from app.core.errors import UnavailableError
from app.core.staged_lists import PART, BuiltList, DoubtfulListError, NewList
from app.integrations.angel_one.instruments import InstrumentFile
from app.market_data.adapters.angel_one_instruments import AngelOneListings
from app.market_data.listings import TableBuilder as MarketTable
from tests.brokerage.accounts.kit import PlainBroker
from tests.brokerage.listings import many, share
from tests.simulators.brokers.instruments import NIFTY_CALL
from tests.simulators.brokers.kite.simulator import KiteSimulator, too_many
from tests.simulators.brokers.smartapi.simulator import SmartApiSimulator
from tests.support.clocks import StandingClock
from tests.support.mongodb import Db, empty_database

EARLY = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)
"""07:30 in India, a Monday: the list of the day is not there yet."""
GROWW = BrokerName.GROWW


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
        sources = {GROWW: ListedHere(self.broker)}
        return ListingStore(db=self.db, sources=sources, clock=self.clock, holder=holder)

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
    lists.clock.move(hours=2)
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


# Out of a program beside the service


def addresses_of(vendor: KiteSimulator | SmartApiSimulator) -> Addresses:
    nobody = "http://127.0.0.1:9"
    return Addresses(
        angel_one_instruments=vendor.environment().get("ANGEL_ONE_INSTRUMENTS_URL", nobody),
        zerodha=vendor.base_url,
        zerodha_login=nobody,
        upstox_instruments=nobody,
        groww_instruments=nobody,
        timeout=40.0,
    )


async def test_kites_own_list(lists: Lists) -> None:
    name = BrokerName.ZERODHA
    async with KiteSimulator(now=lists.clock.now) as kite:
        sources = {name: ListedElsewhere(name, addresses_of(kite))}
        store = ListingStore(db=lists.db, sources=sources, clock=lists.clock, holder="here")
        found = await store.find(name, Exchange.NSE, "RELIANCE-EQ")
        assert found is not None
        assert (found.symbol, found.tick_size) == ("RELIANCE", kite.book.find("NSE", "RELIANCE").tick)
        kite.fail("html", too_many(), on="/instruments")
        with pytest.raises(BrokerUnavailableError, match="Zerodha cannot be used right now"):
            await store.refresh(name)
        with pytest.raises(BrokerRateLimitedError):
            await store.refresh(name)
        assert (await store.health())["zerodha"]["last_error"] == "broker-rate-limited"
        assert await store.find(name, Exchange.NSE, "RELIANCE")
        await store.close()


async def test_a_program_that_is_lost_leaves_the_list_in_force(lists: Lists) -> None:
    lists.broker.listed = many(10)
    assert await lists.has("SHARE00001")
    before = await lists.db["broker_listings"].find_one({"_id": "groww"}) or {}
    async with KiteSimulator() as kite:
        lost = ListedElsewhere(GROWW, addresses_of(kite), program="tests.core.list_stub")
    store = ListingStore(db=lists.db, sources={GROWW: lost}, clock=lists.clock, holder="other")
    assert await store.refresh_due([GROWW]) == {}
    with pytest.raises(BrokerUnavailableError, match="list of instruments of Groww could not be fetched"):
        await store.refresh(GROWW)
    after = await lists.db["broker_listings"].find_one({"_id": "groww"}) or {}
    assert (after["version"], after["last_error"]) == (before["version"], "broker-unavailable")
    assert await lists.has("SHARE00001", store)


async def test_the_paper_brokers_whole_list_and_market_datas_spelling(lists: Lists) -> None:
    name = BrokerName.PAPER
    async with SmartApiSimulator(now=lists.clock.now) as angel:
        sources = {name: ListedElsewhere(name, addresses_of(angel))}
        store = ListingStore(db=lists.db, sources=sources, clock=lists.clock, holder="here")
        await store.refresh(name)
        # What a search in market data's list answers, which is of the same file.
        builder = MarketTable()
        await AngelOneListings(InstrumentFile(addresses_of(angel).angel_one_instruments)).fill(builder, None)
        [answered] = [one.symbol for one in builder.build().search("NIFTY CE", "NFO")]
    assert answered == "NIFTY29DEC2624500CE" != NIFTY_CALL.symbol
    by_both = [
        await store.find(name, Exchange.NFO, symbol) for symbol in (answered, answered.lower(), NIFTY_CALL.symbol)
    ]
    assert [found.symbol for found in by_both if found] == [NIFTY_CALL.symbol] * 3
    assert (await store.like(name, Exchange.NFO, answered))[0] == NIFTY_CALL.symbol
    assert await store.find(name, Exchange.NFO, "NIFTY28DEC2624500CE") is None  # another day


async def test_what_stands_in_for_a_list_goes_as_soon_as_the_list_comes_and_never_takes_its_place(lists: Lists) -> None:
    few = PlainBroker(lists.clock, listed=many(3))
    sources, stand_ins = {GROWW: ListedHere(lists.broker)}, {GROWW: ListedHere(few)}
    store = ListingStore(db=lists.db, sources=sources, stand_ins=stand_ins, clock=lists.clock, holder="here")
    lists.broker.error, lists.broker.listed = BrokerUnavailableError("away"), many(100)
    assert await lists.has("SHARE00002", store)
    assert not await lists.has("SHARE00099", store)
    health = await store.health()
    assert (health["status"], health["groww"]["last_error"]) == ("degraded", "broker-unavailable")
    lists.clock.move(minutes=5)
    lists.broker.error = None
    assert await store.refresh_due([GROWW]) == {"groww": "new"}
    assert await lists.has("SHARE00099", store)
    # However long it is away then.
    lists.broker.error = BrokerUnavailableError("away")
    for _ in range(3):
        lists.clock.move(hours=24)
        assert await store.refresh_due([GROWW]) == {"groww": "broker-unavailable"}
    assert await lists.has("SHARE00099", lists.process("fresh"))


async def test_an_empty_list_is_stood_in_for_too(lists: Lists) -> None:
    stand_ins = {GROWW: ListedHere(PlainBroker(lists.clock, listed=many(3)))}
    sources = {GROWW: ListedHere(lists.broker)}
    store = ListingStore(db=lists.db, sources=sources, stand_ins=stand_ins, clock=lists.clock, holder="here")
    assert await store.refresh_due([GROWW]) == {"groww": "doubtful"}
    assert await lists.has("SHARE00002", store)


async def test_a_process_that_was_killed_while_it_fetched_is_not_waited_for_long(lists: Lists) -> None:
    class Killed(ListedHere):
        @asynccontextmanager
        async def fetch(self, known: tuple[str, str] | None = None) -> AsyncIterator[NewList | None]:  # noqa: ARG002
            begun.set()
            await asyncio.Event().wait()
            yield None

    begun = asyncio.Event()
    sources = {GROWW: Killed(lists.broker)}
    killed = ListingStore(db=lists.db, sources=sources, clock=lists.clock, holder="killed")
    fetching = asyncio.create_task(killed.refresh(GROWW))
    await begun.wait()
    lease = await lists.db["leases"].find_one({"_id": "broker listings groww"}) or {}
    assert lease["expires_at"] - lists.clock.now() <= timedelta(seconds=30)
    lists.broker.listed = many(3)
    with pytest.raises(UnavailableError, match="Another process"):
        await lists.store.refresh(GROWW)
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    assert await lists.store.refresh(GROWW) is True  # it was given up


async def test_what_orders_say_is_never_taken_for_another_contract(lists: Lists) -> None:
    """`X26DEC27500CE` is of December 2026 at 27,500; read as a day it is the 26th of December 2027, at 500."""
    other = Listing(Exchange.NFO, "X27DEC500CE", "1", Decimal("0.05"), kind="CE", expiry=date(2027, 12, 30))
    lists.broker.listed = [other, Listing(Exchange.NFO, "X26NOVFUT", "2", Decimal("0.05"), expiry=date(2026, 11, 26))]
    assert await lists.store.find(GROWW, Exchange.NFO, "X26DEC27500CE") is None
    assert await lists.store.find(GROWW, Exchange.NFO, "X30DEC27500CE") == other
    assert await lists.store.like(GROWW, Exchange.NFO, "X30DEC27500CE") == [other.symbol]
    assert await lists.store.find(GROWW, Exchange.NFO, "X26NOV26FUT")


# What is stored


async def test_symbols_by_the_brokers_own_keys(lists: Lists) -> None:
    assert await lists.store.symbols(GROWW) == {}  # nothing is fetched for it
    lists.broker.listed = many(3000)
    await lists.store.refresh(GROWW)
    symbols = await lists.store.symbols(GROWW)
    assert [symbols.get(f"SHARE{number:05}|1") for number in (0, 1500, 2999, 3000)] == [
        "SHARE00000",
        "SHARE01500",
        "SHARE02999",
        None,
    ]
    assert len(list(symbols)) == len(symbols) == 3000


async def test_what_an_earlier_version_stored_is_read(lists: Lists) -> None:
    contracts = [share(f"F{number:05}", kind="FUT", expiry=date(2026, 11, 26)) for number in range(400)]
    lists.broker.listed = [*many(600), *contracts]
    await lists.store.refresh(GROWW)
    # It had the whole text packed at once, no number in its parts, and no count of contracts by their ends.
    [part] = await lists.db["broker_listing_parts"].find({}).to_list()
    data = zlib.compress(zlib.decompress(part["data"]), 6)
    await lists.db["broker_listing_parts"].update_one({}, {"$set": {"data": data}, "$unset": {"number": ""}})
    digest = hashlib.sha256(data).hexdigest()
    await lists.db["broker_listings"].update_one(
        {}, {"$set": {"sha256": digest}, "$unset": {"by_expiry": "", "skipped": "", "stamp": ""}}
    )
    fresh = lists.process("fresh")
    assert await lists.has("F00399", fresh)
    assert lists.broker.fetches == 1
    lists.clock.move(days=5)
    lists.broker.listed = many(600)
    assert await fresh.refresh(GROWW) is True  # those that have ended are not missed


async def test_a_list_that_breaks_off_while_it_is_stored_changes_nothing(lists: Lists) -> None:
    lists.broker.listed = many(10)
    assert await lists.has("SHARE00001")

    class Breaks(ListedHere):
        @asynccontextmanager
        async def fetch(self, known: tuple[str, str] | None = None) -> AsyncIterator[NewList | None]:  # noqa: ARG002
            yield Broken(BuiltList(rows=11, parts=2, sha256="new"))

    sources = {GROWW: Breaks(lists.broker)}
    store = ListingStore(db=lists.db, sources=sources, clock=lists.clock, holder="other")
    with pytest.raises(BrokerUnavailableError):
        await store.refresh(GROWW)
    assert await lists.db["broker_listing_parts"].count_documents({}) == 2  # one of them in vain
    assert await lists.has("SHARE00001", lists.process("fresh"))
    lists.clock.move(hours=2)
    lists.broker.listed = many(12)
    await lists.store.refresh(GROWW)
    assert await lists.db["broker_listing_parts"].count_documents({}) == 1


class Broken(NamedTuple):
    """A list whose second part does not come."""

    built: BuiltList

    async def part(self, number: int) -> bytes:
        if number:
            raise BrokerUnavailableError("gone")
        return b"half"
