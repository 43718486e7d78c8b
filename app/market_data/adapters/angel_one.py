"""Angel One as a source of ticks and candles: its frames become `Tick`s, its rows `Bar`s. Knows both sides."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, time, timedelta
from hashlib import blake2b
from typing import Any, Final

import structlog

from app.core.clock import Clock
from app.integrations.angel_one.candles import IST, RawBar
from app.integrations.angel_one.errors import AngelOneError, RequestRefusedError
from app.integrations.angel_one.feed import FeedClient
from app.integrations.angel_one.frames import (
    AnyFrame,
    DepthFrame,
    Exchange,
    Ltp,
    Mode,
    Quote,
    SnapQuote,
    divisor_of,
)
from app.integrations.angel_one.session import AngelOneSession
from app.integrations.angel_one.subscriptions import Instrument as FeedInstrument
from app.integrations.angel_one.subscriptions import Subscription
from app.market_data.ports import Bar, CandlesUnavailableError, FeedHealth, Instrument, Lost, Tick, Timeframe

log = structlog.get_logger(__name__)

_DEPTH_SIZE, _SNAP_QUOTE_SIZE = 443, 379
_BOOK_HOLDS_MS: Final = 10_000
_RETRY_SECONDS: Final = 60.0
_OPENS: Final = time(9, 15)
_SESSION: Final = timedelta(hours=6, minutes=15)
_INTERVALS: Final = {
    Timeframe.M1: "ONE_MINUTE",
    Timeframe.M3: "THREE_MINUTE",
    Timeframe.M5: "FIVE_MINUTE",
    Timeframe.M10: "TEN_MINUTE",
    Timeframe.M15: "FIFTEEN_MINUTE",
    Timeframe.M30: "THIRTY_MINUTE",
    Timeframe.H1: "ONE_HOUR",
    Timeframe.D1: "ONE_DAY",
}


def digest_of(raw: bytes) -> int:
    """63 bits of a hash of what a frame says: everything but its number, the vendor's clock, and an undefined field.

    The same in every process and after every restart, as it is stored; it fits a signed integer of 64 bits.
    """
    size = len(raw)
    if size == _SNAP_QUOTE_SIZE:
        said = raw[:27] + raw[35:139] + raw[147:]
    elif size == _DEPTH_SIZE:
        said = raw[:35] + raw[43:]
    else:
        said = raw[:27] + raw[35:]
    return int.from_bytes(blake2b(said, digest_size=8).digest(), "big") >> 1


class AngelOneTicks:
    """The live feed. Fills the port `TickSource`."""

    def __init__(
        self,
        feed: FeedClient,
        session: AngelOneSession,
        *,
        mode_of: Callable[[Instrument], Mode] = lambda _: Mode.QUOTE,
    ) -> None:
        """`mode_of`: how much to ask for. Depth frames have no price: with them comes a Quote, which gets the book."""
        self._feed, self._session, self._mode_of = feed, session, mode_of
        self._known: dict[tuple[int, str], tuple[Instrument, int]] = {}
        self._books: dict[tuple[int, str], DepthFrame] = {}
        self._pending: list[Tick] = []
        self.unwanted = 0
        """Frames of what nobody wants (any more)."""

    async def run(
        self,
        wanted: Callable[[], Sequence[Instrument]],
        deliver: Callable[[Sequence[Tick]], None],
        lost: Lost = lambda *_: None,
    ) -> None:
        """See the port. What comes within one turn of the event loop is delivered together.

        Raises nothing that can be waited out, not for a refused sign-in either: `health` shows it, and it is tried
        again as rarely as is safe for the account.
        """
        loop = asyncio.get_running_loop()

        def flush() -> None:
            ticks, self._pending = self._pending, []
            if ticks:
                deliver(ticks)

        def take(frame: AnyFrame, raw: bytes, arrival_ms: int) -> None:
            tick = self._tick(frame, raw, arrival_ms)
            if tick is None:
                return
            if not self._pending:
                loop.call_soon(flush)
            self._pending.append(tick)

        def miss(subscriptions: Collection[Subscription], from_ms: int, until_ms: int) -> None:
            # A dictionary: one instrument may have two subscriptions.
            keys = dict.fromkeys((one.instrument.exchange, one.instrument.token) for one in subscriptions)
            lost([self._known[key][0] for key in keys if key in self._known], from_ms, until_ms)

        try:
            await self._feed.run(lambda: self._subscriptions(wanted()), take, miss)
        finally:
            flush()

    def wake(self) -> None:
        """What is wanted has changed."""
        self._feed.wake()

    def health(self) -> FeedHealth:
        """See the port."""
        feed, session = self._feed.health(), self._session.health()
        return FeedHealth(
            state=feed.state,
            connections=feed.connections,
            subscribed=feed.subscribed,
            frames=feed.frames,
            bad_frames=sum(feed.bad_frames.values()),
            reconnects=feed.reconnects,
            sign_ins=session.sign_ins,
            last_frame_at=feed.last_frame_at,
            last_error=f"{feed.left_out} subscriptions beyond the limits" if feed.left_out else feed.last_error,
            sure_until=feed.sure_until,
        )

    def _subscriptions(self, wanted: Sequence[Instrument]) -> list[Subscription]:
        self._known = {}
        subscriptions: list[Subscription] = []
        for instrument in wanted:
            try:
                exchange = Exchange(instrument.exchange_type)
            except ValueError:
                log.warning("an instrument's exchange is none of angel one's", instrument=instrument.symbol)
                continue
            self._known[exchange, instrument.token] = (instrument, divisor_of(exchange))
            mode, name = self._mode_of(instrument), FeedInstrument(exchange, instrument.token)
            subscriptions.append(Subscription(Mode.QUOTE if mode is Mode.DEPTH else mode, name))
            if mode is Mode.DEPTH:
                subscriptions.append(Subscription(mode, name))
        self._books = {key: book for key, book in self._books.items() if key in self._known}
        return subscriptions

    def _tick(self, frame: AnyFrame, raw: bytes, arrival_ms: int) -> Tick | None:
        key = (frame.exchange, frame.token)
        known = self._known.get(key)
        if known is None:
            self.unwanted += 1
            return None
        if isinstance(frame, DepthFrame):
            self._books[key] = frame
            return None
        instrument, divisor = known
        digest = digest_of(raw)
        if isinstance(frame, Quote):
            return _full_tick(frame, instrument, divisor, digest, arrival_ms, self._depth(key, frame))
        return Tick(
            instrument,
            frame.exchange_time,
            arrival_ms,
            frame.last_price,
            digest,
            divisor,
            sequence=frame.sequence,
            depth=self._depth(key, frame),
        )

    def _depth(self, key: tuple[int, str], frame: Ltp) -> Any:
        """What gives the order book when it is called: the frame's own, or one that came a moment ago."""
        if isinstance(frame, SnapQuote):
            return frame.depth
        if not self._books:
            return None
        book = self._books.get(key)
        if book is None or abs(frame.exchange_time - book.exchange_time) > _BOOK_HOLDS_MS:
            return None
        return book.depth


