"""What Yahoo's exchanges trade: real American days of 2000–2013, laid on the newest weekdays, and invented Indian ones.

Prices here are as they were traded. What Yahoo shows of them (divided by the splits since) is made from that.
"""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from itertools import accumulate
from struct import pack, unpack
from zoneinfo import ZoneInfo

from app.core.clock import SystemClock
from app.core.market_calendar import IST, MarketCalendar

NEW_YORK = ZoneInfo("America/New_York")
# The sample has prices as traded; the splits are in its companies' histories.
SPLITS = {"AAPL": {"2000-06-21": 2.0, "2005-02-28": 2.0}, "MSFT": {"2003-02-18": 2.0}}


@dataclass(frozen=True, slots=True)
class Day:
    """A day's candle as traded, and what happened before it."""

    day: date
    open: float
    high: float
    low: float
    close: float
    volume: int
    dividend: float = 0.0
    split: float = 0.0


@dataclass(frozen=True, slots=True)
class Shown:
    """As Yahoo shows a candle: divided by the splits since."""

    at: datetime
    open: float
    high: float
    low: float
    close: float
    adjusted_close: float
    volume: int


@dataclass
class Listed:
    """A symbol, and its days, the oldest first; none later than today."""

    symbol: str
    name: str
    kind: str
    currency: str
    exchange: str
    zone: str
    opens: time
    closes: time
    days: list[Day] = field(repr=False)

    def session(self, day: date) -> tuple[datetime, datetime]:
        """Its bounds."""
        zone = ZoneInfo(self.zone)
        return (
            datetime.combine(day, self.opens, zone).astimezone(UTC),
            datetime.combine(day, self.closes, zone).astimezone(UTC),
        )

    def factors(self) -> tuple[list[float], list[float]]:
        """For each day: shares of today for one of then, and what dividends since take off its price."""
        splits, dividends = [1.0] * len(self.days), [1.0] * len(self.days)
        for place in range(len(self.days) - 1, 0, -1):
            later, before = self.days[place], self.days[place - 1]
            splits[place - 1] = splits[place] * (later.split or 1.0)
            cum_price = before.close / (later.split or 1.0)
            dividends[place - 1] = dividends[place] * (1 - later.dividend / cum_price)
        return splits, dividends


