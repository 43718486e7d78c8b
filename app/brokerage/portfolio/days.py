"""Days of an account: the contract note, and what was realised, by book."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal, localcontext
from typing import Any, Final

import structlog
from pymongo import UpdateOne
from pymongo.errors import DuplicateKeyError

from app.brokerage.portfolio.book_rows import Row, costed, day_rows, replayed, trade_rows
from app.brokerage.portfolio.costs import Cost, day_costs
from app.brokerage.portfolio.lots import ZERO
from app.brokerage.portfolio.naming import Source, day_id
from app.brokerage.words import BrokerName, Side
from app.core.charges import ChargeEngine, Charges, added
from app.core.charges.words import EXACT, NOTHING

log = structlog.get_logger("arrow.portfolio")

_ATTEMPTS: Final = 10


class Days:
    """Computes days from their trades, when somebody asks: a hundred fills are charged once, not a hundred times."""

    def __init__(self, engine: ChargeEngine) -> None:
        self._engine = engine

    async def mark(self, owner: Mapping[str, Any], day: str) -> None:
        """Trades of this day have changed; `owner` is a row with user, account and broker."""
        name = day_id(owner["account_id"], day)
        change = {"$set": {"pending": True}, "$inc": {"revision": 1}}
        if (await day_rows().update_one({"_id": name}, change)).matched_count:
            return
        row = {key: owner[key] for key in ("user_id", "account_id", "broker")}
        try:
            await day_rows().insert_one(
                {"_id": name, "schema_version": 1, **row, "day": day, "revision": 1, "pending": True}
            )
        except DuplicateKeyError:
            await day_rows().update_one({"_id": name}, change)

    async def settle(self, account_id: str) -> None:
        """Compute the account's days that wait for it."""
        for row in await day_rows().find({"account_id": account_id, "pending": True}).to_list():
            await self._compute(row)

    async def settle_all(self, most: int) -> int:
        """The same for all accounts, at most so many days; gives how many."""
        rows = await day_rows().find({"pending": True}).limit(most).to_list()
        for row in rows:
            await self._compute(row)
        return len(rows)

    async def recompute(self, account_id: str, day: str) -> None:
        """Compute one day again, whether it waits or not."""
        row = await day_rows().find_one({"_id": day_id(account_id, day)})
        if row is not None:
            await self._compute(row)

    async def _compute(self, row: Row) -> None:
        for _ in range(_ATTEMPTS):
            trades = replayed(await trade_rows().find({"account_id": row["account_id"], "day": row["day"]}).to_list())
            # An order takes 0.1 ms to charge: a busy day would hold up everybody else.
            note, costs = await asyncio.to_thread(self._costs, row, trades)
            await _share(trades, costs)
            fresh = {**row, **_sums(trades, note, costs), "pending": False, "revision": row["revision"] + 1}
            if note.note is None:
                fresh.pop("note", None)
            same = {"_id": row["_id"], "revision": row["revision"]}
            if (await day_rows().replace_one(same, fresh)).matched_count:
                return
            again = await day_rows().find_one({"_id": row["_id"]})
            if again is None or not again["pending"]:
                return  # somebody else has computed it since
            row = again
        log.warning("a day is traded so busily that it could not be settled; it will be", day=row["day"])

    def _costs(self, row: Row, trades: Sequence[Row]) -> tuple[Charges, dict[str, Cost]]:
        """The day's charges. What its owner entered is on no note of the broker's: it is charged by itself."""
        notes: list[Charges] = []
        shares: dict[str, Cost] = {}
        for source in Source:
            own = [costed(trade) for trade in trades if trade["source"] == source]
            if own:
                costs = day_costs(self._engine, BrokerName(row["broker"]), date.fromisoformat(row["day"]), own)
                notes.append(costs.note)
                shares |= costs.by_trade
        return added(notes), shares


async def _share(trades: Sequence[Row], costs: Mapping[str, Cost]) -> None:
    writes = []
    for trade in trades:
        cost = costs[str(trade["_id"])]
        values = {"brokerage_charge": cost.brokerage, "charges": cost.total}
        if any(trade.get(name) != value for name, value in values.items()):
            writes.append(UpdateOne({"_id": trade["_id"]}, {"$set": values}))
    if writes:
        await trade_rows().bulk_write(writes, ordered=False)


def _sums(trades: Sequence[Row], note: Charges, costs: Mapping[str, Cost]) -> Row:
    books: dict[str, Row] = {}
    with localcontext(EXACT):
        for trade in trades:
            book = books.setdefault(trade["book"], _blank(trade))
            side = "bought" if trade["order_type"] == Side.BUY else "sold"
            value = trade["quantity"] * trade["price"]
            book[side] += trade["quantity"]
            book[f"{side}_value"] += value
            book["realised"] += trade.get("realised", ZERO)
            book["interest"] += trade.get("mtf_charge", ZERO)
            book["charges"] += costs[str(trade["_id"])].total
            book["trades"] += 1
        sums: Row = {
            "trades": len(trades),
            "turnover": _sum(books, "bought_value") + _sum(books, "sold_value"),
            "realised": _sum(books, "realised"),
            "interest": _sum(books, "interest"),
            "charges": note.as_dict(),
            "books": list(books.values()),
        }
    return sums | ({"note": note.note} if note.note else {})


def _sum(books: Mapping[str, Row], name: str) -> Decimal:
    return sum((book[name] for book in books.values()), ZERO)


def _blank(trade: Row) -> Row:
    return {
        "book": trade["book"],
        "exchange": trade["exchange"],
        "symbol": trade["stock_ticker"],
        "product": trade["product"],
        "source": trade["source"],
        "bought": 0,
        "sold": 0,
        "bought_value": ZERO,
        "sold_value": ZERO,
        "realised": ZERO,
        "interest": ZERO,
        "charges": NOTHING,
        "trades": 0,
    }
