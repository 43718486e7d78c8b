"""The history of prices on a real database: written, thinned, read, deleted."""

import asyncio
from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from random import Random

import pytest

from app.core.errors import InvalidInputError
from app.crypto.history_reading import HistoryPosition
from app.crypto.history_rows import HistoryRows, fresh_row
from app.crypto.history_slots import Interval, Kept, floor
from app.crypto.ports import PricePoint
from app.crypto.schemas.history import HistoryPoint
from tests.crypto.portfolio.conftest import Answers
from tests.crypto.portfolio.kit import (
    COINS,
    DAY,
    FIVE,
    HOUR,
    MIDNIGHT,
    NOON,
    Desk,
    daily,
    listing_of,
    point,
    price_of,
)

BTC = price_of("bitcoin", "BTC", "67187.34")


async def write(desk: Desk, slug: str, points: Iterable[PricePoint]) -> None:
    """What syncs at these moments leave behind, in one go."""
    rows = [fresh_row(slug, interval, one) for one in points for interval in (Interval.M5, Interval.H1)]
    # Of an hour the first stays, as with one sync after the other.
    first = {row["_id"]: row for row in reversed(rows)}
    await desk.rows.insert(list(first.values()))
    for day in {floor(row["at"], DAY) for row in rows}:
        await desk.rows.note_day(day)


def syncs(first: datetime, last: datetime, every: timedelta, seed: int) -> list[PricePoint]:
    """Points of syncs, each some seconds late; now and then one is missing."""
    random, moment, found = Random(seed), first, []  # noqa: S311 (prices, no secrets)
    while moment < last:
        if random.random() > 0.02:
            at = moment + timedelta(milliseconds=random.randrange(4000))
            found.append(point(at, f"{random.uniform(90, 110):.7f}"))
        moment += every
    return found


