"""The list of instruments as it arrives: in any pieces, with junk, cut off, packed, too large, or not at all."""

import asyncio
import gzip
import json
import time
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.integrations.angel_one.errors import AngelOneError, NonsenseError, RateLimitedError, UnreachableError
from app.integrations.angel_one.instruments import FileLimits, InstrumentFile, MasterParser, MasterRow
from tests.integrations.angel_one.talking import TLS
from tests.simulators.angel_one import AngelOneSimulator, http
from tests.simulators.angel_one.instruments import index, option, share
from tests.simulators.angel_one.rest import INSTRUMENTS

RELIANCE = MasterRow("NSE", "2885", "RELIANCE-EQ", "RELIANCE", "", "", None, 1, 10)


def parse(data: bytes, *cuts: int) -> tuple[list[MasterRow], MasterParser]:
    rows: list[MasterRow] = []
    parser = MasterParser(rows.append)
    places = [0, *sorted(cuts), len(data)]
    for start, end in pairwise(places):
        parser.feed(data[start:end])
    parser.close()
    return rows, parser


def parse_rows(*rows: Any) -> tuple[list[MasterRow], MasterParser]:
    return parse(json.dumps(rows).encode())


# Rows


def test_a_row_of_each_kind():
    rows, parser = parse_rows(
        share("2885", "RELIANCE-EQ"),
        index("99926000", "Nifty 50", "NIFTY"),
        option("43210", "NIFTY26NOV2624500CE", "NIFTY", "26NOV2026", 24_500),
        share("500325", "RELIANCE", exchange="BSE"),
        share("9", "GOLD", exchange="MCX"),
    )
    assert rows == [
        RELIANCE,
        MasterRow("NSE", "99926000", "NIFTY 50", "NIFTY", "AMXIDX", "", None, 1, None),
        MasterRow("NFO", "43210", "NIFTY26NOV2624500CE", "NIFTY", "OPTIDX", "2026-11-26", 2_450_000, 65, 5),
        MasterRow("BSE", "500325", "RELIANCE", "RELIANCE", "", "", None, 1, 10),
    ]
    assert (dict(parser.rejected), dict(parser.skipped)) == ({}, {"MCX": 1})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"token": ""}, "token"),
        ({"token": None}, "token"),
        ({"token": "1 2"}, "token"),
        ({"token": "1" * 25}, "token"),
        ({"token": "१२"}, "token"),
        ({"symbol": "  "}, "symbol"),
        ({"symbol": "A" * 65}, "symbol"),
        ({"symbol": "A\u202eB"}, "symbol"),
        ({"symbol": ["A"]}, "symbol"),
        ({"exch_seg": "XXX"}, "exchange"),
        ({"exch_seg": None}, "exchange"),
        ({"instrumenttype": "OPTIDX", "expiry": "26NOV2026"}, "contract"),
        ({"instrumenttype": "OPTIDX", "strike": "100.0"}, "contract"),
        ({"instrumenttype": "FUTIDX", "expiry": "31FEB2026"}, "contract"),
        ({"instrumenttype": "FUTIDX", "expiry": "2026-11-26"}, "contract"),
        ({"lotsize": "many"}, "lot"),
        ({"lotsize": "1.5"}, "lot"),
        ({"lotsize": "-75"}, "lot"),
        ({"lotsize": "9" * 30}, "lot"),
        ({"lotsize": "७५"}, "lot"),
        ({"lotsize": ["1"]}, "lot"),
    ],
)
def test_junk_is_counted_and_left_out(changes: dict[str, Any], reason: str):
    rows, parser = parse_rows(share("2885", "RELIANCE-EQ") | changes, share("2885", "RELIANCE-EQ"))
    assert rows == [RELIANCE]
    assert dict(parser.rejected) == {reason: 1}
    assert parser.rows == 1


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("lotsize", "-1", None),
        ("lotsize", "-1.000000", None),
        ("lotsize", "0", None),
        ("lotsize", "", None),
        ("lotsize", None, None),
        ("lotsize", 75, 75),
        ("lotsize", "75.000000", 75),
        ("tick_size", "-1.000000", None),
        ("tick_size", "nan", None),
        ("tick_size", "0.250000", None),
        ("tick_size", "25", 25),
        ("tick_size", "1e9", None),
    ],
)
def test_a_field_that_holds_no_number_costs_no_row(field: str, value: object, expected: int | None):
    (row,), _ = parse_rows(share("2885", "RELIANCE-EQ") | {field: value})
    assert (row.lot if field == "lotsize" else row.tick) == expected


