"""Instruments for tests of lists of them."""

from decimal import Decimal

from app.brokerage.words import Exchange, Listing


def share(symbol: str, **values: object) -> Listing:
    return Listing(exchange=Exchange.NSE, symbol=symbol, key=f"{symbol}|1", tick_size=Decimal("0.05"), **values)  # type: ignore[arg-type]


def many(count: int) -> list[Listing]:
    return [share(f"SHARE{number:05}") for number in range(count)]
