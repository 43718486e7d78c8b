"""The portfolio's jobs: a snapshot after the close, what a crash left behind, and everything anew from the trades."""

from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import Any, Final

import structlog

from app.brokerage.portfolio.book_rows import Row, book_rows, day_rows, snapshot_rows, trade_rows
from app.brokerage.portfolio.broker_view import BrokerView
from app.brokerage.portfolio.days import Days
from app.brokerage.portfolio.ledger import BookKey, Ledger
from app.brokerage.portfolio.naming import day_id, day_of
from app.brokerage.portfolio.price_list import price_list
from app.brokerage.portfolio.reading import books_now
from app.brokerage.portfolio.trades import EARLIEST
from app.brokerage.portfolio.valuation import snapshot_books, wanted
from app.brokerage.ports import Prices
from app.core.clock import Clock, to_micros
from app.core.market_calendar import MarketCalendar
from app.core.scheduler import JobResult, Run

log = structlog.get_logger("arrow.portfolio")

_PATIENCE: Final = 20.0
_DAY: Final = 86_400_000_000
_PIECE: Final = 5_000
"""Trades that one query of a rebuild reads at most."""
_NAMES: Final = (
    "book",
    "user_id",
    "account_id",
    "broker",
    "source",
    "exchange",
    "stock_ticker",
    "product",
    "day",
    "seq",
)


class PortfolioUpkeep:
    """Work for the scheduler; each of the three can be done again at any time."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        days: Days,
        view: BrokerView,
        prices: Prices,
        calendar: MarketCalendar,
        clock: Clock,
    ) -> None:
        self._ledger, self._days, self._view, self._prices = ledger, days, view, prices
        self._calendar, self._clock = calendar, clock

    async def repair(self) -> Mapping[str, int]:
        """Bring in step what a process that died left behind, and days that nobody has asked for yet."""
        return await self._ledger.repair()

    # Snapshots

    async def snapshot(self) -> JobResult:
        """Keep what the accounts that hold or traded something are worth now; on trading days."""
        today = day_of(self._clock.now())
        if self._calendar.session_of(today) is None:
            return {"accounts": 0, "note": "no session"}
        names = {"account_id": 1, "user_id": 1}
        owners = {row["account_id"]: row["user_id"] async for row in book_rows().find({"open": True}, names)}
        traded = day_rows().find({"day": today.isoformat()}, names)
        owners |= {row["account_id"]: row["user_id"] async for row in traded}
        for account_id, user_id in owners.items():
            await self._keep(account_id, user_id, today.isoformat())
        return {"accounts": len(owners)}

    async def _keep(self, account_id: str, user_id: Any, today: str) -> None:
        await self._ledger.settle(account_id)
        seen = await self._view.look(account_id, user_id)
        books = await books_now(account_id, today)
        prices = await price_list(self._prices, wanted(books, seen), _PATIENCE)
        kept, unrealised, unpriced = snapshot_books(books, prices)
        row: Row = {
            "_id": day_id(account_id, today),
            "schema_version": 1,
            "user_id": user_id,
            "account_id": account_id,
            "day": today,
            "at": self._clock.now(),
            "unrealised": unrealised,
            "unpriced": unpriced,
            "books": kept,
        }
        if seen.current and seen.funds is not None:
            row["funds"] = seen.funds.total
        await snapshot_rows().replace_one({"_id": row["_id"]}, row, upsert=True)

    # Everything anew

    async def rebuild(self, run: Run) -> JobResult:
        """Compute all books and days from the trades; what was otherwise before is counted, and put right."""
        books: dict[str, BookKey] = {}
        days: dict[str, Row] = {}
        trades = 0
        async for row in self._trades():
            trades += 1
            books.setdefault(row["book"], BookKey.of(row))
            days.setdefault(day_id(row["account_id"], row["day"]), row)
        # Books and days whose trades are gone.
        async for row in book_rows().find({"open": True}):
            books.setdefault(row["_id"], BookKey.of({**row, "book": row["_id"], "stock_ticker": row["symbol"]}))
        corrected = 0
        for number, key in enumerate(books.values()):
            await self._ledger.begin(key)
            corrected += await self._ledger.recompute(key.id)
            await run.progress(number + 1, len(books) + len(days), "books")
        amended = 0
        for number, (name, row) in enumerate(days.items()):
            amended += await self._again(name, row)
            await run.progress(len(books) + number + 1, len(books) + len(days), "days")
        if corrected or amended:
            log.warning("books or days were not what their trades make", books=corrected, days=amended)
        return {
            "trades": trades,
            "books": len(books),
            "books_corrected": corrected,
            "days": len(days),
            "days_corrected": amended,
        }

    async def _again(self, name: str, owner: Row) -> bool:
        """Compute a day; whether it was otherwise, and nobody knew."""
        before = await day_rows().find_one({"_id": name})
        await self._days.mark(owner, owner["day"])
        await self._days.recompute(owner["account_id"], owner["day"])
        after = await day_rows().find_one({"_id": name})
        return before is None or (not before["pending"] and _content(before) != _content(after))

    async def _trades(self) -> AsyncIterator[Row]:
        """All trades, oldest first, window by window: the database pays for every row that a filter matches."""
        low, width = to_micros(EARLIEST), _DAY
        end = to_micros(self._clock.now() + timedelta(days=1))
        names = dict.fromkeys(_NAMES, 1)
        while low <= end:
            query = {"seq": {"$gte": low, "$lt": low + width}}
            rows = await trade_rows().find(query, names).limit(_PIECE + 1).to_list()
            if len(rows) > _PIECE and width > 1:
                width = max(width // 8, 1)
                continue
            for row in rows:
                yield row
            low += width
            if len(rows) <= _PIECE // 8:
                width *= 4


def _content(row: Row | None) -> Row:
    return {name: value for name, value in (row or {}).items() if name not in {"revision", "pending"}}