def test_what_is_no_object_is_junk():
    rows, parser = parse_rows(None, share("2885", "RELIANCE-EQ"), 5, "x", ["y"], {}, None)
    assert rows == [RELIANCE]
    assert dict(parser.rejected) == {"not an object": 5, "exchange": 1}


# Pieces

TRICKY = json.dumps(
    [
        share("1", 'A"}],[{-EQ'),
        share("2", "B\\-EQ", "}"),
        share("2885", "RELIANCE-EQ") | {"more": {"deep": [{"er": "}"}]}},
        None,
        option("43210", "N26NOV2624500CE", "N", "26NOV2026", 24_500),
        share("4", "É-EQ"),
    ],
    indent=1,
    ensure_ascii=False,
).encode()


@given(cuts=st.lists(st.integers(0, len(TRICKY)), max_size=30))
@settings(max_examples=150, deadline=None)
def test_however_it_is_cut_it_is_the_same(cuts: list[int]):
    whole, parser = parse(TRICKY)
    assert [row.token for row in whole] == ["1", "2", "2885", "43210", "4"]
    assert dict(parser.rejected) == {"not an object": 1}
    rows, other = parse(TRICKY, *cuts)
    assert (rows, other.rejected) == (whole, parser.rejected)


def test_a_byte_at_a_time():
    assert parse(TRICKY, *range(len(TRICKY)))[0] == parse(TRICKY)[0]


def test_any_beginning_of_it_is_no_file():
    for end in range(len(TRICKY)):
        with pytest.raises(NonsenseError, match=r"cut off|not JSON"):
            parse(TRICKY[:end])


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"<html></html>", b'{"status": false}', b"[] []", b"[{}]x", b"[{}{}]", b"[{},]x", b"[" * 200_000,
     b'["' + b"a" * 200_000, b"[" + b"{" * 200_000, b"[" + b'{"a": "}", ' * 30_000],
)  # fmt: skip
def test_what_is_no_such_file(data: bytes):
    with pytest.raises(NonsenseError):
        parse(data, *range(0, len(data), 65_536))


def test_an_empty_list_has_no_rows():
    assert parse(b" [ ] ")[0] == []


def test_bytes_that_are_no_text_spoil_their_row_only():
    data = json.dumps([share("1", "A?-EQ"), share("2885", "RELIANCE-EQ")]).encode().replace(b"?", b"\xff")
    rows, _ = parse(data)
    assert [row.token for row in rows] == ["1", "2885"]


# Over HTTP

Fetch = Callable[..., Awaitable[Any]]


async def fetch(simulator: AngelOneSimulator, limits: FileLimits | None = None, **known: str) -> Any:
    rows: list[MasterRow] = []
    fetched = await InstrumentFile(simulator.instruments_url, tls=TLS, limits=limits).fetch(rows.append, **known)
    return rows, fetched


@pytest.mark.parametrize("packed", [True, False])
async def test_it_is_fetched_and_known_again(angel_one: AngelOneSimulator, packed: bool):
    angel_one.instruments.packed = packed
    rows, fetched = await fetch(angel_one)
    assert RELIANCE in rows
    assert len(rows) == fetched.rows
    assert fetched.size == len(angel_one.instruments.body())
    assert fetched.rejected == {"token": 2, "symbol": 1, "exchange": 2, "lot": 1}
    assert (await fetch(angel_one, etag=fetched.etag))[1] is None
    angel_one.instruments.rows = angel_one.instruments.rows[:3]
    assert len((await fetch(angel_one, etag=fetched.etag))[0]) == 3