def _full_tick(frame: Quote, instrument: Instrument, divisor: int, digest: int, arrival_ms: int, depth: Any) -> Tick:
    tick = Tick(
        instrument,
        frame.exchange_time,
        arrival_ms,
        frame.last_price,
        digest,
        divisor,
        frame.open,
        frame.high,
        frame.low,
        frame.close,
        frame.volume,
        frame.last_quantity,
        frame.average_price,
        frame.total_buy_quantity,
        frame.total_sell_quantity,
        sequence=frame.sequence,
        depth=depth,
        has_day=True,
    )
    if isinstance(frame, SnapQuote):
        tick.open_interest = frame.open_interest
        tick.upper_circuit, tick.lower_circuit = frame.upper_circuit, frame.lower_circuit
        tick.year_high, tick.year_low = frame.year_high, frame.year_low
    return tick


class AngelOneCandles:
    """The provider's history. Fills the port `CandleSource`."""

    def __init__(self, session: AngelOneSession, clock: Clock) -> None:
        self._session, self._clock = session, clock

    async def bars(self, instrument: Instrument, timeframe: Timeframe, start: datetime, end: datetime) -> list[Bar]:
        """See the port. Candles that are still forming are left out; a day's begins at 09:15 IST, as ours do."""
        daily = timeframe is Timeframe.D1
        first = _midnight(start) if daily else start
        interval = _INTERVALS[timeframe]
        try:
            raw = await self._session.candles(instrument.exchange, instrument.token, interval, first, end)
        except AngelOneError as error:
            raise CandlesUnavailableError(error.word, _retry_after(error)) from error
        length = _SESSION if daily else timedelta(milliseconds=timeframe.milliseconds)
        now = self._clock.now()
        bars = (_bar(row, daily=daily) for row in raw)
        return [bar for bar in bars if start <= bar.start < end and bar.start + length <= now]


def _midnight(moment: datetime) -> datetime:
    return datetime.combine(moment.astimezone(IST).date(), time(), IST)


def _bar(row: RawBar, *, daily: bool) -> Bar:
    start = datetime.combine(row.start.astimezone(IST).date(), _OPENS, IST) if daily else row.start
    return Bar(start, row.open, row.high, row.low, row.close, row.volume)


def _retry_after(error: AngelOneError) -> float | None:
    """Seconds after which it may go well; None where the same question gets the same answer."""
    if isinstance(error, RequestRefusedError):
        return None
    return error.retry_after or _RETRY_SECONDS
