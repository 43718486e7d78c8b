"""Pages lead through everything exactly once, newest first, while more arrives."""

import asyncio
import base64
import re
from collections.abc import AsyncIterator
from datetime import datetime, timedelta, timezone
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest
import pytest_asyncio

from tests.support.http import NO_TLS
from tests.support.people import Person, alert, somebody
from tests.support.senders import Senders, all_alerts
from tests.support.service import ServiceProcess

TOTAL = 300
CONTRACTS = ["NIFTY", "NIFTYBANK", "SENSEX"]
TRADES = ["buy", "sell"]


@pytest_asyncio.fixture(scope="module")
async def reader(service: ServiceProcess) -> AsyncIterator[Person]:
    """Somebody with 300 alerts of two strategies, three contracts and two trade types."""
    async with somebody(service.url) as person:
        keys = [await person.bind("One"), await person.bind("Two")]
        limits = httpx.Limits(max_connections=8)

        async with httpx.AsyncClient(base_url=service.url, timeout=50, limits=limits, verify=NO_TLS) as sender:

            async def send(number: int) -> None:
                body = alert(contract=CONTRACTS[number % 3], trade_type=TRADES[number % 2], quantity=number + 1)
                assert (await sender.post(f"/data/{keys[number % 5 == 0]}", json=body)).status_code == 201

            for start in range(0, TOTAL, 20):
                await asyncio.gather(*(send(number) for number in range(start, start + 20)))
        yield person


@pytest_asyncio.fixture
async def rows(reader: Person) -> list[dict[str, Any]]:
    """All of the reader's alerts, in one page."""
    answer = await reader.client.get("/data/", params={"limit": 1000})
    assert "X-Next-Cursor" not in answer.headers
    assert "Link" not in answer.headers
    found: list[dict[str, Any]] = answer.json()
    return found


def ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row["id"] for row in rows]


async def test_one_page_holds_all_newest_first(rows: list[dict[str, Any]]):
    assert len(rows) == len(set(ids(rows))) == TOTAL
    assert [row["seq"] for row in rows] == sorted((row["seq"] for row in rows), reverse=True)
    assert {row["quantity"] for row in rows} == {float(n + 1) for n in range(TOTAL)}
    # `start` and `end` compare `seq`: it says the same time, whatever happened between two looks at the clock.
    for row in rows:
        stored = datetime.fromisoformat(row["created_at"])
        assert round(stored.timestamp() * 1000) == row["seq"] // 1000


@pytest.mark.parametrize("limit", [1, 7, 50, 300, 1000])
async def test_pages_of_any_size_give_each_once(reader: Person, rows: list[dict[str, Any]], limit: int):
    assert ids(await all_alerts(reader, limit)) == ids(rows)


async def test_fifty_are_a_page_by_default(reader: Person, rows: list[dict[str, Any]]):
    answer = await reader.client.get("/data/")

    assert ids(answer.json()) == ids(rows)[:50]
    assert answer.headers["X-Next-Cursor"]


@pytest.mark.parametrize("limit", [1, 7, 50])
async def test_pages_hold_while_alerts_arrive(service: ServiceProcess, limit: int):
    """Whatever was there when reading began is read, once; nothing is read twice."""
    async with somebody(service.url) as person:
        key = await person.bind()
        async with Senders(service.url, key, count=4) as senders:
            await senders.until_acknowledged(60)
            before = {sent.acknowledged for sent in senders.acknowledged}
            read = await all_alerts(person, limit)

        assert len(senders.acknowledged) > len(before)
        assert len(set(ids(read))) == len(read)
        assert before <= set(ids(read))
        assert [row["seq"] for row in read] == sorted((row["seq"] for row in read), reverse=True)


@pytest.mark.parametrize("limit", [20, 1000])
@pytest.mark.parametrize(
    "filters",
    [
        {"contract": "NIFTY"},
        {"contract": "NIFTYBANK"},
        {"contract": "NIFTYBAN"},
        {"contract": "nifty"},
        {"trade_type": "sell"},
        {"trade_type": "SELL"},
        {"strategy_name": "One"},
        {"strategy_name": "Two", "trade_type": "buy"},
        {"strategy_name": "Two", "contract": "SENSEX", "trade_type": "sell"},
        {"strategy_name": "None such"},
    ],
    ids=str,
)
async def test_filters_hold_together(reader: Person, rows: list[dict[str, Any]], filters: dict[str, str], limit: int):
    wanted = {**filters, **({"trade_type": filters["trade_type"].lower()} if "trade_type" in filters else {})}

    found = await all_alerts(reader, limit, **filters)

    assert ids(found) == [row["id"] for row in rows if wanted.items() <= row.items()]


async def test_start_and_end_are_both_included(reader: Person, rows: list[dict[str, Any]]):
    start, end = rows[200]["created_at"], rows[100]["created_at"]
    first, last = datetime.fromisoformat(start), datetime.fromisoformat(end)

    between = await all_alerts(reader, 30, start=start, end=end)
    combined = await all_alerts(reader, 30, start=start, end=end, contract="SENSEX", trade_type="buy")

    inside = [row for row in rows if first <= datetime.fromisoformat(row["created_at"]) <= last]
    assert ids(between) == ids(inside)
    assert len(inside) >= 101
    assert ids(combined) == [row["id"] for row in inside if (row["contract"], row["trade_type"]) == ("SENSEX", "buy")]


