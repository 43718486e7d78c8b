"""From what people write (`RELIANCE`, `NSE:2885`, `NIFTY 50`) to instruments, and what speaks against them.

The six indices keep the symbols that clients know them by (`BANKNIFTY`, where the exchange lists `NIFTY BANK`), as long
as the exchange's list agrees that the token is that index.
"""

import re
from typing import Final, NamedTuple

from app.market_data.listings import EXCHANGES, Listing, ListingTable, likelihood
from app.market_data.ports import DEFAULT_INSTRUMENTS, Instrument

_DEFAULTS: Final = {(instrument.exchange, instrument.token): instrument for instrument in DEFAULT_INSTRUMENTS}
_BY_SYMBOL: Final = {instrument.symbol: instrument for instrument in DEFAULT_INSTRUMENTS}
_ELSEWHERE: Final = frozenset({"MCX", "CDS", "NCDEX", "NCO"})
_WITH_EXCHANGE = re.compile(r"([A-Za-z]{2,6})\s*:\s*(.+)").fullmatch
_NEAR: Final = 5
_ONLY: Final = "only NSE, BSE, NFO and BFO can be followed"


class UnknownInstrumentError(Exception):
    """There is none, or not one alone. The message is for a person; `near` are symbols that may be meant."""

    def __init__(self, text: str, reason: str, near: list[str] | None = None) -> None:
        super().__init__(reason)
        self.text, self.reason, self.near = text, reason, near or []


class Reference(NamedTuple):
    """What somebody wrote, taken apart. Texts are in capitals."""

    text: str
    symbol: str
    token: str
    exchange: str | None


def refer(text: str) -> Reference:
    """Takes `text` apart: `NSE:2885`, `BSE:RELIANCE`, `2885`, `RELIANCE-EQ`, `RELIANCE`."""
    exchange, what = None, text
    # Symbols have no colons.
    if found := _WITH_EXCHANGE(text.strip()):
        exchange, what = found[1].upper(), found[2]
    what = " ".join(what.upper().split())
    number = what.isascii() and what.isdigit()
    return Reference(text, "" if number else what, what if number else "", exchange)


def resolve(reference: Reference, table: ListingTable | None) -> Listing:
    """The instrument that is meant; raises `UnknownInstrumentError`."""
    text, symbol, token, exchange = reference
    if exchange is not None and exchange not in EXCHANGES:
        known = "cannot be followed: its hours and prices differ" if exchange in _ELSEWHERE else "is no exchange"
        raise UnknownInstrumentError(text, f"{exchange} {known}; {_ONLY}")
    if table is None:
        raise UnknownInstrumentError(text, "the list of instruments is not here yet")
    if token:
        places = [exchange] if exchange else list(EXCHANGES)
        found = [listing for place in places if (listing := table.find(place, token)) is not None]
        if len(found) > 1:
            names = [listing.place for listing in found]
            raise UnknownInstrumentError(text, f"{' and '.join(names)} are different instruments: name one", names)
        if not found:
            raise UnknownInstrumentError(
                text, f"{exchange} lists no such token" if exchange else "there is no such token"
            )
        return found[0]
    found = table.named(symbol, exchange)
    if not found:
        near = table.near(symbol)
        hint = f"; {' or '.join(near)} perhaps?" if near else ""
        raise UnknownInstrumentError(
            text, f"there is no such instrument{f' on {exchange}' if exchange else ''}{hint}", near
        )
    alike = [listing for listing in found if likelihood(listing, symbol) == likelihood(found[0], symbol)]
    if len(alike) > 1:
        raise _ambiguous(text, alike)
    return found[0]


def _ambiguous(text: str, alike: list[Listing]) -> UnknownInstrumentError:
    """To take one of them could be to follow another instrument than the one that is meant, or a junk row for ever."""
    names = [f"{listing.place} ({listing.symbol})" for listing in alike[:2]]
    more = f", like {len(alike) - 2} more" if len(alike) > 2 else ""
    places = [listing.place for listing in alike[:_NEAR]]
    return UnknownInstrumentError(text, f"{' and '.join(names)} are equally likely{more}: name one", places)


def unlisted_default(reference: Reference) -> Instrument | None:
    """One of the six indices, by its name or token, where there is no list to ask."""
    if reference.exchange not in {None, "NSE"}:
        return None
    return _BY_SYMBOL.get(reference.symbol) or _DEFAULTS.get(("NSE", reference.token))


def instrument_of(listing: Listing) -> Instrument:
    """As clients know it."""
    default = _DEFAULTS.get((listing.exchange, listing.token))
    if default is not None and _agree(default, listing):
        return listing.instrument(default.symbol)
    return listing.instrument()


def doubt_of(instrument: Instrument, table: ListingTable | None) -> str | None:
    """What the exchange's list says against the token of `instrument`, in a sentence; None if nothing."""
    if table is None:
        return None
    place = f"{instrument.exchange}:{instrument.token}"
    listing = table.find(instrument.exchange, instrument.token)
    if listing is None:
        return f"{place} is not in the list of instruments."
    if _agree(instrument, listing):
        return None
    meant = [other for other in table.named(instrument.symbol) if other.place != place]
    hint = f" {meant[0].symbol} is {meant[0].place}." if meant else ""
    return f"{place} is {listing.symbol} by the list of instruments, not {instrument.symbol}.{hint}"


def _agree(instrument: Instrument, listing: Listing) -> bool:
    return instrument.symbol.upper() in {listing.symbol, listing.name}
