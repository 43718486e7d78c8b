"""Files: whole, exact, bounded, and nothing in them is a formula."""

import csv
import io
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import openpyxl
import pytest
from hypothesis import given as given_
from hypothesis import strategies as st

from app.brokerage.portfolio import exports
from app.brokerage.portfolio.exports import CUT, Cell, harmless, table
from app.brokerage.portfolio.schemas import ListFormat
from tests.brokerage.portfolio.kit import DAY, MONDAY, NOON, PNL, TRADES, D, Desk, fill, given

ORDERS = "/api/v1/dashboard/exports/orders"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
FORMULAS = ["=1+1", "+1", "-1+2", "@SUM(A1)", "\t=1", "\r=1", " =1", "\u00a0=1", "\uff1d1", '=HYPERLINK("x")']


async def content(response: Any) -> bytes:
    return b"".join([chunk async for chunk in response.body_iterator])


async def rows_of(*rows: list[Cell]) -> AsyncIterator[list[Cell]]:
    for row in rows:
        yield row


def read_csv(data: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(data.decode(), newline="")))


def read_xlsx(data: bytes) -> list[tuple[Any, ...]]:
    book = openpyxl.load_workbook(io.BytesIO(data))
    (sheet,) = book.worksheets
    assert not [cell for row in sheet.iter_rows() for cell in row if cell.data_type == "f"]
    return list(sheet.iter_rows(values_only=True))


@pytest.mark.parametrize("text", FORMULAS)
async def test_no_text_is_a_formula(text: str) -> None:
    found = read_csv(await content(await table(ListFormat.CSV, "x", ["text"], rows_of([text]))))
    assert found[1] == [f"'{text}"]
    (_, (cell,)) = read_xlsx(await content(await table(ListFormat.XLSX, "x", ["text"], rows_of([text]))))
    assert cell.startswith("'")


@given_(st.text(min_size=1))
def test_a_cell_never_begins_as_a_formula_does(text: str) -> None:
    safe = harmless(text)
    assert safe.endswith(text)
    assert safe[0] not in "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20"


async def test_values_are_what_they_were() -> None:
    moment = datetime(2026, 11, 20, 6, 30, 1, 250_000, UTC)
    row: list[Cell] = [D("-12.50"), 7, 'a,"b"', moment, date(2026, 11, 20), None, D("12345678901234567.89"), True]
    names = [f"c{n}" for n in range(len(row))]
    head, found = read_csv(await content(await table(ListFormat.CSV, "x", names, rows_of(row))))
    assert head == names
    assert found == [
        "-12.50", "7", 'a,"b"', "2026-11-20T06:30:01.250+00:00", "2026-11-20", "", "12345678901234567.89", "yes",
    ]  # fmt: skip
    head_, cells = read_xlsx(await content(await table(ListFormat.XLSX, "x", names, rows_of(row))))
    assert list(head_) == names
    assert cells[:3] == (-12.5, 7, 'a,"b"')
    assert abs((cells[3] - moment.replace(tzinfo=None)).total_seconds()) < 0.002
    assert cells[4] == datetime(2026, 11, 20)  # noqa: DTZ001 (as the file has it)
    assert cells[5:] == (None, "12345678901234567.89", "yes"), "a double would round it"


async def test_nothing_has_no_sign() -> None:
    """A short position that is closed at its price made -0.00 by arithmetic, and nothing for everybody else."""
    row: list[Cell] = [-10 * (D("5.00") - D("5.00")), D("-0")]
    assert str(row[0]) == "-0.00"
    _, found = read_csv(await content(await table(ListFormat.CSV, "x", ["a", "b"], rows_of(row))))
    assert found == ["0.00", "0"]
    _, cells = read_xlsx(await content(await table(ListFormat.XLSX, "x", ["a", "b"], rows_of(row))))
    assert [str(cell) for cell in cells] == ["0", "0"]


@pytest.mark.parametrize("format_", [ListFormat.CSV, ListFormat.XLSX])
async def test_a_file_has_an_end(monkeypatch: pytest.MonkeyPatch, format_: ListFormat) -> None:
    monkeypatch.setattr(exports, "MOST", 700)
    read = 0

    async def endless() -> AsyncIterator[list[Cell]]:
        nonlocal read
        while True:
            read += 1
            yield [read]

    data = await content(await table(format_, "x", ["n"], endless()))
    rows = read_csv(data) if format_ is ListFormat.CSV else read_xlsx(data)
    assert len(rows) == 702
    assert rows[-1][0] == CUT
    assert read == 701


async def test_a_file_of_nothing_has_a_head() -> None:
    assert read_csv(await content(await table(ListFormat.CSV, "x", ["n"], rows_of()))) == [["n"]]
    assert read_xlsx(await content(await table(ListFormat.XLSX, "x", ["n"], rows_of()))) == [("n",)]


async def test_trades_orders_and_profit_as_files(desk: Desk) -> None:
    await desk.take(*(fill("buy", n + 1, "100.05", MONDAY + n * DAY) for n in range(4)))
    await desk.enter(given("sell", 2, 90, NOON), given("buy", 2, 80, NOON))
    desk.orders.rows = [
        {"id": "1", "created_at": NOON, "stock_symbol": "TCS", "reason": "=cmd|' /C calc'!A0", "price": D("5.10")},
        {"id": "2", "created_at": NOON - 9 * DAY, "stock_symbol": "INFY"},
    ]
    rows = await desk.get(TRADES, limit=1000)
    head, *found = read_csv(await raw(desk, TRADES, format="csv", limit=1))
    assert [dict(zip(head, row, strict=True))["id"] for row in found] == [row["id"] for row in rows]
    table_ = [dict(zip(head, row, strict=True)) for row in found]
    for row, line in zip(rows, table_, strict=True):
        for name in ("price", "capital_used", "charges", "net_pnl", "realised_pnl"):
            assert Decimal(line[name]) == row[name]
    only = read_csv(await raw(desk, TRADES, format="CSV", status="CLOSED"))
    assert len(only) == 3
    title, *lines = read_xlsx(await raw(desk, TRADES, format="xlsx"))
    assert title == tuple(head)
    assert [line[head.index("quantity")] for line in lines] == [row["quantity"] for row in rows]
    _, order = read_csv(await raw(desk, ORDERS, start=(NOON - DAY).isoformat()))
    assert order[1] == "TCS"
    assert order[13] == "'=cmd|' /C calc'!A0"
    assert len(read_xlsx(await raw(desk, ORDERS, format="xlsx"))) == 3
    by_day = read_csv(await raw(desk, PNL, format="csv"))
    whole = await desk.get(PNL)
    assert [row[0] for row in by_day[1:]] == [row["day"] for row in whole["rows"]]
    assert sum(Decimal(row[by_day[0].index("net_pnl")]) for row in by_day[1:]) == whole["net_pnl"]
    assert read_csv(await raw(desk, PNL, format="csv", by="symbol"))[1][:3] == ["NSE", "RELIANCE", "CNC"]
    await desk.get(TRADES, 422, format="pdf")
    await desk.get(ORDERS, 422, format="json")
    await desk.get(ORDERS, 403, who="alerts")


async def raw(desk: Desk, path: str, **query: Any) -> bytes:
    """A file."""
    answer = await desk.client.get(path, params=query, headers={"Authorization": "Bearer ann"})
    assert answer.status_code == 200, answer.text
    kind = answer.headers["content-type"]
    assert kind == XLSX if query.get("format") == "xlsx" else kind.startswith("text/csv")
    assert answer.headers["content-disposition"].startswith("attachment; filename=")
    assert answer.headers["cache-control"] == "no-store"
    return answer.content