@pytest.mark.parametrize(
    ("query", "all_of_them"),
    [
        ({"start": "2000-01-01T00:00:00Z"}, True),
        ({"start": "2000-01-01"}, True),
        ({"start": "2100-01-01T00:00:00Z"}, False),
        ({"end": "2000-01-01T00:00:00Z"}, False),
        ({"end": "2100-01-01T00:00:00+05:30"}, True),
        ({"start": "2000-01-01T00:00:00Z", "end": "2199-12-31T23:59:59.999999Z"}, True),
    ],
)
async def test_bounds_far_away(reader: Person, query: dict[str, str], all_of_them: bool):
    assert len(await all_alerts(reader, 1000, **query)) == (TOTAL if all_of_them else 0)


async def test_bounds_mean_moments_in_any_zone(reader: Person, rows: list[dict[str, Any]]):
    moment = datetime.fromisoformat(rows[150]["created_at"])
    kolkata = moment.astimezone(timezone(timedelta(hours=5, minutes=30))).isoformat()

    assert ids(await all_alerts(reader, 1000, start=kolkata)) == ids(
        await all_alerts(reader, 1000, start=rows[150]["created_at"])
    )


@pytest.mark.parametrize(
    "query",
    [
        {"start": "2026-01-02T00:00:00Z", "end": "2026-01-01T00:00:00Z"},
        {"start": "yesterday"},
        {"start": "2026-13-01"},
        {"end": "0001-01-01T00:00:00Z"},
        {"end": "9999-12-31T23:59:59Z"},
        {"start": "NaN"},
        {"start": "1e400"},
        {"limit": 0},
        {"limit": -1},
        {"limit": 1001},
        {"limit": "ten"},
        {"limit": "1e2"},
        {"trade_type": "hold"},
        {"contract": ""},
        {"contract": "N" * 65},
        {"contract": "NIF\0TY"},
        {"strategy_name": "s" * 101},
    ],
    ids=str,
)
async def test_wrong_queries_name_the_field(reader: Person, query: dict[str, Any]):
    answer = await reader.client.get("/data/", params=query)

    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    located = {part for error in answer.json()["errors"] for part in error["loc"]}
    assert located & set(query) or "start" in answer.json()["detail"]


GARBAGE = [
    "x",
    "not a cursor",
    "AAAA",
    "é",
    "\0",
    "=" * 27,
    base64.urlsafe_b64encode(b"\0" * 19).decode(),
    base64.urlsafe_b64encode(b"\0" * 21).decode(),
    "A" * 65,
    "6b02893a002b26997921d778",
    '{"$gt": ""}',
]


@pytest.mark.parametrize("cursor", GARBAGE)
async def test_garbage_cursors_are_422(reader: Person, cursor: str):
    for path in ("/data/", "/keys/", "/alerts/rejected"):
        answer = await reader.client.get(path, params={"cursor": cursor})
        assert (path, answer.status_code) == (path, 422)
        assert "cursor" in answer.json()["detail"]


@pytest.mark.parametrize("raw", [b"\0" * 20, b"\xff" * 20, b"\x7f" + b"\xff" * 19, b"\x80" + b"\0" * 19])
async def test_invented_cursors_do_no_harm(reader: Person, raw: bytes):
    cursor = base64.urlsafe_b64encode(raw).decode().rstrip("=")
    answer = await reader.client.get("/data/", params={"cursor": cursor})

    assert answer.status_code == 200
    assert len(answer.json()) in {0, 50}


async def test_the_link_header_can_be_followed_as_it_stands(reader: Person, rows: list[dict[str, Any]]):
    url: str | None = "/data/?limit=40&contract=NIFTY&trade_type=BUY&strategy_name=Two"
    found: list[str] = []
    while url:
        answer = await reader.client.get(url)
        found += ids(answer.json())
        link = re.fullmatch(r'<([^>]+)>; rel="next"', answer.headers["Link"]) if "Link" in answer.headers else None
        url = urljoin(str(answer.url), link[1]) if link else None

    wanted = {"contract": "NIFTY", "trade_type": "buy", "strategy_name": "Two"}
    assert found == [row["id"] for row in rows if wanted.items() <= row.items()]


async def test_keys_and_rejected_have_pages_too(service: ServiceProcess):
    async with somebody(service.url) as person:
        for number in range(5):
            key = await person.bind(f"Strategy {number}")
            await person.client.post(f"/data/{key}", content=f"not JSON {number}")
        for path in ("/keys/", "/alerts/rejected"):
            names: list[str] = []
            url = f"{path}?limit=2"
            while url:
                answer = await person.client.get(url)
                names += [row["strategy_name"] for row in answer.json()]
                assert len(answer.json()) <= 2
                cursor = answer.headers.get("X-Next-Cursor")
                url = f"{path}?limit=2&cursor={cursor}" if cursor else ""
            assert names == [f"Strategy {number}" for number in reversed(range(5))]


async def test_deleting_while_reading_skips_nothing_else(service: ServiceProcess):
    async with somebody(service.url) as person:
        key = await person.bind()
        for number in range(10):
            await person.client.post(f"/data/{key}", json=alert(quantity=number + 1))
        first = await person.client.get("/data/", params={"limit": 4})
        # The very row that the cursor names is deleted.
        assert (await person.client.delete(f"/data/{first.json()[-1]['id']}")).status_code == 204
        rest = await person.client.get("/data/", params={"limit": 50, "cursor": first.headers["X-Next-Cursor"]})

    assert [row["quantity"] for row in rest.json()] == [6, 5, 4, 3, 2, 1]
