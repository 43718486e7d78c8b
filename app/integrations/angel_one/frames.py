"""Frames of Angel One's WebSocket 2.0 feed: bytes to typed, immutable objects. Pure, and fast enough for every tick.

Little-endian binary frames, one fixed layout a mode; the layouts are those of the vendor's documentation of WebSocket
Streaming 2.0. Prices stay the integers that they are on the wire, because a `Decimal` for each would cost more than all
the rest: `divisor` says how many of them make a rupee (100; 10,000,000 for currencies), and `rupees` is exact.

What arrives is checked for its form only: size, mode, exchange, token. Whether a price makes sense, a time is near, or
a quantity (a double on the wire) is a number at all, is for the pipeline to judge.
"""

from decimal import Decimal
from enum import IntEnum
from struct import Struct
from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec


class Mode(IntEnum):
    """How much a subscription brings."""

    LTP = 1
    """The last price."""
    QUOTE = 2
    """The day's figures too."""
    SNAP_QUOTE = 3
    """Open interest, circuit limits and the best five of each side too."""
    DEPTH = 4
    """The best twenty of each side, and no price."""


class Exchange(IntEnum):
    """The vendor's exchange types: exchange and segment."""

    NSE_CM = 1
    NSE_FO = 2
    BSE_CM = 3
    BSE_FO = 4
    MCX_FO = 5
    NCX_FO = 7
    CDE_FO = 13


Fault: TypeAlias = Literal["size", "mode", "exchange", "token", "text"]
"""What is wrong with a frame, for counters."""


class FrameError(ValueError):
    """A frame that is none of the documented ones."""

    def __init__(self, fault: Fault, detail: str) -> None:
        super().__init__(detail)
        self.fault = fault


class Level(NamedTuple):
    """One step of an order book."""

    quantity: int
    price: int
    """In `1 / divisor` rupees, as all prices of a frame."""
    orders: int


class Depth(NamedTuple):
    """The best of both sides, best first, as sent."""

    buys: tuple[Level, ...]
    sells: tuple[Level, ...]


class Frame(msgspec.Struct, frozen=True, gc=False):
    """What every frame has. `gc=False` (it holds nothing that could point back) makes them cheap by the million."""

    exchange: Exchange
    token: str
    """The instrument's number at the exchange."""

    @property
    def divisor(self) -> int:
        """How many of the frame's price units make a rupee."""
        return divisor_of(self.exchange)

    def rupees(self, price: int) -> Decimal:
        """A price of this frame, exactly."""
        return Decimal(price) / self.divisor


class Ltp(Frame, frozen=True, gc=False):
    """The last price (51 bytes)."""

    sequence: int
    """Without meaning for indices."""
    exchange_time: int
    """Milliseconds since the epoch, by the exchange's clock."""
    last_price: int


class Quote(Ltp, frozen=True, gc=False):
    """The day's figures (123 bytes)."""

    last_quantity: int
    average_price: int
    volume: int
    total_buy_quantity: float
    total_sell_quantity: float
    open: int
    high: int
    low: int
    close: int
    """Of the day before."""


class SnapQuote(Quote, frozen=True, gc=False):
    """Everything about an instrument (379 bytes)."""

    last_trade_time: int
    """Seconds since the epoch."""
    open_interest: int
    levels: bytes
    """The best five of each side as sent; `depth` reads them."""
    upper_circuit: int
    lower_circuit: int
    year_high: int
    year_low: int

    def depth(self) -> Depth:
        """The best five of each side; read when asked for, as most frames never are."""
        buys: list[Level] = []
        sells: list[Level] = []
        for flag, quantity, price, orders in _BEST_FIVE.iter_unpack(self.levels):
            (buys if flag else sells).append(Level(quantity, price, orders))
        return Depth(tuple(buys), tuple(sells))


class DepthFrame(Frame, frozen=True, gc=False):
    """The best twenty of each side (443 bytes)."""

    exchange_time: int
    """Milliseconds since the epoch, by the exchange's clock."""
    received_time: int
    """Milliseconds since the epoch, when the vendor had it."""
    levels: bytes
    """Twenty buys, then twenty sells, as sent; `depth` reads them."""

    def depth(self) -> Depth:
        """The best twenty of each side."""
        levels = tuple(Level._make(level) for level in _BEST_TWENTY.iter_unpack(self.levels))
        return Depth(levels[:20], levels[20:])


AnyFrame: TypeAlias = Ltp | Quote | SnapQuote | DepthFrame

