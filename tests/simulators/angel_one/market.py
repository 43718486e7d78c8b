"""Prices that the simulator makes up: the same for the same seed, in the feed and in the candles."""

import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Final

from tests.simulators.angel_one.layout import Step

IST: Final = timezone(timedelta(hours=5, minutes=30))
OPENS, CLOSES = 9 * 60 + 15, 15 * 60 + 30
"""Minutes of the day."""

INTERVALS: Final = {
    "ONE_MINUTE": (1, 30),
    "THREE_MINUTE": (3, 60),
    "FIVE_MINUTE": (5, 100),
    "TEN_MINUTE": (10, 100),
    "FIFTEEN_MINUTE": (15, 200),
    "THIRTY_MINUTE": (30, 200),
    "ONE_HOUR": (60, 400),
    "ONE_DAY": (CLOSES - OPENS, 2000),
}
"""Minutes of a candle, and the most days that one request may ask for."""


@dataclass(frozen=True, slots=True)
class Listing:
    """An instrument of the simulator."""

    token: str
    exchange: int
    segment: str
    symbol: str
    name: str
    kind: str
    base: int
    """Yesterday's close in paise."""


# The six indices with the numbers that the service knows them by.
INDICES: Final = (
    Listing("99926000", 1, "NSE", "Nifty 50", "NIFTY", "AMXIDX", 2_450_000),
    Listing("99926009", 1, "NSE", "Nifty Bank", "BANKNIFTY", "AMXIDX", 5_580_000),
    Listing("99926037", 1, "NSE", "Nifty Fin Service", "FINNIFTY", "AMXIDX", 2_610_000),
    Listing("99926074", 1, "NSE", "NIFTY MID SELECT", "MIDCPNIFTY", "AMXIDX", 1_320_000),
    Listing("99926017", 1, "NSE", "SENSEX", "SENSEX", "AMXIDX", 8_050_000),
    Listing("99926018", 1, "NSE", "BANKEX", "BANKEX", "AMXIDX", 6_240_000),
)
EQUITIES: Final = (
    Listing("2885", 1, "NSE", "RELIANCE-EQ", "RELIANCE", "", 151_000),
    Listing("1594", 1, "NSE", "INFY-EQ", "INFY", "", 162_000),
    Listing("500325", 3, "BSE", "RELIANCE", "RELIANCE", "", 151_010),
)