class YahooMarket:
    """Everything listed, as of `now`."""

    def __init__(
        self, now: Callable[[], datetime] = lambda: datetime.now(UTC), *, years: int = 6, american: bool = True
    ) -> None:
        """`american`: also real American shares, which takes one of the tests' packages."""
        self.now = now
        self.listed: dict[str, Listed] = {}
        for name in ("AAPL", "IBM", "MSFT", "GOOG") if american else ():
            self._add(name, f"{name} Inc.", "EQUITY", "USD", "NMS", "America/New_York", self._real(name))
        for symbol, name, price in (
            ("RELIANCE.NS", "Reliance Industries Limited", 1400.0),
            ("TCS.NS", "Tata Consultancy Services Limited", 3100.0),
            ("INFY.NS", "Infosys Limited", 1500.0),
            ("HDFCBANK.NS", "HDFC Bank Limited", 990.0),
            ("SBIN.NS", "State Bank of India", 960.0),
            ("M&M.NS", "Mahindra & Mahindra Limited", 3600.0),
            ("500325.BO", "Reliance Industries Limited", 1400.0),
            ("^NSEI", "NIFTY 50", 26000.0),
            ("^NSEBANK", "NIFTY BANK", 59000.0),
            ("^BSESN", "S&P BSE SENSEX", 85000.0),
        ):
            kind = "INDEX" if symbol.startswith("^") else "EQUITY"
            exchange = "BSE" if symbol.endswith(".BO") or symbol == "^BSESN" else "NSI"
            days = self._invented(symbol, price, years)
            self._add(symbol, name, kind, "INR", exchange, "Asia/Kolkata", days)

    def _add(self, symbol: str, name: str, kind: str, currency: str, exchange: str, zone: str, days: list[Day]) -> None:
        hours = (time(9, 15), time(15, 30)) if currency == "INR" else (time(9, 30), time(16, 0))
        self.listed[symbol] = Listed(symbol, name, kind, currency, exchange, zone, *hours, days)

    def _real(self, name: str) -> list[Day]:
        moment = self.now().astimezone(NEW_YORK)
        last = moment.date() if moment.time() >= time(9, 30) else moment.date() - timedelta(days=1)
        return list(_real_days(name, last))

    def _invented(self, symbol: str, price: float, years: int) -> list[Day]:
        moment = self.now().astimezone(IST)
        last = moment.date() if moment.time() >= time(9, 15) else moment.date() - timedelta(days=1)
        return list(_invented_days(symbol, price, last - timedelta(days=365 * years), last))

    # What happens to companies

    def split(self, symbol: str, sessions_ago: int, ratio: float) -> None:
        """`ratio` shares for one: prices of that day and later are so much lower, as traded."""
        days = self.listed[symbol].days
        place = len(days) - 1 - sessions_ago
        for later in range(place, len(days)):
            day = days[later]
            days[later] = replace(
                day,
                open=day.open / ratio,
                high=day.high / ratio,
                low=day.low / ratio,
                close=day.close / ratio,
                volume=round(day.volume * ratio),
            )
        days[place] = replace(days[place], split=ratio)

    def dividend(self, symbol: str, sessions_ago: int, amount: float) -> None:
        """Paid to who held it the day before."""
        days = self.listed[symbol].days
        place = len(days) - 1 - sessions_ago
        days[place] = replace(days[place], dividend=amount)

    # As shown

    def days(self, listed: Listed, start: datetime, end: datetime) -> list[Shown]:
        """Daily candles; today's as far as it has gone."""
        splits, dividends = listed.factors()
        shown = []
        for day, split, dividend in zip(listed.days, splits, dividends, strict=True):
            opens, closes = listed.session(day.day)
            if not start <= opens < end or opens > self.now():
                continue
            if self.now() < closes and (so_far := self._minutes(listed, day, split)):
                shown.append(_joined(so_far, opens, dividend))
            else:
                prices = _divided((day.open, day.high, day.low, day.close), split)
                made = Shown(opens, *prices, 0.0, round(day.volume * split))
                shown.append(replace(made, adjusted_close=_single(day.close / split * dividend)))
        return shown

    def bars(self, listed: Listed, minutes: int, start: datetime, end: datetime, *, at_hour: bool) -> list[Shown]:
        """Candles of so many minutes, from the session's opening, or (`at_hour`) as the clock strikes."""
        splits, _ = listed.factors()
        shown: list[Shown] = []
        for day, split in zip(listed.days, splits, strict=True):
            opens, closes = listed.session(day.day)
            if closes <= start or opens >= end:
                continue
            # Time zones with half an hour: the clock there is not UTC's.
            offset = opens.astimezone(ZoneInfo(listed.zone)).utcoffset() or timedelta()
            groups: dict[datetime, list[Shown]] = {}
            for minute in self._minutes(listed, day, split):
                anchor = datetime(2000, 1, 1, tzinfo=UTC) - offset if at_hour else opens
                begins = minute.at - (minute.at - anchor) % timedelta(minutes=minutes)
                groups.setdefault(begins, []).append(minute)
            shown += [_joined(group, at, 1.0) for at, group in groups.items() if start <= at < end]
        return shown

    def _minutes(self, listed: Listed, day: Day, split: float) -> list[Shown]:
        opens, closes = listed.session(day.day)
        count = int((min(closes, self.now()) - opens) / timedelta(minutes=1)) + (self.now() < closes)
        return [
            Shown(opens + timedelta(minutes=place), *_divided(row[:4], split), 0.0, row[4])
            for place, row in enumerate(_path(listed.symbol, day, int((closes - opens) / timedelta(minutes=1)))[:count])
        ]


