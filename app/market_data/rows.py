"""From a tick to its row in `market_data`, the one that `models.TickDocument` describes.

A row's `_id` is made of the tick itself: the second of its exchange time (as in any ObjectId), then its digest. Written
again by a retry, from the spill, or by another process that hears the same feed, it is the same row.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Any, Final

import bson
import msgspec
from bson import CodecOptions, ObjectId
from bson.raw_bson import RawBSONDocument

from app.market_data.ports import Instrument, Quality, Tick

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND: Final = timedelta(milliseconds=1)
SOURCE: Final = "angel_one"

_64_BITS: Final = 0xFFFF_FFFF_FFFF_FFFF
_MOST_KNOWN: Final = 16_384
_AWARE: Final[CodecOptions[dict[str, Any]]] = CodecOptions(tz_aware=True, tzinfo=UTC)
_EXTRA_PRICES: Final = ("average_price", "upper_circuit", "lower_circuit", "year_high", "year_low")

Row = dict[str, Any]


class EncodedRow(msgspec.Struct, gc=False):
    """A row as it is kept until it is stored: its BSON, a quarter of its dictionary's size, and what is asked of it."""

    raw: bytes
    symbol: str
    received_ms: int
    quality: str
    source: str
    tried: bool = False
    """Whether it was sent before and no answer came: it may be stored already."""

    @property
    def id(self) -> ObjectId:
        """Its `_id`."""
        found: ObjectId = RawBSONDocument(self.raw)["_id"]
        return found


def to_ms(moment: datetime) -> int:
    """Milliseconds since the epoch of an aware moment."""
    return (moment - EPOCH) // MILLISECOND


def from_ms(ms: int) -> datetime:
    """The aware UTC moment `ms` milliseconds after the epoch."""
    return EPOCH + ms * MILLISECOND


def encode(row: Row) -> EncodedRow:
    """Encode a row; raises what `bson.encode` does, and `KeyError` or `TypeError` for what is no row."""
    return EncodedRow(bson.encode(row), row["symbol"], to_ms(row["received_at"]), row["data_quality"], row["source"])


def decode(raw: bytes) -> EncodedRow:
    """The row in a BSON document; of one that is older than this module, what it lacks is `unknown`."""
    row = bson.decode(raw, _AWARE)
    quality, source = row.get("data_quality", "unknown"), row.get("source", "unknown")
    return EncodedRow(raw, row["symbol"], to_ms(row["received_at"]), quality, source)


def moved(row: EncodedRow, received_ms: int) -> EncodedRow:
    """The same row at another millisecond."""
    fields = bson.decode(row.raw, _AWARE)
    fields["received_at"] = from_ms(received_ms)
    return EncodedRow(bson.encode(fields), row.symbol, received_ms, row.quality, row.source, row.tried)


class RowMaker:
    """Makes rows; remembers what the rows of an instrument have in common."""

    def __init__(self, source: str = SOURCE) -> None:
        self._source = source
        self._known: dict[str, tuple[Instrument, int, Row]] = {}

    def make(self, tick: Tick) -> Row:
        """The row of a tick that has its `received_ms` and its quality. Figures that are not known are left out."""
        instrument = tick.instrument
        known = self._known.get(instrument.symbol)
        if known is None or known[0] is not instrument:
            known = self._learn(instrument)
        number = (tick.exchange_ms // 1000 << 64) | ((tick.digest ^ known[1]) & _64_BITS)
        divisor = tick.divisor
        row = {
            "_id": ObjectId(number.to_bytes(12, "big")),
            **known[2],
            "ltpc": tick.price / divisor,
            "received_at": EPOCH + tick.received_ms * MILLISECOND,
            "ingested_at": EPOCH + tick.arrival_ms * MILLISECOND,
            "data_quality": tick.quality.value,
            # Replayed or delayed prices are none to act on.
            "is_realtime": tick.quality is not Quality.STALE,
        }
        raw: Row = {"exchange_time": tick.exchange_ms, "sequence": tick.sequence}
        if tick.has_day:
            self._add_day(tick, divisor, row, raw)
        row["raw_data"] = raw
        if tick.depth is not None:
            row["depth"] = depth_of(tick.depth, divisor)
        return row

    @staticmethod
    def _add_day(tick: Tick, divisor: int, row: Row, raw: Row) -> None:
        for name, price in (("high", tick.high), ("low", tick.low), ("open", tick.open), ("close", tick.close)):
            if price:
                row[name] = price / divisor
        if tick.close:
            change = tick.price - tick.close
            row["ch"] = change / divisor
            row["chp"] = round(change * 100 / tick.close, 2)
        row["volume"] = tick.volume
        raw["last_quantity"] = tick.last_quantity
        raw["total_buy_quantity"] = tick.total_buy_quantity
        raw["total_sell_quantity"] = tick.total_sell_quantity
        for name in _EXTRA_PRICES:
            if price := getattr(tick, name):
                raw[name] = price / divisor
        if tick.open_interest:
            raw["open_interest"] = tick.open_interest

    def _learn(self, instrument: Instrument) -> tuple[Instrument, int, Row]:
        fixed: Row = {
            "schema_version": 1,
            "tk": instrument.token,
            "symbol": instrument.symbol,
            "exchange": instrument.exchange,
            "exchange_type": instrument.exchange_type,
            "token": instrument.token,
            "instrument_type": instrument.kind,
            "source": self._source,
            "processed": False,
        }
        if instrument.expiry:
            fixed["expiry"] = instrument.expiry
        if instrument.strike_price is not None:
            fixed["strike_price"] = instrument.strike_price
        # Two instruments may say the same at the same time, where a source leaves their names out of its digests.
        salt = int.from_bytes(blake2b(instrument.symbol.encode(), digest_size=8).digest(), "big")
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._known[instrument.symbol] = known = (instrument, salt, fixed)
        return known


def depth_of(depth: Any, divisor: int) -> Row:
    """The order book as it is stored: `buy` and `sell`, best first, each of `quantity`, `price` (rupees), `orders`.

    `depth` has `buys` and `sells`, or gives what has them when it is called; a mapping is taken as it is.
    """
    if callable(depth):
        depth = depth()
    if isinstance(depth, Mapping):
        return dict(depth)
    return {"buy": _side(depth.buys, divisor), "sell": _side(depth.sells, divisor)}


def _side(levels: Iterable[Any], divisor: int) -> list[Row]:
    return [{"quantity": lv.quantity, "price": lv.price / divisor, "orders": lv.orders} for lv in levels]
