"""What a stretch of days made and cost: sums of the days' rows, exactly."""

from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal, localcontext
from typing import Any

from app.brokerage.portfolio.book_rows import Row
from app.brokerage.portfolio.lots import ZERO
from app.brokerage.portfolio.naming import same_place
from app.brokerage.portfolio.schemas import PnlBy
from app.brokerage.portfolio.standing_schemas import Pnl, PnlRow
from app.brokerage.words import Exchange, Product
from app.core.charges import COMPONENTS
from app.core.charges.words import EXACT

_UNITS = ("trades", "bought", "sold")
_AMOUNTS = ("bought_value", "sold_value", "realised", "charges", "interest")


def pnl_of(account_id: str, days: Sequence[Row], start: date, end: date, by: PnlBy) -> Pnl:
    """The P&L of these days of an account."""
    with localcontext(EXACT):
        rows = _by_day(days) if by is PnlBy.DAY else _by_symbol(days)
        realised, interest = _sum(days, "realised"), _sum(days, "interest")
        charges = {name: sum((day["charges"][name] for day in days), ZERO) for name in (*COMPONENTS, "total")}
        return Pnl(
            account_id=account_id,
            start=start,
            end=end,
            trades=sum(day["trades"] for day in days),
            turnover=_sum(days, "turnover"),
            realised_pnl=realised,
            charges=charges,
            interest=interest,
            net_pnl=realised - charges["total"] - interest,
            rows=rows,
        )


def _sum(rows: Sequence[Mapping[str, Any]], name: str) -> Decimal:
    return sum((row[name] for row in rows), ZERO)


def _by_day(days: Sequence[Row]) -> list[PnlRow]:
    return [
        PnlRow(
            day=date.fromisoformat(row["day"]),
            trades=row["trades"],
            turnover=row["turnover"],
            realised_pnl=row["realised"],
            charges=row["charges"]["total"],
            interest=row["interest"],
            net_pnl=row["realised"] - row["charges"]["total"] - row["interest"],
            note=row.get("note"),
        )
        for row in sorted(days, key=lambda row: str(row["day"]), reverse=True)
    ]


def _by_symbol(days: Sequence[Row]) -> list[PnlRow]:
    sums: dict[tuple[str, str, str], Row] = {}
    firsts: dict[tuple[str, str], str] = {}
    for day in days:
        for book in day["books"]:
            # A share that was traded on both exchanges is one, under the exchange that comes first.
            first = firsts.setdefault((book["symbol"], book["product"]), book["exchange"])
            place = first if same_place(book["product"], first, book["exchange"]) else book["exchange"]
            key = (place, book["symbol"], book["product"])
            one = sums.setdefault(key, dict.fromkeys(_UNITS, 0) | dict.fromkeys(_AMOUNTS, ZERO))
            for name in (*_UNITS, *_AMOUNTS):
                one[name] += book[name]
    rows = [
        PnlRow(
            exchange=Exchange(exchange),
            symbol=symbol,
            product=Product(product),
            trades=one["trades"],
            bought=one["bought"],
            sold=one["sold"],
            turnover=one["bought_value"] + one["sold_value"],
            realised_pnl=one["realised"],
            charges=one["charges"],
            interest=one["interest"],
            net_pnl=one["realised"] - one["charges"] - one["interest"],
        )
        for (exchange, symbol, product), one in sums.items()
    ]
    return sorted(rows, key=lambda row: (-row.net_pnl, row.symbol or ""))