def _joined(parts: list[Shown], at: datetime, dividend: float) -> Shown:
    close = parts[-1].close
    high, low = max(part.high for part in parts), min(part.low for part in parts)
    return Shown(at, parts[0].open, high, low, close, close * dividend, sum(part.volume for part in parts))


Prices = tuple[float, float, float, float]
"""Open, high, low, close."""


def _divided(prices: Prices, split: float) -> Prices:
    first, high, low, close = (_single(value / split) for value in prices)
    return first, high, low, close


def _single(value: float) -> float:
    """In single precision, as Yahoo sends it."""
    number: float = unpack("f", pack("f", value))[0]
    return number


@lru_cache(512)
def _path(symbol: str, day: Day, minutes: int) -> list[tuple[float, float, float, float, int]]:
    """A walk from the day's open to its close, between its low and high."""
    chance = random.Random(f"{symbol}{day.day}")  # noqa: S311 (prices)
    steps = [chance.gauss(0, 1) for _ in range(minutes)]
    walk = list(accumulate(steps))
    spread = (day.high - day.low) / (6 * math.sqrt(minutes))
    closes = []
    for place, at in enumerate(walk, 1):
        bridge = at - walk[-1] * place / minutes
        value = day.open + (day.close - day.open) * place / minutes + bridge * spread
        closes.append(min(max(value, day.low), day.high))
    opens = [day.open, *closes[:-1]]
    each = day.volume // minutes
    rows = [(a, max(a, b), min(a, b), b, each) for a, b in zip(opens, closes, strict=True)]
    middle = minutes // 2
    a, _, _, b, volume = rows[middle]
    rows[middle] = (a, day.high, day.low, b, volume)
    return rows


def _weekdays_back(last: date, count: int) -> Iterator[date]:
    while count:
        if last.weekday() < 5:
            yield last
            count -= 1
        last -= timedelta(days=1)


@lru_cache(64)
def _real_days(name: str, last: date) -> tuple[Day, ...]:
    """The sample's days, laid on the weekdays that end with `last`."""
    import bokeh_sampledata.stocks

    rows, splits = getattr(bokeh_sampledata.stocks, name), SPLITS.get(name, {})
    days: list[Day] = []
    dates = list(_weekdays_back(last, len(rows["date"])))[::-1]
    before = 0.0
    columns = zip(*(rows[key] for key in ("date", "open", "high", "low", "close", "volume", "adj_close")), strict=True)
    for place, (stamp, first, high, low, close, volume, adjusted) in enumerate(columns):
        split = splits.get(stamp, 0.0)
        # The adjusted close has the splits in it: what changes its ratio beyond them is a dividend.
        ratio = adjusted / close / (split or 1.0)
        taken = 1 - before / ratio if before else 0.0
        dividend = round(days[-1].close / (split or 1.0) * taken, 2) if taken > 2e-3 else 0.0
        before = adjusted / close
        top, bottom = max(first, high, low, close), min(first, high, low, close)
        days.append(Day(dates[place], first, top, bottom, close, volume, dividend, split))
    return tuple(days)


@lru_cache(64)
def _invented_days(symbol: str, price: float, first_day: date, last: date) -> tuple[Day, ...]:
    """A walk from `price`, the same for the same arguments."""
    chance, close = random.Random(symbol), price  # noqa: S311 (prices)
    days = []
    for session in MarketCalendar(SystemClock()).sessions(first_day, last):
        first = close * math.exp(chance.gauss(0, 0.004))
        close = first * math.exp(chance.gauss(0.0003, 0.013))
        high = max(first, close) * (1 + abs(chance.gauss(0, 0.004)))
        low = min(first, close) * (1 - abs(chance.gauss(0, 0.004)))
        volume = 0 if symbol.startswith("^") else chance.randrange(2_000_000, 12_000_000)
        days.append(Day(session.day, round(first, 2), round(high, 2), round(low, 2), round(close, 2), volume))
    return tuple(days)
