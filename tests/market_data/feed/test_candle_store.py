"""Candles in a real database, which may be away."""

import asyncio
import time
from contextlib import suppress
from typing import Any

from pymongo import AsyncMongoClient
from pymongo.errors import PyMongoError

from app.market_data.candle_store import BEFORE, STARTS, CandleStore
from app.market_data.candles import CandleRow
from app.market_data.ports import Timeframe
from app.market_data.rows import from_ms
from tests.market_data.candle_ticks import at, calendar, finished, tick
from tests.market_data.feed.kit import CandleBuilder
from tests.support.mongodb import OPTIONS, Db, server_port, through
from tests.support.tcp_proxy import TcpProxy

M1, M5 = Timeframe.M1, Timeframe.M5


def rows(*walls: str, price: int = 100_00) -> list[CandleRow]:
    builder = CandleBuilder(calendar())
    for wall in walls:
        builder.accept(tick(at(wall), price, 700))
    return list(finished(builder).values())


async def mended(proxy: TcpProxy, client: AsyncMongoClient[dict[str, Any]]) -> None:
    """The way to the database is open again, and the client has found out."""
    await proxy.mend()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with suppress(PyMongoError):
            await client.admin.command("ping")
            return
    raise AssertionError("the client did not find the database again")


async def test_what_is_written_is_read_by_window_in_order(db: Db):
    store = CandleStore(db)
    assert await store.write(rows("09:17:01", "09:15:01", "09:16:01", "10:00"))

    found = await store.read("SBIN-EQ", M1, at("09:15"), at("09:17"))
    assert [row["_id"] for row in found] == [f"SBIN-EQ|1m|{at('09:15')}", f"SBIN-EQ|1m|{at('09:16')}"]
    assert len(await store.read("SBIN-EQ", M1, 0, at("23:00"), most=3)) == 3
    assert [row["ticks"] for row in await store.read("SBIN-EQ", M5, at("09:15"), at("09:16"))] == [3]
    assert await store.read("SBIN", M1, 0, at("23:00")) == []


async def test_a_candle_has_one_row_its_newest_state(db: Db):
    store = CandleStore(db)
    await store.write(rows("10:00"))
    await store.write(rows("10:00", "10:00:30", price=120_00))

    [row] = await db["candles"].find({"timeframe": "1m"}).to_list()
    assert (row["ticks"], row["close"], row["closed"], row["source"]) == (2, 120, True, "ticks")


async def test_who_wakes_up_in_anothers_term_overwrites_nothing(db: Db):
    stopped, leader = CandleStore(db), CandleStore(db)
    await stopped.lead()
    await stopped.write(rows("10:00"))
    await leader.lead()
    await leader.write(rows("10:00", "10:00:30", price=120_00))
    assert not await stopped.write(rows("10:00", price=90_00))
    assert stopped.outdated
    assert not await stopped.write(rows("10:05"))

    found = {row["timeframe"]: row for row in await db["candles"].find({}).to_list()}
    assert {row["ticks"] for row in found.values()} == {2}
    assert {row["close"] for row in found.values()} == {120}
    # In a term of its own it goes on.
    await stopped.lead()
    assert await stopped.write()
    assert not await leader.write(rows("10:05", "10:05:01"))
    assert (await db["candles"].find_one({"_id": f"SBIN-EQ|1m|{at('10:05')}"}) or {})["ticks"] == 1


async def test_terms_of_two_at_once_differ_and_rows_without_one_are_the_oldest(db: Db):
    await db["candles"].insert_many([row.document() for row in rows("10:00")])
    stores = [CandleStore(db) for _ in range(4)]
    await asyncio.gather(*(store.lead() for store in stores))
    for store in stores:
        await store.write(rows("10:00"))
    # The one of the last term wrote, whenever its turn was, and those before it in turn.
    assert {row["term"] for row in await db["candles"].find({}).to_list()} == {4}
    assert sum(not store.outdated for store in stores) >= 1


