"""The words of market data, and what the feature needs from a provider of it.

Prices are integers (`divisor` of them make a rupee) as long as a tick is on its way: exact, and cheap at 20,000 a
second. Times within a tick are milliseconds since the Unix epoch.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

import msgspec


class Quality(StrEnum):
    """What a tick is worth."""

    GOOD = "good"
    STALE = "stale"
    """It came late: replayed, or delayed on its way."""
    SUSPECT = "suspect"
    """It contradicts the limits of the day, or what came before it."""


class Timeframe(StrEnum):
    """How long a candle is. Candles of 30 minutes and more begin at the session's open, not at the hour."""

    M1 = "1m"
    M3 = "3m"
    M5 = "5m"
    M10 = "10m"
    M15 = "15m"
    M30 = "30m"
    H1 = "1h"
    D1 = "1d"

    @property
    def milliseconds(self) -> int:
        """Its length; a day's is that of a calendar day, its candle that of the session."""
        return _MINUTES[self] * 60_000


_MINUTES = {
    Timeframe.M1: 1,
    Timeframe.M3: 3,
    Timeframe.M5: 5,
    Timeframe.M10: 10,
    Timeframe.M15: 15,
    Timeframe.M30: 30,
    Timeframe.H1: 60,
    Timeframe.D1: 1440,
}


class Instrument(msgspec.Struct, frozen=True):
    """What is traded: shared by all its ticks."""

    symbol: str
    """As clients call it (`NIFTY 50`)."""
    token: str
    """The exchange's number for it."""
    exchange: str
    """`NSE`, `BSE`, `NFO`, `BFO`."""
    exchange_type: int
    """The provider's number of the exchange and segment."""
    kind: str = ""
    """`INDEX`, `EQ`, `FUTIDX`, `OPTSTK`, …"""
    expiry: str = ""
    strike_price: float | None = None
    doubtful: bool = False
    """Whether its token is another instrument's by the exchange's list: its ticks are `suspect`."""


class WatchMode(StrEnum):
    """How much the feed is to bring of an instrument."""

    LTP = "ltp"
    """The last price."""
    QUOTE = "quote"
    """The day's figures too."""
    SNAP_QUOTE = "snap_quote"
    """Open interest, circuit limits and the best five of each side too."""
    DEPTH = "depth"
    """The day's figures and the best twenty of each side."""


class Tick(msgspec.Struct, gc=False):
    """One price, as it came. `price` and the day's figures are integers, `divisor` of which make a rupee."""

    instrument: Instrument
    exchange_ms: int
    """By the exchange's clock."""
    arrival_ms: int
    """By ours."""
    price: int
    digest: int
    """64 bits of a hash of all that the frame says: a repeat has the same."""
    divisor: int = 100
    open: int = 0
    high: int = 0
    low: int = 0
    close: int = 0
    """Of the day before; 0 where the mode does not bring it, like all that follow."""
    volume: int = 0
    """Of the day so far."""
    last_quantity: int = 0
    average_price: int = 0
    total_buy_quantity: float = 0.0
    total_sell_quantity: float = 0.0
    open_interest: int = 0
    upper_circuit: int = 0
    lower_circuit: int = 0
    year_high: int = 0
    year_low: int = 0
    sequence: int = 0
    depth: Any = None
    """The best of both sides, or what gives them when it is called; None where the mode does not bring it."""
    has_day: bool = False
    """Whether the day's figures came with it."""
    quality: Quality = Quality.GOOD
    received_ms: int = 0
    """`exchange_ms`, made unique for its symbol by whole milliseconds; set by the pipeline."""
    after_hours: bool = False
    """Whether it belongs to no session; set by the pipeline."""


class Bar(NamedTuple):
    """One candle from a provider: prices in rupees, exact."""

    start: datetime
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: int


class Gap(NamedTuple):
    """A stretch of a session from which ticks are missing."""

    instrument: Instrument
    start_ms: int
    end_ms: int


class FeedHealth(msgspec.Struct, frozen=True):
    """How a source is doing; `last_error` is a kind, never a server's text."""

    state: str
    """`off`, `paused`, `connecting`, `live`, `silent`, `backing off`, `refused`."""
    connections: int = 0
    subscribed: int = 0
    frames: int = 0
    bad_frames: int = 0
    reconnects: int = 0
    sign_ins: int = 0
    last_frame_at: datetime | None = None
    last_error: str | None = None
    sure_until: datetime | None = None
    """Until when all connections are known to have been there; None where none is needed."""


Lost = Callable[[Sequence[Instrument], int, int], None]
"""Gets instruments that had no connection, and from when until when (ms since the epoch)."""


class TickSource(Protocol):
    """A live feed of one provider."""

    async def run(
        self,
        wanted: Callable[[], Sequence[Instrument]],
        deliver: Callable[[Sequence[Tick]], None],
        lost: Lost = lambda *_: None,
    ) -> None:
        """Deliver ticks of what is `wanted` until cancelled; reconnects by itself.

        `deliver` and `lost` are called in the event loop and never wait. `lost` hears of every stretch without a
        connection from the call on, when it is over or the source ends. Raises only what no retry can cure (a refused
        sign-in).
        """

    def wake(self) -> None:
        """What is wanted has changed."""

    def health(self) -> FeedHealth:
        """How it is doing; never raises."""


class CandleSource(Protocol):
    """A provider's history."""

    async def bars(self, instrument: Instrument, timeframe: Timeframe, start: datetime, end: datetime) -> list[Bar]:
        """The candles that begin in [start, end), oldest first; raises `CandlesUnavailableError`."""


class CandlesUnavailableError(Exception):
    """The provider gave no history; `retry_after` seconds may help, None means not now."""

    def __init__(self, kind: str, retry_after: float | None = None) -> None:
        super().__init__(kind)
        self.retry_after = retry_after


class TickSink(Protocol):
    """Where stored ticks go."""

    def offer(self, rows: Sequence[dict[str, Any]]) -> None:
        """Take rows of `market_data`; never waits, never raises. What cannot be kept is counted as lost."""


class TickOutlet(Protocol):
    """Where ticks go that are to be seen at once."""

    def ticks(self, ticks: Sequence[Tick]) -> None:
        """Take ticks that passed the checks, in the order of their arrival; never waits, never raises."""


DEFAULT_INSTRUMENTS: tuple[Instrument, ...] = (
    Instrument("NIFTY 50", "99926000", "NSE", 1, "INDEX"),
    Instrument("BANKNIFTY", "99926009", "NSE", 1, "INDEX"),
    Instrument("FINNIFTY", "99926037", "NSE", 1, "INDEX"),
    Instrument("MIDCPNIFTY", "99926074", "NSE", 1, "INDEX"),
    Instrument("SENSEX", "99926017", "NSE", 1, "INDEX"),
    Instrument("BANKEX", "99926018", "NSE", 1, "INDEX"),
)
"""The six indices that are followed where nothing else is said, with the tokens that the contract gives."""