@pytest.mark.parametrize(
    ("fault", "kind", "word"),
    [
        (http.html(502), UnreachableError, "502"),
        (http.html(200), NonsenseError, "not JSON"),
        (http.html(404), NonsenseError, "404"),
        (http.HttpFault(http.Answer(302, headers={"Location": "http://127.0.0.1/"})), NonsenseError, "302"),
        (http.too_many(7), RateLimitedError, "429"),
        (http.rate_limited(), RateLimitedError, "403"),
        (http.HttpFault(http.Answer(403, b"Forbidden")), NonsenseError, "403"),
        (http.garbage(), NonsenseError, "not JSON"),
        (http.empty(), NonsenseError, "not JSON"),
        (http.without_data(), NonsenseError, "not JSON"),
        (http.not_http(), UnreachableError, "connection"),
        (http.lost(), UnreachableError, "connection"),
        (http.HttpFault(cut_after=400), UnreachableError, "connection"),
        (http.slow(600), UnreachableError, "timeout"),
        (http.HttpFault(http.Answer(200, b"[]", headers={"Content-Encoding": "br"})), NonsenseError, "encoding"),
        (http.HttpFault(http.Answer(200, b"[]", headers={"Content-Encoding": "gzip"})), NonsenseError, "encoding"),
        (
            http.HttpFault(http.Answer(200, gzip.compress(b"[]")[:-4], headers={"Content-Encoding": "gzip"})),
            NonsenseError,
            "cut off",
        ),
    ],
)
async def test_answers_that_are_no_file(
    angel_one: AngelOneSimulator, fault: http.HttpFault, kind: type[AngelOneError], word: str
):
    angel_one.rest.fail(INSTRUMENTS, fault)
    with pytest.raises(kind) as caught:
        await fetch(angel_one, FileLimits(read=0.5) if fault.delay else FileLimits())
    assert type(caught.value) is kind
    assert caught.value.code == word
    if isinstance(caught.value, RateLimitedError):
        assert caught.value.retry_after == (7 if word == "429" else 5)
    assert RELIANCE in (await fetch(angel_one))[0]


async def test_a_file_cut_in_the_middle_is_no_file(angel_one: AngelOneSimulator):
    size = len(angel_one.instruments.body())
    for end in (1, size // 2, size - 1):
        angel_one.rest.fail(INSTRUMENTS, angel_one.instruments.cut(end))
        with pytest.raises(NonsenseError, match="cut off"):
            await fetch(angel_one)


async def test_there_are_limits_of_size_and_time(angel_one: AngelOneSimulator):
    with pytest.raises(NonsenseError, match="too large"):
        await fetch(angel_one, FileLimits(size=1000))
    # A thousand times as large as it looks.
    bomb = gzip.compress(b"[" + b" " * (64 << 20), 9)
    assert len(bomb) < 70_000
    angel_one.rest.fail(INSTRUMENTS, http.HttpFault(http.Answer(200, bomb, headers={"Content-Encoding": "gzip"})))
    with pytest.raises(NonsenseError, match="too large"):
        await fetch(angel_one, FileLimits(size=8 << 20))
    angel_one.rest.fail(INSTRUMENTS, http.slow(600))
    with pytest.raises(UnreachableError, match="timeout"):
        await fetch(angel_one, FileLimits(whole=0.2))


async def test_nobody_listens():
    with pytest.raises(UnreachableError, match="connection"):
        await InstrumentFile("http://127.0.0.1:9/x", tls=TLS).fetch(list[MasterRow]().append)


async def test_the_event_loop_goes_on_while_150_000_rows_arrive():
    async with AngelOneSimulator(instrument_rows=150_000) as simulator:
        packed = len(simulator.instruments.body(packed=True))
        turns = 0

        async def look() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0.001)
                turns += 1

        looking = asyncio.create_task(look())
        rows, fetched = await fetch(simulator)
        looking.cancel()
        data = simulator.instruments.body()
    assert packed < fetched.size / 5, "it came compressed"
    assert fetched.rows == len(rows) == 150_010
    assert turns > 50

    # No step is long, whatever else this machine does: in one go it takes some 600 ms.
    parser, longest = MasterParser(list[MasterRow]().append), 0.0
    for at in range(0, len(data), 65_536):
        began = time.thread_time()
        parser.feed(data[at : at + 65_536])
        longest = max(longest, time.thread_time() - began)
        assert len(parser._rest) < 1000, "it keeps no more than a row"
    assert longest < 0.2