class Market:
    """Deterministic prices: candles are a function of their minute, ticks walk at random from a seed."""

    def __init__(
        self, listings: Iterable[Listing] = (*INDICES, *EQUITIES), seed: int = 1, *, always: bool = False
    ) -> None:
        """`always`: candles around the clock and at weekends, where else they are those of 09:15 to 15:30."""
        self.listings = {(listing.exchange, listing.token): listing for listing in listings}
        self._hours = (0, 24 * 60) if always else (OPENS, CLOSES)
        self._days = 7 if always else 5
        self._random = random.Random(seed)  # noqa: S311 (prices, not secrets)
        self._last: dict[tuple[int, str], dict[str, int]] = {}
        self._sequence = 0

    def known(self, exchange: int, token: str) -> bool:
        """Whether there is such an instrument."""
        return (exchange, token) in self.listings

    def find(self, segment: str, token: str) -> Listing | None:
        """By the words of the REST interface."""
        return next((x for x in self.listings.values() if x.segment == segment and x.token == token), None)

    # Ticks

    def walk(self, listing: Listing, moment: datetime) -> dict[str, int]:
        """The next tick of an instrument: all fields of a SnapQuote, which agree with one another."""
        day = self._last.get((listing.exchange, listing.token))
        if day is None:
            opening = _price(listing, int(moment.timestamp()) // 60)
            day = {"last_price": opening, "open": opening, "high": opening, "low": opening, "volume": 0}
        price = max(5, day["last_price"] + round(self._random.gauss(0, listing.base / 20_000) / 5) * 5)
        quantity = self._random.randrange(1, 500)
        self._sequence += 1
        ms = int(moment.timestamp() * 1000)
        day = {
            "sequence": self._sequence,
            "exchange_time": ms,
            "last_price": price,
            "last_quantity": quantity,
            "average_price": (day["open"] + price) // 2,
            "volume": day["volume"] + quantity,
            "total_buy_quantity": self._random.randrange(1000, 100_000),
            "total_sell_quantity": self._random.randrange(1000, 100_000),
            "open": day["open"],
            "high": max(day["high"], price),
            "low": min(day["low"], price),
            "close": listing.base,
            "last_trade_time": ms // 1000,
            "received_time": ms + 1,
            "upper_circuit": listing.base * 11 // 10,
            "lower_circuit": listing.base * 9 // 10,
            "year_high": listing.base * 13 // 10,
            "year_low": listing.base * 7 // 10,
        }
        self._last[listing.exchange, listing.token] = day
        return day

    @staticmethod
    def book(price: int, steps: int) -> tuple[list[Step], list[Step]]:
        """Buys and sells around a price."""
        buys = [Step(100 + 10 * i, max(1, price - 5 * (i + 1)), 1 + i) for i in range(steps)]
        return buys, [Step(90 + 10 * i, price + 5 * (i + 1), 2 + i) for i in range(steps)]

    # Candles

    def candles(self, listing: Listing, interval: str, start: datetime, end: datetime) -> Iterator[list[object]]:
        """Rows of `getCandleData` that begin from `start` to `end`, in the hours of this market."""
        first, last = self._hours
        length, _ = INTERVALS[interval]
        day = start.astimezone(IST).replace(hour=0, minute=0, second=0, microsecond=0)
        while day <= end:
            for minute in range(first, last, length) if day.weekday() < self._days else ():
                opens = day + timedelta(minutes=minute)
                # A day's candle is dated at midnight.
                stamp = day if interval == "ONE_DAY" else opens
                if start <= stamp <= end:
                    yield [stamp.isoformat(), *self._bar(listing, opens, min(length, last - minute))]
            day += timedelta(days=1)

    def _bar(self, listing: Listing, opens: datetime, minutes: int) -> list[float | int]:
        first = int(opens.timestamp()) // 60
        prices = [_price(listing, minute) for minute in range(first, first + minutes + 1)]
        volume = sum(100 + minute * 7919 % 900 for minute in range(first, first + minutes))
        figures = (prices[0], max(prices), min(prices), prices[-1])
        return [*(round(paise / 100, 2) for paise in figures), volume]


def _price(listing: Listing, minute: int) -> int:
    """Paise at the turn of a minute since the epoch."""
    drift = 0.01 * math.sin(minute / 977) + 0.004 * math.sin(minute / 61) + 0.001 * math.sin(minute / 7)
    return round(listing.base * (1 + drift) / 5) * 5


def master(listings: Iterable[Listing], rows: int = 0) -> list[dict[str, object]]:
    """The instrument file: the listings, rows that are junk in the ways that happen, and `rows` options beside."""
    real: list[dict[str, object]] = [
        {
            "token": x.token,
            "symbol": x.symbol,
            "name": x.name,
            "expiry": "",
            "strike": "0.000000" if x.kind else "-1.000000",
            "lotsize": "1",
            "instrumenttype": x.kind,
            "exch_seg": x.segment,
            "tick_size": "0.000000" if x.kind else "10.000000",
        }
        for x in listings
    ]
    junk: list[dict[str, object]] = [
        {**real[0], "token": "", "symbol": "NO TOKEN"},
        {**real[0], "token": "1", "symbol": "", "name": ""},
        {**real[0], "token": "2", "lotsize": "many"},
        {**real[0], "token": "3", "exch_seg": "XXX"},
        {"token": "4"},
        {**real[0], "token": None},
        dict(real[-1]),
    ]
    options: list[dict[str, object]] = [
        {
            "token": str(100_000 + i),
            "symbol": f"NIFTY26NOV26{15_000 + 50 * (i // 2)}{'CE' if i % 2 else 'PE'}",
            "name": "NIFTY",
            "expiry": "26NOV2026",
            "strike": f"{(15_000 + 50 * (i // 2)) * 100}.000000",
            "lotsize": "65",
            "instrumenttype": "OPTIDX",
            "exch_seg": "NFO",
            "tick_size": "5.000000",
        }
        for i in range(rows)
    ]
    return [*real, *junk, *options]
