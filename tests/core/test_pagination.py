"""Newest-first lists: cursors that cannot be forged into errors, pages that miss and repeat nothing, bounded work."""

import base64
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import httpx
import pytest
import pytest_asyncio
from bson import ObjectId
from fastapi import Depends, FastAPI, Request, Response
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymongo import DESCENDING
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from app.core.clock import from_micros, to_micros
from app.core.errors import InvalidInputError
from app.core.pagination import (
    DEFAULT_LIMIT,
    MAX_LIMIT,
    Cursor,
    PageRequest,
    newest_first,
    oldest_first,
    page_request,
    read_page,
)
from app.core.problem import add_problem_handlers
from tests.support.clocks import StandingClock
from tests.support.mongodb import Db, empty_database

NOW = datetime(2026, 11, 22, 9, 15, tzinfo=UTC)
YEARS_AGO = NOW - timedelta(days=1500)
SECOND, HOUR, DAY = 1_000_000, 3_600_000_000, 86_400_000_000
ANY_SEQ = st.integers(-(2**63), 2**63 - 1)
IDS = st.binary(min_size=12, max_size=12).map(ObjectId)
Row = dict[str, Any]


class Work(CommandListener):
    """Counts what is asked of the database, and how many rows it gives."""

    def __init__(self) -> None:
        self.queries = self.rows = 0

    def started(self, event: CommandStartedEvent) -> None:
        self.queries += event.command_name in {"find", "getMore"}

    def succeeded(self, event: CommandSucceededEvent) -> None:
        batch = event.reply.get("cursor", {})
        self.rows += len(batch.get("firstBatch", batch.get("nextBatch", ())))

    def failed(self, event: CommandFailedEvent) -> None:
        """Nothing was read."""


WORK = Work()


@pytest_asyncio.fixture(scope="module")
async def db(mongodb_url: str) -> AsyncIterator[Db]:
    async with empty_database(mongodb_url, event_listeners=[WORK]) as made:
        await made["rows"].create_index([("user_id", 1), ("seq", DESCENDING)])
        yield made


def account(made: datetime = YEARS_AGO) -> ObjectId:
    """A new account, as old as that: its id says when it was made."""
    return ObjectId(ObjectId.from_datetime(made).binary[:4] + ObjectId().binary[4:])


async def page_of(db: Db, user: ObjectId, page: PageRequest, **options: Any) -> Any:
    clock = options.pop("clock", StandingClock(NOW))
    return await read_page(
        newest_first(db["rows"], {"user_id": user}, page=page, account=user, clock=clock, **options), page
    )


async def all_pages(db: Db, user: ObjectId, limit: int, **options: Any) -> list[list[Row]]:
    """Every page, as cursors lead, each of which travels as text."""
    pages: list[list[Row]] = []
    after = None
    while True:
        found = await page_of(db, user, PageRequest(limit, after), **options)
        pages.append(found.rows)
        if found.next is None:
            return pages
        assert len(found.rows) == limit
        after = Cursor.decode(found.next.encode())


async def fill(db: Db, user: ObjectId, seqs: list[int]) -> list[Row]:
    rows: list[Row] = [{"_id": ObjectId(), "user_id": user, "seq": seq} for seq in seqs]
    if rows:
        await db["rows"].insert_many(rows)
    return sorted(rows, key=lambda row: (row["seq"], row["_id"]), reverse=True)


@given(ANY_SEQ, IDS)
def test_a_cursor_survives_the_journey(seq: int, id_: ObjectId):
    text = Cursor(seq, id_).encode()

    assert Cursor.decode(text) == Cursor(seq, id_)
    assert text.isascii()
    assert set("+/=&? ").isdisjoint(text)
    assert len(text) <= 64


TEXTS = st.text(max_size=40) | st.text(st.sampled_from("ABCxyz019-_+/=! "), max_size=30)