# First which instrument it is, in 27 bytes: mode, exchange, token. Then what the mode has. `8x` is a field that the
# vendor declares undefined.
_LTP: Final = Struct("<27sqqq")
_QUOTE: Final = Struct("<27sqqqqqqddqqqq")
_SNAP_QUOTE: Final = Struct("<27sqqqqqqddqqqqqq8x200sqqqq")
_DEPTH: Final = Struct("<27sqq400s")
_BEST_FIVE: Final = Struct("<HqqH")
_BEST_TWENTY: Final = Struct("<iih")

# By the size of a frame. Another size means another layout: wrong prices would be worse than none.
_MODES: Final = {51: Mode.LTP, 123: Mode.QUOTE, 379: Mode.SNAP_QUOTE, 443: Mode.DEPTH}
_EXCHANGES: Final = {int(exchange): exchange for exchange in Exchange}
_DIVISORS: Final = {Exchange.CDE_FO: 10_000_000}
_MOST_KNOWN: Final = 8_192
_read_ltp, _read_quote, _read_snap, _read_depth = (x.unpack for x in (_LTP, _QUOTE, _SNAP_QUOTE, _DEPTH))


def divisor_of(exchange: Exchange) -> int:
    """How many price units of the feed make a rupee: they are paise, but for currencies."""
    return _DIVISORS.get(exchange, 100)


class FrameParser:
    """Reads frames; remembers the instruments, which are few and come again and again."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[Exchange, str]] = {}
        """Exchange and token by the bytes that say them, once these were found right."""

    def parse(self, frame: bytes) -> AnyFrame:
        """The object in a binary frame; raises `FrameError`, and nothing else, for bytes that are none."""
        size = len(frame)
        # One mode after the other, value by value: a list of the values, or a call, would cost as much as all the rest.
        try:
            if size == 123:
                key, number, at, last, lot, average, volume, buys, sells, open_, high, low, close = _read_quote(frame)
                exchange, token = self._known[key]
                return Quote(
                    exchange, token, number, at, last, lot, average, volume, buys, sells, open_, high, low, close
                )
            if size == 379:
                key, *values = _read_snap(frame)
                exchange, token = self._known[key]
                return SnapQuote(exchange, token, *values)
            if size == 51:
                key, number, at, last = _read_ltp(frame)
                exchange, token = self._known[key]
                return Ltp(exchange, token, number, at, last)
            if size == 443:
                key, at, received, levels = _read_depth(frame)
                exchange, token = self._known[key]
                return DepthFrame(exchange, token, at, received, levels)
        except KeyError:
            self._learn(frame)
            return self.parse(frame)
        raise FrameError("size", f"a frame of {size} bytes is of no known mode")

    def _learn(self, frame: bytes) -> None:
        """Note which instrument a frame's first 27 bytes name; raises `FrameError` where they name none."""
        if frame[0] != _MODES[len(frame)]:
            raise FrameError("mode", f"a frame of {len(frame)} bytes says that it is of mode {frame[0]}")
        if (exchange := _EXCHANGES.get(frame[1])) is None:
            raise FrameError("exchange", f"exchange type {frame[1]} is not known")
        text, nul, _ = frame[2:27].partition(b"\0")
        if not (nul and text and text.isascii()) or not (token := text.decode("ascii")).isprintable() or " " in token:
            raise FrameError("token", "the token is not printable ASCII that ends with a NUL")
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[frame[:27]] = exchange, token


class Pong(msgspec.Struct, frozen=True):
    """The answer to our heartbeat."""


class Refusal(msgspec.Struct, frozen=True):
    """A request that the feed did not carry out."""

    code: str
    """`E1001`: not understood. `E1002`: wrong mode, exchange or token."""
    message: str
    correlation_id: str | None = None
    """The one that the request had."""


class _RefusalText(msgspec.Struct, frozen=True):
    errorCode: str  # noqa: N815 (the wire's names)
    errorMessage: str = ""  # noqa: N815
    correlationID: str | None = None  # noqa: N815


def parse_text(text: str) -> Pong | Refusal:
    """The meaning of a text message; raises `FrameError`, and nothing else, when it has none."""
    if text == "pong":
        return Pong()
    try:
        refusal = msgspec.json.decode(text, type=_RefusalText)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        raise FrameError("text", "a text message that is neither a pong nor an error") from None
    return Refusal(refusal.errorCode[:16], refusal.errorMessage[:500], refusal.correlationID)
