"""Tables as CSV and XLSX files, piece by piece: no list is ever whole in memory."""

import asyncio
import csv
import io
import tempfile
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import IO, Any, Final

from starlette.responses import StreamingResponse

from app.brokerage.portfolio.schemas import ListFormat

Cell = str | int | Decimal | datetime | date | bool | None
MOST: Final = 50_000
"""Rows of one file; what is beyond is said in its last line."""
CUT: Final = f"The file ends here, after {MOST} rows: ask for the rest with an earlier end."
_PIECE: Final = 500
_CHUNK: Final = 65_536
# What a spreadsheet takes for the beginning of a formula (OWASP: CSV injection), whatever blanks stand before it.
_FORMULA: Final = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
_DIGITS: Final = 15
"""A spreadsheet's numbers are doubles: what has more digits is written as text."""


async def table(
    format_: ListFormat, name: str, header: Sequence[str], rows: AsyncIterator[Sequence[Cell]]
) -> StreamingResponse:
    """The answer with the rows as a file called `name`. What goes wrong before the first row is raised here."""
    first = await anext(rows, None)
    whole = _bounded(first, rows)
    if format_ is ListFormat.CSV:
        body, kind = _csv(header, whole), "text/csv; charset=utf-8"
    else:
        body = _chunks(await _xlsx(header, whole, name))
        kind = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
    headers = {
        "Content-Disposition": f'attachment; filename="{name}.{format_}"',
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    return StreamingResponse(body, media_type=kind, headers=headers)


async def _bounded(first: Sequence[Cell] | None, rows: AsyncIterator[Sequence[Cell]]) -> AsyncIterator[Sequence[Cell]]:
    if first is None:
        return
    yield first
    count = 1
    async for row in rows:
        if count == MOST:
            yield [CUT]
            return
        yield row
        count += 1


def harmless(text: str) -> str:
    """`text` that no spreadsheet takes for a formula: it gets a quote in front, where it could be one."""
    return f"'{text}" if text.lstrip(" \u00a0\ufeff").startswith(_FORMULA) else text


def _cell(value: Cell) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Decimal):
        return f"{value or abs(value):f}"  # a short position that made nothing made -0
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds")
    if isinstance(value, date):
        return value.isoformat()
    return str(value) if isinstance(value, int) else harmless(value)


async def _csv(header: Sequence[str], rows: AsyncIterator[Sequence[Cell]]) -> AsyncIterator[bytes]:
    buffer = io.StringIO()
    writer = csv.writer(buffer)  # RFC 4180, lines end with CR LF
    writer.writerow(header)
    async for row in rows:
        writer.writerow(map(_cell, row))
        if buffer.tell() >= _CHUNK:
            yield buffer.getvalue().encode()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue().encode()


async def _xlsx(header: Sequence[str], rows: AsyncIterator[Sequence[Cell]], name: str) -> IO[bytes]:
    sheet = await asyncio.to_thread(_Sheet, header, name)
    try:
        piece: list[Sequence[Cell]] = []
        async for row in rows:
            piece.append(row)
            if len(piece) == _PIECE:
                await asyncio.to_thread(sheet.add, piece)
                piece = []
        await asyncio.to_thread(sheet.add, piece)
        return await asyncio.to_thread(sheet.finish)
    except BaseException:
        sheet.drop()
        raise


class _Sheet:
    """A workbook of one sheet that is written row by row to a file without a name, which goes when it is closed."""

    def __init__(self, header: Sequence[str], name: str) -> None:
        import xlsxwriter  # type: ignore[import-untyped]  # it ships none

        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (whoever reads it closes it)
        options = {
            "constant_memory": True,
            "strings_to_formulas": False,
            "strings_to_urls": False,
            "nan_inf_to_errors": True,
        }
        self._book: Any = xlsxwriter.Workbook(self._file, options)
        self._sheet: Any = self._book.add_worksheet(name[:31])
        self._time = self._book.add_format({"num_format": "yyyy-mm-dd hh:mm:ss"})
        self._day = self._book.add_format({"num_format": "yyyy-mm-dd"})
        bold = self._book.add_format({"bold": True})
        self._sheet.freeze_panes(1, 0)
        for column, title in enumerate(header):
            self._sheet.set_column(column, column, max(12, len(title) + 2))
        for column, title in enumerate(header):
            self._sheet.write_string(0, column, title, bold)
        self._row = 1

    def add(self, rows: Sequence[Sequence[Cell]]) -> None:
        """Write rows below those before."""
        for row in rows:
            for column, value in enumerate(row):
                self._write(column, value)
            self._row += 1

    def _write(self, column: int, value: Cell) -> None:
        row = self._row
        if value is None:
            return
        if isinstance(value, datetime):
            self._sheet.write_datetime(row, column, value.astimezone(UTC).replace(tzinfo=None), self._time)
        elif isinstance(value, date):
            self._sheet.write_datetime(row, column, value, self._day)
        elif isinstance(value, Decimal) and len(value.normalize().as_tuple().digits) <= _DIGITS:
            self._sheet.write_number(row, column, float(value or abs(value)))
        elif isinstance(value, int) and not isinstance(value, bool) and len(str(abs(value))) <= _DIGITS:
            self._sheet.write_number(row, column, value)
        else:  # a string cell is never a formula; saved as CSV it would be one
            self._sheet.write_string(row, column, _cell(value))

    def finish(self) -> IO[bytes]:
        """The file, from its beginning."""
        self._book.close()
        self._file.seek(0)
        return self._file

    def drop(self) -> None:
        """Forget it."""
        self._file.close()


async def _chunks(file: IO[bytes]) -> AsyncIterator[bytes]:
    with file:
        while chunk := await asyncio.to_thread(file.read, _CHUNK):
            yield chunk