@given(TEXTS | st.binary(max_size=30).map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_what_no_list_gave_is_refused(text: str):
    try:
        cursor = Cursor.decode(text)
    except InvalidInputError as error:
        assert error.errors[0].loc == ("query", "cursor")
    else:
        assert cursor.encode() == text


@given(ANY_SEQ, IDS, st.integers(0, 26), st.sampled_from("!= \n.Z"))
def test_a_changed_cursor_is_refused_or_another_one(seq: int, id_: ObjectId, place: int, letter: str):
    text = Cursor(seq, id_).encode()
    changed = text[:place] + letter + text[place:]

    with pytest.raises(InvalidInputError):
        Cursor.decode(changed)


# Ages that a list may have: within microseconds, seconds, days, years, with ties and with gaps.
AGES = st.one_of(
    st.integers(0, 5),
    st.integers(0, 100 * SECOND),
    st.integers(0, 3 * DAY),
    st.integers(0, 1400 * DAY),
    st.integers(-HOUR // 2, 0),  # another process's clock may be ahead
)
EDGES = st.none() | st.integers(-HOUR, 1500 * DAY)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ages=st.lists(AGES, max_size=25),
    copies=st.lists(st.integers(0, 24), max_size=25),
    limit=st.integers(1, 7),
    start=EDGES,
    end=EDGES,
)
async def test_pages_are_what_sorting_all_rows_gives(
    db: Db, ages: list[int], copies: list[int], limit: int, start: int | None, end: int | None
):
    user, now = account(), to_micros(NOW)
    seqs = [now - age for age in ages]
    seqs += [seqs[copy] for copy in copies if copy < len(seqs)]
    await fill(db, account(), seqs[:3])  # somebody else's
    rows = await fill(db, user, seqs)
    # Times are whole milliseconds, and an end means all of its millisecond.
    first = None if start is None else (now - start) // 1000 * 1000
    last = None if end is None else (now - end) // 1000 * 1000

    pages = await all_pages(
        db,
        user,
        limit,
        start=None if first is None else from_micros(first),
        end=None if last is None else from_micros(last),
    )

    expected = [
        row for row in rows if (first is None or row["seq"] >= first) and (last is None or row["seq"] <= last + 999)
    ]
    assert [row["_id"] for page in pages for row in page] == [row["_id"] for row in expected]
    # No page is cut short, and none but the last of an empty list is empty.
    assert [len(page) for page in pages[:-1]] == [limit] * (len(pages) - 1)
    assert len(pages) == max(1, -(-len(expected) // limit))


@pytest.mark.parametrize("limit", [1, 2, 3, 50])
async def test_many_rows_of_one_number(db: Db, limit: int):
    """More than one query reads at once: nothing orders them but their ids."""
    user, now = account(), to_micros(NOW)
    rows = await fill(db, user, [now - 5] * 3 + [now - 10] * 40 + [now - 11] * 3)

    pages = await all_pages(db, user, limit)

    assert [row["_id"] for page in pages for row in page] == [row["_id"] for row in rows]


async def test_rows_at_the_edges_of_windows(db: Db):
    user, now = account(), to_micros(NOW)
    edges = [60 * sum(4**step for step in range(steps)) * SECOND for steps in range(12)]
    rows = await fill(db, user, [now - edge + off for edge in edges for off in (-1, 0, 1)])

    assert [row["seq"] for page in await all_pages(db, user, 50) for row in page] == [row["seq"] for row in rows]


async def test_rows_that_arrive_meanwhile_shift_nothing(db: Db):
    user, now = account(), to_micros(NOW)
    rows = await fill(db, user, [now - n * SECOND for n in range(20)])
    first = await page_of(db, user, PageRequest(5))
    await fill(db, user, [now + 1, now + 2])

    second = await page_of(db, user, PageRequest(5, first.next))

    assert [row["_id"] for row in first.rows + second.rows] == [row["_id"] for row in rows[:10]]


async def test_rows_that_are_deleted_meanwhile_do_not_matter(db: Db):
    user, now = account(), to_micros(NOW)
    rows = await fill(db, user, [now - n * SECOND for n in range(10)])
    first = await page_of(db, user, PageRequest(3))
    await db["rows"].delete_one({"_id": rows[2]["_id"]})  # the one that the cursor names

    second = await page_of(db, user, PageRequest(3, first.next))

    assert [row["_id"] for row in second.rows] == [row["_id"] for row in rows[3:6]]


async def test_clocks_that_differ_hide_nothing(db: Db):
    """The process that made the account was ahead, the one that stores its rows is behind, or the other way."""
    user = account(NOW + timedelta(seconds=40))
    rows = await fill(db, user, [to_micros(NOW), to_micros(NOW) + 90 * SECOND])

    assert (await page_of(db, user, PageRequest(5))).rows == rows


async def test_a_dense_list_is_not_read_whole(db: Db):
    """A trader whose strategies fire every eight seconds: the newest page must not cost a day of alerts."""
    user, now = account(), to_micros(NOW)
    await fill(db, user, [now - n * 8 * SECOND for n in range(8000)])
    after = None
    for _ in range(3):
        WORK.rows = WORK.queries = 0
        page = await page_of(db, user, PageRequest(50, after))
        after = page.next
        assert len(page.rows) == 50
        assert WORK.rows <= 5 * 50
        assert WORK.queries <= 6


async def test_a_burst_is_not_read_whole(db: Db):
    """Five thousand rows within a second."""
    user, now = account(), to_micros(NOW)
    await fill(db, user, [now - n * 200 for n in range(5000)])
    WORK.rows = WORK.queries = 0
    page = await page_of(db, user, PageRequest(50))

    assert len(page.rows) == 50
    assert WORK.rows <= 5 * 50


@pytest.mark.parametrize("age", [None, 3 * DAY, 1400 * DAY])
async def test_a_long_silence_takes_few_queries(db: Db, age: int | None):
    user, now = account(), to_micros(NOW)
    rows = await fill(db, user, [] if age is None else [now - age])
    WORK.queries = 0

    assert (await page_of(db, user, PageRequest(50))).rows == rows
    assert WORK.queries <= 14


async def test_an_end_before_the_beginning_is_empty(db: Db):
    user = account()
    await fill(db, user, [to_micros(NOW)])
    for span in (
        {"end": YEARS_AGO - timedelta(days=9)},
        {"start": NOW + timedelta(days=9)},
        {"start": NOW, "end": YEARS_AGO},
    ):
        found = await page_of(db, user, PageRequest(5), **span)
        assert (found.rows, found.next) == ([], None)


@pytest.mark.parametrize("seq", [-(2**63), -1, 0, 2**63 - 1])
async def test_cursors_from_nowhere_lead_to_a_page(db: Db, seq: int):
    user = account()
    rows = await fill(db, user, [to_micros(NOW)])

    found = await page_of(db, user, PageRequest(5, Cursor(seq, ObjectId())))

    assert found.rows == (rows if seq > 1 else [])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ages=st.lists(AGES, max_size=20), low=AGES, high=AGES, most=st.integers(1, 8))
async def test_the_oldest_rows_of_a_span(db: Db, ages: list[int], low: int, high: int, most: int):
    user, now = account(), to_micros(NOW)
    rows = await fill(db, user, [now - age for age in ages])

    found = await oldest_first(db["rows"], {"user_id": user}, low=now - low, high=now - high, most=most)

    within = sorted(row["seq"] for row in rows if now - low <= row["seq"] <= now - high)
    assert [row["seq"] for row in found] == within[:most]
    assert len({row["_id"] for row in found}) == len(found)


@pytest_asyncio.fixture
async def lists(db: Db) -> AsyncIterator[tuple[httpx.AsyncClient, ObjectId]]:
    """A list over HTTP, and the account that it shows."""
    app, user = FastAPI(), account()
    add_problem_handlers(app)

    @app.get("/rows")
    async def rows(
        request: Request, response: Response, page: Annotated[PageRequest, Depends(page_request)], contract: str = ""
    ) -> list[str]:
        found = await page_of(db, user, page)
        return [f"{row['seq']}{contract}" for row in found.announce(request, response)]

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://arrow.example") as client:
        yield client, user


async def test_link_and_header_lead_through_the_list(db: Db, lists: tuple[httpx.AsyncClient, ObjectId]):
    client, user = lists
    stored = await fill(db, user, [to_micros(NOW) - n for n in range(7)])
    seen: list[str] = []
    answer = await client.get("/rows", params={"limit": 3, "contract": "A&B=é"})
    while True:
        seen += answer.json()
        if "next" not in answer.links:
            break
        following = answer.links["next"]["url"]
        assert f"cursor={answer.headers['X-Next-Cursor']}" in following
        assert following.count("cursor=") == 1
        answer = await client.get(following)

    assert seen == [f"{row['seq']}A&B=é" for row in stored]
    assert "X-Next-Cursor" not in answer.headers


async def test_the_default_page(db: Db, lists: tuple[httpx.AsyncClient, ObjectId]):
    client, user = lists
    await fill(db, user, [to_micros(NOW) - n for n in range(DEFAULT_LIMIT + 1)])

    assert len((await client.get("/rows")).json()) == DEFAULT_LIMIT == 50
    assert len((await client.get("/rows", params={"limit": MAX_LIMIT})).json()) == DEFAULT_LIMIT + 1
    assert len((await client.get("/rows", params={"cursor": ""})).json()) == DEFAULT_LIMIT


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=1001", "limit=-1", "limit=abc", "limit=1.5", "cursor=abc", "cursor=%00", f"cursor={'A' * 65}"],
)
async def test_wrong_pages_are_refused_by_name(lists: tuple[httpx.AsyncClient, ObjectId], query: str):
    client, _ = lists
    answer = await client.get(f"/rows?{query}")

    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == ["query", query.split("=")[0]]