async def test_it_is_kept_when_the_candles_of_a_symbol_begin(db: Db):
    async def begin() -> list[dict[str, Any]]:
        return await db[STARTS].find({}).to_list()

    store = CandleStore(db)
    await store.write(rows("10:20", "10:40"))
    at_first = await begin()
    assert at_first == [{"_id": "SBIN-EQ", "start": from_ms(at("09:15"))}]  # the day's
    another = CandleStore(db)
    await another.write([row for row in rows("10:20") if row.timeframe is M1])
    assert await begin() == at_first
    await another.write([row._replace(start_ms=row.start_ms - 86_400_000) for row in rows("10:20")])
    assert await begin() == [{"_id": "SBIN-EQ", "start": from_ms(at("09:15") - 86_400_000)}]


async def test_candles_from_before_that_was_kept_are_not_forgotten(db: Db):
    """By a version that did not keep it."""
    first = from_ms(at("09:15") - 40 * 86_400_000)
    await db["market_latest"].insert_one({"_id": "SBIN-EQ", "first_at": first})
    await CandleStore(db).write(rows("10:20"))
    assert await db[STARTS].find({}).to_list() == [{"_id": "SBIN-EQ", "start": first - BEFORE}]


async def test_hundreds_of_ids_are_read_in_steps(bare_db: Db):
    store = CandleStore(bare_db)
    made = rows(*(f"10:{minute:02}" for minute in range(60)), *(f"11:{minute:02}" for minute in range(60)))
    await store.write(made)

    found = await store.rows([row.id for row in made] + ["SBIN-EQ|1m|0"])
    assert {row["_id"] for row in found} == {row.id for row in made}


async def test_what_cannot_be_written_waits(mongodb_url: str, bare_db: Db):
    async with TcpProxy(server_port(mongodb_url)) as proxy:
        client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
            through(mongodb_url, proxy.port), **OPTIONS, serverSelectionTimeoutMS=150
        )
        store = CandleStore(client[bare_db.name])
        await mended(proxy, client)
        assert await store.write(rows("10:00"))
        await proxy.cut()
        assert not await store.write(rows("10:00", "10:00:01"))
        assert not await store.write(rows("10:00", "10:00:01", "10:00:02"))
        assert store.health() == {"waiting": len(Timeframe), "lost": 0}
        await mended(proxy, client)
        # What waits is read as if it were stored.
        [before] = await store.read("SBIN-EQ", M1, at("10:00"), at("10:01"))
        [by_id] = await store.rows([before["_id"]])
        assert await store.write()
        await client.close()

    assert before["ticks"] == by_id["ticks"] == 3
    assert [row["ticks"] for row in await bare_db["candles"].find({"timeframe": "1m"}).to_list()] == [3]


async def test_there_is_a_bound_to_what_waits(mongodb_url: str, bare_db: Db):
    async with TcpProxy(server_port(mongodb_url)) as proxy:
        client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(
            through(mongodb_url, proxy.port), **OPTIONS, serverSelectionTimeoutMS=150
        )
        store = CandleStore(client[bare_db.name], most_waiting=10)
        await proxy.cut()
        made = rows("10:00", "10:07")
        await store.write(made)
        assert store.health() == {"waiting": 10, "lost": len(made) - 10}
        await mended(proxy, client)
        assert await store.write()
        await client.close()

    assert {row["_id"] for row in await bare_db["candles"].find({}).to_list()} == {row.id for row in made[-10:]}


async def test_what_the_database_refuses_is_counted_and_holds_nobody_up(db: Db):
    """A row of another name in its place: the unique index refuses it, now and ever after."""
    store = CandleStore(db)
    [wanted] = [row for row in rows("10:00") if row.timeframe is M1]
    await db["candles"].insert_one({**wanted.document(), "_id": "in its place"})
    others = rows("10:01")

    assert not await store.write([wanted, *others])
    assert store.health()["waiting"] == 1
    assert len(await store.rows([row.id for row in others])) == len(others)
