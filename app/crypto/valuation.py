"""What holdings are worth: exact decimal arithmetic on the newest prices.

Values and sums are exact. What comes of a division (weights, percentages, yesterday's values) is rounded to 16 digits.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Context, Decimal, localcontext
from typing import Any, Final

from app.crypto.ports import CoinPrice, CoinPrices
from app.crypto.schemas.portfolio import HoldingValue, Portfolio

STALE: Final = timedelta(hours=2)
NO_PRICE: Final = "No provider has listed this coin with a price lately."
EXACT: Final = Context(prec=400, Emin=-9999, Emax=9999)
"""Wide enough for products of two numbers of 34 digits, and for sums of those from 1e-48 to 1e45."""
_ROUNDED: Final = Context(prec=16, Emin=-9999, Emax=9999)
_HUNDRED: Final = Decimal(100)
_CENT: Final = Decimal("0.01")


def cents(value: Decimal) -> Decimal:
    """`value` rounded to two decimals, however large it is."""
    return value.quantize(_CENT, context=EXACT)


def live_price(found: CoinPrice | None, now: datetime) -> dict[str, Any]:
    """The fields of `schemas.portfolio.LivePrice`."""
    if found is None:
        blank = dict.fromkeys(("price", "price_change_24h", "price_at", "age_seconds", "source"))
        return {**blank, "stale": False, "reason": NO_PRICE}
    age = max(now - found.at, timedelta())
    return {
        "price": found.price,
        "price_change_24h": found.price_change_24h,
        "price_at": found.at,
        "age_seconds": round(age.total_seconds(), 3),
        "stale": age > STALE,
        "source": found.provider,
        "reason": None,
    }


def valued(rows: Iterable[Mapping[str, Any]], prices: CoinPrices, now: datetime) -> Portfolio:
    """The portfolio of these rows of holdings."""
    with localcontext(EXACT):
        held = [_holding(row, prices.price(row["slug"]), now) for row in rows]
        total = sum((one.value for one in held if one.value is not None), Decimal(0))
        held = [one.model_copy(update={"weight": _share(one.value, total)}) for one in held]
        held.sort(key=lambda one: (one.value is None, -(one.value or 0), one.slug))
        return Portfolio(at=now, value=total, holdings=held, **_counts(held, now), **_gains(held))


def _holding(row: Mapping[str, Any], found: CoinPrice | None, now: datetime) -> HoldingValue:
    quantity, cost = row["quantity"], row.get("cost_basis")
    value = quantity * found.price if found is not None else None
    profit = value - cost if value is not None and cost is not None else None
    return HoldingValue(
        id=str(row["_id"]),
        slug=row["slug"],
        symbol=found.symbol if found is not None else row["symbol"],
        name=found.name if found is not None else row["name"],
        quantity=quantity,
        cost_basis=cost,
        value=value,
        weight=None,
        day_change=_day_change(value, found.price_change_24h if found is not None else None),
        profit=profit,
        profit_percent=_percent(profit, cost),
        **live_price(found, now),
    )


def _day_change(value: Decimal | None, percent: Decimal | None) -> Decimal | None:
    """What a value was a day ago follows from the provider's change in per cent: V / (1 + c / 100)."""
    if value is None or percent is None or percent <= -_HUNDRED:
        return None
    return _ROUNDED.plus(value - _ROUNDED.divide(value, 1 + percent / _HUNDRED))


def _share(value: Decimal | None, total: Decimal) -> Decimal | None:
    return _ROUNDED.divide(value, total) if value is not None and total else None


def _percent(part: Decimal | None, whole: Decimal | None) -> Decimal | None:
    return _ROUNDED.divide(part * _HUNDRED, whole) if part is not None and whole else None


def _counts(held: Sequence[HoldingValue], now: datetime) -> dict[str, Any]:
    times = [one.price_at for one in held if one.price_at is not None]
    oldest = min(times, default=None)
    return {
        "valued": len(times),
        "not_valued": len(held) - len(times),
        "stale": sum(one.stale for one in held),
        "oldest_price_at": oldest,
        "oldest_price_seconds": round(max(now - oldest, timedelta()).total_seconds(), 3) if oldest else None,
    }


def _gains(held: Sequence[HoldingValue]) -> dict[str, Any]:
    changed = [(one.value, one.day_change) for one in held if one.value is not None and one.day_change is not None]
    bought = [(one.cost_basis, one.profit) for one in held if one.cost_basis is not None and one.profit is not None]
    change = sum((part for _, part in changed), Decimal(0)) if changed else None
    before = sum((value - part for value, part in changed), Decimal(0))
    cost = sum((part for part, _ in bought), Decimal(0)) if bought else None
    profit = sum((part for _, part in bought), Decimal(0)) if bought else None
    return {
        "day_change": change,
        "day_change_percent": _percent(change, before),
        "day_change_covers": len(changed),
        "cost_basis": cost,
        "profit": profit,
        "profit_percent": _percent(profit, cost),
        "profit_covers": len(bought),
    }