def kept_of(points: Iterable[PricePoint], interval: Interval, since: datetime) -> dict[datetime, Decimal]:
    """What has to be there of an interval, made without the code under test: the earliest point of each slot."""
    slots: dict[int, PricePoint] = {}
    for one in sorted(points):
        slots.setdefault(int(one.at.timestamp() // interval.length.total_seconds()), one)
    return {one.at: one.price for one in slots.values() if one.at >= since}


# Writing


async def test_a_sync_writes_its_points_once(desk: Desk) -> None:
    rows = [
        ("bitcoin", listing_of("67187.3358936566", market_cap=Decimal("1317802988326.25"))),
        ("dust", listing_of("1e-12", "dust", volume_24h=Decimal("1e15"))),
        ("unpriced", listing_of(None, "unpriced")),
        ("worthless", listing_of("0", "worthless")),
    ]
    assert await desk.history.append(NOON, rows) == 2
    assert await desk.history.append(NOON, rows) == 0
    assert await desk.another_history().append(NOON, rows) == 0
    later = [("bitcoin", listing_of("1")), ("new", listing_of("5", "new"))]
    assert await desk.another_history().append(NOON + timedelta(minutes=4), later) == 1, "the first of a slot stays"
    assert await desk.history.append(NOON + FIVE, rows) == 2
    page = await desk.reading.page("bitcoin", None, None, None, 10)
    assert page.rows[1].point == PricePoint(NOON, Decimal("67187.3358936566"), Decimal("1317802988326.25"), None)
    (dust, _) = (await desk.reading.page("dust", None, None, None, 10)).rows
    assert (dust.point.price, dust.point.volume_24h) == (Decimal("1e-12"), Decimal("1e15"))
    for interval in (Interval.H1, Interval.D1):
        hours = (await desk.reading.page("bitcoin", interval, None, None, 10)).rows
        assert [one.point.at for one in hours] == [NOON]


async def test_processes_that_write_at_once_leave_one_point_a_slot(desk: Desk) -> None:
    rows = [(f"coin-{number}", listing_of("5", f"coin-{number}")) for number in range(40)]
    processes = [desk.another_history() for _ in range(4)]
    new = await asyncio.gather(*(each.append(NOON + timedelta(seconds=n), rows) for n, each in enumerate(processes)))
    assert sum(new) == 40
    for number in (0, 17, 39):
        assert len((await desk.reading.page(f"coin-{number}", None, None, None, 10)).rows) == 1


async def test_amounts_longer_than_the_database_holds_are_rounded_not_refused(desk: Desk) -> None:
    await desk.history.append(NOON, [("pi", listing_of("3." + "1" * 60, "pi"))])
    (only,) = (await desk.reading.page("pi", None, None, None, 1)).rows
    assert only.point.price == Decimal("3." + "1" * 33)


# Five weeks, thinned


FIRST = MIDNIGHT - 34 * DAY


async def filled(desk: Desk) -> list[PricePoint]:
    """Syncs every 100 minutes for five weeks and every five for the last days; what was written."""
    points = syncs(FIRST, MIDNIGHT - 2 * DAY, 20 * FIVE, 1) + syncs(MIDNIGHT - 2 * DAY, NOON, FIVE, 2)
    await write(desk, "bitcoin", points)
    await write(desk, "other", [one._replace(price=Decimal(7)) for one in points[::3]])
    return points


async def read(desk: Desk, interval: Interval | None) -> dict[datetime, Decimal]:
    found = await desk.fresh_reading().points("bitcoin", None, None, interval)
    assert [one.point.at for one in found] == sorted(one.point.at for one in found)
    return {one.point.at: one.point.price for one in found}


async def test_every_interval_has_the_first_point_of_each_slot_and_the_job_changes_nothing(desk: Desk) -> None:
    points = await filled(desk)
    kept = Kept.at(NOON, 365)
    expected = {interval: kept_of(points, interval, kept.since(interval)) for interval in Interval}
    auto = dict(expected[Interval.M5])
    auto |= {at: price for at, price in expected[Interval.H1].items() if at < kept.fine}
    auto |= {at: price for at, price in expected[Interval.D1].items() if at < kept.hourly}
    assert len(auto) > 280 + 400

    first = await desk.history.expire()
    assert first["packed"] > 600
    for interval in Interval:
        assert await read(desk, interval) == expected[interval]
    assert await read(desk, None) == auto
    left = await desk.rows.fresh.count_documents({})
    assert left < 2 * (25 * 13 + 50), "packed rows are deleted"
    again = await desk.history.expire()
    assert again == {"packed": 0, "deleted": 0}
    for interval in Interval:
        assert await read(desk, interval) == expected[interval]


async def test_a_late_job_is_not_noticed(desk: Desk) -> None:
    points = syncs(MIDNIGHT - 3 * DAY, NOON, FIVE, 3)
    await write(desk, "bitcoin", points)
    before = {interval: await read(desk, interval) for interval in (*Interval, None)}
    assert len(before[Interval.D1]) == 4
    running = desk.fresh_reading()
    hours = await running.points("bitcoin", None, None, Interval.H1)
    await desk.history.expire()
    assert {interval: await read(desk, interval) for interval in (*Interval, None)} == before
    assert await running.points("bitcoin", None, None, Interval.H1) == hours, "with an old mark, too"


async def test_a_day_is_packed_when_it_is_over_and_settled(desk: Desk) -> None:
    desk.clock.moment = MIDNIGHT + timedelta(minutes=3)
    await desk.history.append(MIDNIGHT - HOUR, [("bitcoin", listing_of("5"))])
    assert (await desk.history.expire())["packed"] == 0
    await desk.history.append(MIDNIGHT - timedelta(minutes=1), [("late", listing_of("6", "late"))])
    desk.clock.moment = MIDNIGHT + timedelta(minutes=15)
    assert (await desk.history.expire())["packed"] == 2


async def test_what_is_older_than_the_retention_goes(desk: Desk) -> None:
    await desk.rows.pack("bitcoin", Interval.D1, daily([float(n + 1) for n in range(500)]))
    await desk.rows.pack("bitcoin", Interval.H1, [point(NOON - n * HOUR, n + 1) for n in range(24 * 60)])
    days = await read(desk, Interval.D1)
    assert min(days) == MIDNIGHT - 365 * DAY, "a reader sees nothing older, whether or not the job has run"
    before = await desk.rows.buckets.count_documents({})
    assert (await desk.history.expire())["deleted"] >= 4
    assert await desk.rows.buckets.count_documents({}) < before
    assert await read(desk, Interval.D1) == days
    oldest = await desk.rows.buckets.find({"slug": "bitcoin"}).sort("start", 1).limit(1).to_list()
    assert max(oldest[0]["at"]) >= MIDNIGHT - 365 * DAY


async def test_two_that_pack_one_bucket_lose_nothing(desk: Desk) -> None:
    points = daily([float(n + 1) for n in range(60)])
    packers = [HistoryRows(desk.db) for _ in range(4)]
    await asyncio.gather(
        *(each.pack("bitcoin", Interval.D1, points[start::4]) for start, each in enumerate(packers)),
    )
    assert sorted(await desk.rows.packed("bitcoin", Interval.D1, FIRST - 60 * DAY, NOON)) == points


async def test_older_history_is_filled_in_without_touching_what_is_known(desk: Desk) -> None:
    own = point(MIDNIGHT - 3 * DAY + 5 * HOUR, 42)
    await write(desk, "bitcoin", [own])
    await desk.history.expire()
    given = [*daily([float(n + 1) for n in range(400)]), point(NOON - HOUR, 9), point(MIDNIGHT - 3 * DAY + 9 * HOUR, 8)]
    new = await desk.history.fill("bitcoin", given)
    days = await read(desk, Interval.D1)
    assert new == len(days) - 1
    assert min(days) == MIDNIGHT - 365 * DAY
    assert max(days) == MIDNIGHT - DAY, "today is for the syncs"
    # The earlier point of the day is the provider's, at midnight; the hours keep our own.
    assert own.at not in days
    assert list(await read(desk, Interval.H1)) == [own.at]
    assert await desk.history.fill("bitcoin", given) == 0


# Filled in


async def test_a_filled_in_coin_has_no_hole_at_any_age(desk: Desk) -> None:
    """A service that began at noon, whose coin was filled in then, over the five weeks that follow."""
    given = daily([float(n + 1) for n in range(365)])
    await desk.history.fill("bitcoin", given)
    own = syncs(NOON, NOON + HOUR, FIVE, 6)
    await write(desk, "bitcoin", own)
    years = [one.at for one in given]
    for later in (timedelta(minutes=50), timedelta(hours=12, minutes=40), DAY, 2 * DAY, 20 * DAY, 31 * DAY, 33 * DAY):
        desk.clock.moment = NOON + later
        await desk.history.expire()
        found = await desk.fresh_reading(2 * 365).points("bitcoin", None, None)
        assert [one.point.at for one in found if one.point.at < MIDNIGHT] == years
        assert {one.interval for one in found if one.point.at < MIDNIGHT} == {Interval.D1}
        assert any(one.point.at > NOON for one in found), "and our own"
        for start in (0, 1, 15, 30, 45):
            low, high = MIDNIGHT - (start + 10) * DAY, MIDNIGHT - start * DAY - HOUR
            within = await desk.fresh_reading(2 * 365).page("bitcoin", None, low, high, 100)
            assert len(within.rows) == 10
    assert [one.point.at for one in await desk.fresh_reading().points("bitcoin", None, None, Interval.H1)] == []


async def test_our_own_points_come_before_those_that_were_filled_in(desk: Desk) -> None:
    second = timedelta(seconds=1)
    own = [point(MIDNIGHT - DAY + 4 * second, 7), point(MIDNIGHT - 2 * DAY + HOUR, 8), point(NOON - DAY + HOUR, 9)]
    await write(desk, "bitcoin", own)
    given = daily([1.0, 2.0, 3.0])
    await desk.history.fill("bitcoin", given)
    # Of the same hour ours; beside those of other hours the one that was filled in.
    expected = {given[0].at, given[1].at, *(one.at for one in own)}
    for _ in range(2):
        assert set(await read(desk, None)) == expected
        await desk.history.expire()
    # A page may end within the hour, and does not show what the whole list does not.
    between = own[0].at - second
    assert [one.point.at for one in (await desk.reading.page("bitcoin", None, None, between, 10)).rows] == [
        own[1].at,
        given[1].at,
        given[0].at,
    ]


@pytest.mark.parametrize("limit", [1, 7, 40])
async def test_pages_over_the_seam_neither_skip_nor_repeat_while_syncs_go_on(desk: Desk, limit: int) -> None:
    desk.listing.put(BTC)
    await desk.history.fill("bitcoin", daily([float(n + 1) for n in range(60)]))
    # Syncs since three days ago, with a day between on which there was none.
    await write(desk, "bitcoin", syncs(MIDNIGHT - 3 * DAY + HOUR, MIDNIGHT - 2 * DAY, HOUR, 7))
    await write(desk, "bitcoin", syncs(NOON - 2 * HOUR, NOON, FIVE, 8))
    whole = await desk.get(f"{COINS}/BTC/history", limit=1000)
    assert {row["interval"] for row in whole} == {"5m", "1h", "1d"}
    assert len({row["at"][:10] for row in whole}) == 61
    found: list[dict[str, str]] = []
    cursor: dict[str, str] = {}
    for number in range(len(whole)):
        answer = await desk.client.get(f"{COINS}/BTC/history", params={"limit": limit, **cursor})
        found += [{name: row[name] for name in ("at", "interval")} for row in answer.json()]
        desk.clock.moment += timedelta(seconds=20)
        await desk.history.append(desk.clock.moment, [("bitcoin", listing_of(str(number + 1)))])
        if (after := answer.headers.get("X-Next-Cursor")) is None:
            break
        cursor = {"cursor": after}
    assert found == [{name: row[name] for name in ("at", "interval")} for row in whole]


# Over HTTP


async def test_pages_neither_skip_nor_repeat_while_time_passes(desk: Desk) -> None:
    await write(desk, "bitcoin", syncs(MIDNIGHT - DAY, NOON, FIVE, 2))
    await desk.rows.pack("bitcoin", Interval.H1, syncs(MIDNIGHT - 40 * DAY, MIDNIGHT - DAY, HOUR, 1))
    await desk.rows.pack("bitcoin", Interval.D1, daily([float(n + 1) for n in range(365)], MIDNIGHT - DAY))
    desk.listing.put(BTC)
    # Forty minutes after the first page the limit between points of 5 minutes and of an hour has moved.
    desk.clock.moment = NOON + timedelta(minutes=30)
    whole = list(await read(desk, None))[::-1]
    found: list[datetime] = []
    steps = [timedelta(minutes=40), *[timedelta(minutes=7)] * 20]
    cursor: dict[str, str] = {}
    for step in steps:
        answer = await desk.client.get(f"{COINS}/btc/history", params={"limit": 120, **cursor})
        found += [datetime.fromisoformat(row["at"]) for row in answer.json()]
        desk.clock.moment += step
        if (after := answer.headers.get("X-Next-Cursor")) is None:
            break
        cursor = {"cursor": after}
    assert found == whole
    assert len(whole) > 280 + 700 + 300
    assert [one.point.at for one in await desk.fresh_reading().points("bitcoin", None, None)] != whole[::-1]


async def test_points_over_http(desk: Desk) -> None:
    desk.listing.put(BTC)
    await desk.history.append(NOON - HOUR, [("bitcoin", listing_of("1e-12", market_cap=Decimal(123456789012345678)))])
    await desk.history.append(NOON, [("bitcoin", listing_of("67187.3358936566"))])
    rows = await desk.get(f"{COINS}/BTC/history")
    assert set(rows[0]) == set(HistoryPoint.model_fields)
    assert rows[0] == {
        "symbol": "BTC",
        "slug": "bitcoin",
        "at": "2026-11-22T12:00:00Z",
        "interval": "5m",
        "price": Decimal("67187.3358936566"),
        "market_cap": None,
        "volume_24h": None,
    }
    answer = await desk.client.get(f"{COINS}/BTC/history")
    assert '"price":1E-12,"market_cap":123456789012345678,' in answer.text, "to the last digit"
    (row,) = await desk.get(f"{COINS}/BTC/history", interval="1H", start="2026-11-22T11:30:00Z")
    assert row["interval"] == "1h"
    assert await desk.get(f"{COINS}/BTC/history", end="2026-11-22T10:59:59Z") == []
    pages = await desk.pages(f"{COINS}/BTC/history", limit=1, interval="5m")
    assert [len(page) for page in pages] == [1, 1]
    HistoryPoint.model_validate(row)


async def test_symbols_that_several_coins_share(desk: Desk) -> None:
    desk.listing.put(BTC, price_of("batcat", "BTC", "0.001"), price_of("ethereum", "ETH", "3500"))
    await desk.history.append(NOON, [("bitcoin", listing_of("5")), ("batcat", listing_of("6", "batcat"))])
    await desk.history.append(NOON, [("gone", listing_of("7", "gone"))])
    assert (await desk.get(f"{COINS}/btc/history"))[0]["slug"] == "bitcoin"
    assert (await desk.get(f"{COINS}/BTC/history", slug="batcat"))[0]["price"] == 6
    assert await desk.get(f"{COINS}/ETH/history") == [], "listed, and nothing written yet"
    # Not listed any more: still there for who knows its name.
    assert (await desk.get(f"{COINS}/GONE/history", slug="gone"))[0]["price"] == 7
    await desk.get(f"{COINS}/GONE/history", status=404)
    await desk.get(f"{COINS}/BTC/history", status=404, slug="ethereum")
    await desk.get(f"{COINS}/BTC/history", status=404, slug="never-heard-of")
    await desk.get(f"{COINS}/BTC/chart", status=404, slug="never-heard-of")
    await desk.get(f"{COINS}/BTC/risk", status=404, slug="never-heard-of")


@pytest.mark.parametrize(
    "query",
    [
        {"interval": "2m"},
        {"limit": 0},
        {"limit": 1001},
        {"start": "2026-11-22T12:00:00Z", "end": "2026-11-22T11:00:00Z"},
        {"start": "yesterday"},
        {"cursor": "ä"},
        {"cursor": "AAAA"},
        {"days": 3},
        {"slug": "a\u0000b"},
    ],
)
async def test_what_makes_no_sense_is_refused(desk: Desk, query: dict[str, str]) -> None:
    desk.listing.put(BTC)
    problem = await desk.get(f"{COINS}/BTC/history", status=422, **query)
    assert problem["errors"][0]["loc"][0] == "query"


def test_cursors_are_what_they_were() -> None:
    position = HistoryPosition(1_795_348_800_000, 1_795_348_900_000)
    assert HistoryPosition.decode(position.encode()) == position
    for text in (
        "",
        "!",
        position.encode()[:-1],
        HistoryPosition(-1, 5).encode(),
        HistoryPosition(1 << 60, 5).encode(),
    ):
        with pytest.raises(InvalidInputError):
            HistoryPosition.decode(text)


async def test_a_page_costs_what_it_holds_however_much_is_stored(desk: Desk, answers: Answers) -> None:
    desk.listing.put(BTC)
    await write(desk, "bitcoin", syncs(MIDNIGHT - 2 * DAY, NOON, FIVE, 4))
    for number in range(8):
        await write(desk, f"coin-{number}", syncs(NOON - DAY, NOON, FIVE, number))
    await desk.rows.pack("bitcoin", Interval.H1, [point(MIDNIGHT - n * HOUR, n + 1) for n in range(1, 24 * 31)])
    await desk.rows.pack("bitcoin", Interval.D1, daily([float(n + 1) for n in range(365)]))
    await desk.get(f"{COINS}/BTC/history")
    costs = {}
    for interval in ("auto", "5m", "1h", "1d"):
        answers.forget()
        assert len(await desk.get(f"{COINS}/BTC/history", interval=interval, limit=50)) == 50
        costs[interval] = (answers.rows["crypto_history_fresh"], answers.rows["crypto_history"])
        assert sum(answers.queries.values()) <= 6
    assert costs["auto"][0] <= 60
    assert costs["5m"][0] <= 60
    # Hours of the days that are not packed, and buckets of 7 and of 91 days.
    assert costs["1h"][0] <= 61
    assert costs["1h"][1] <= 2
    assert costs["1d"][1] <= 2
