"""What is followed, worked out: from what was said, the list of instruments, and the day. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from app.market_data.instrument_schemas import UnresolvedEntry, WatchedInfo, WatchlistEntry
from app.market_data.listings import ListingTable
from app.market_data.naming import (
    Reference,
    UnknownInstrumentError,
    doubt_of,
    instrument_of,
    refer,
    resolve,
    unlisted_default,
)
from app.market_data.ports import DEFAULT_INSTRUMENTS, Instrument, WatchMode

Row = dict[str, Any]
Source: TypeAlias = Literal["api", "settings", "default"]


class Watched(NamedTuple):
    """One instrument that is to be followed."""

    instrument: Instrument
    mode: WatchMode = WatchMode.QUOTE

    @property
    def key(self) -> tuple[str, str]:
        """Exchange and token."""
        return self.instrument.exchange, self.instrument.token

    def ended(self, today: str) -> bool:
        """Whether it is a contract of before `today` (ISO 8601, in India)."""
        return bool(self.instrument.expiry) and self.instrument.expiry < today

    def row(self) -> Row:
        """As it is stored."""
        row = msgspec.structs.asdict(self.instrument)
        del row["doubtful"]
        return {**row, "mode": str(self.mode)}

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Watched":
        """The item behind a stored row."""
        fields = {name: row[name] for name in Instrument.__struct_fields__ if name in row}
        return cls(Instrument(**fields), WatchMode(row["mode"]))


class View(NamedTuple):
    """What is followed, and what is to be said about it."""

    source: Source
    items: Sequence[Watched]
    followed: tuple[Instrument, ...]
    """Contracts that have ended left out."""
    doubts: Mapping[str, str]
    """By symbol, what the list of instruments says against it."""
    unresolved: Sequence[UnknownInstrumentError]
    modes: Mapping[tuple[str, str], WatchMode]


def view_of(
    said: Sequence[Mapping[str, Any]] | None, configured: Sequence[str], table: ListingTable | None, today: str
) -> View:
    """What follows from what was said through the API; if that is nothing (None), from the settings."""
    source: Source
    unresolved: list[UnknownInstrumentError] = []
    if said is not None:
        source, items = "api", [Watched.of(row) for row in said]
    else:
        source = "settings" if configured else "default"
        items, unresolved = _of_settings(configured, table)
    doubts: dict[str, str] = {}
    checked: list[Watched] = []
    for item in items:
        doubt = None if item.ended(today) else doubt_of(item.instrument, table)
        if doubt is not None:
            doubts[item.instrument.symbol] = doubt
        checked.append(Watched(msgspec.structs.replace(item.instrument, doubtful=doubt is not None), item.mode))
    followed = tuple(item.instrument for item in checked if not item.ended(today))
    return View(source, checked, followed, doubts, unresolved, {item.key: item.mode for item in checked})


def _of_settings(
    configured: Sequence[str], table: ListingTable | None
) -> tuple[list[Watched], list[UnknownInstrumentError]]:
    """The six indices and what the settings name; where both have a symbol or a token, the settings are right."""
    named, unresolved = dict[str, Watched](), list[UnknownInstrumentError]()
    for text in configured:
        reference = refer(text)
        try:
            default = unlisted_default(reference) if table is None else None
            item = Watched(default or instrument_of(resolve(reference, table)))
        except UnknownInstrumentError as error:
            unresolved.append(error)
            continue
        other = named.setdefault(item.instrument.symbol, item)
        if other.key != item.key:
            reason = f"{':'.join(other.key)} has the symbol {item.instrument.symbol} already"
            unresolved.append(UnknownInstrumentError(text, reason))
    taken = {item.key for item in named.values()}
    defaults = {
        item.symbol: Watched(item)
        for item in DEFAULT_INSTRUMENTS
        if item.symbol in named or (item.exchange, item.token) not in taken
    }
    return list((defaults | named).values()), unresolved


def reference_of(entry: str | WatchlistEntry) -> Reference:
    """What an entry of a request names."""
    if isinstance(entry, str):
        return refer(entry)
    if entry.token is not None:
        return Reference(entry.token, "", entry.token.upper(), entry.exchange)
    said = refer(entry.symbol or "")
    return said if entry.exchange is None else said._replace(exchange=entry.exchange)


def shown(item: Watched, view: View, today: str) -> WatchedInfo:
    """As clients see it."""
    instrument = item.instrument
    return WatchedInfo.model_validate(
        {
            "symbol": instrument.symbol,
            "exchange": instrument.exchange,
            "token": instrument.token,
            "exchange_type": instrument.exchange_type,
            "instrument_type": instrument.kind,
            "expiry": instrument.expiry or None,
            "mode": item.mode,
            "active": not item.ended(today),
            "doubt": view.doubts.get(instrument.symbol),
        }
    )


def unresolved_of(view: View) -> list[UnresolvedEntry]:
    """Entries of the settings that are not followed."""
    return [UnresolvedEntry(text=error.text, reason=error.reason, near=error.near) for error in view.unresolved]
