"""Which coins of a generation a list shows, in what order, and where a page of it ends."""

import base64
import binascii
import hashlib
import struct
from datetime import datetime
from decimal import Decimal
from typing import Final, NamedTuple

import msgspec

from app.core.errors import FieldError, InvalidInputError
from app.crypto.encoding import Coin, encoded
from app.crypto.generations import Generation, Sort
from app.crypto.ports import Provider

_FORM: Final = struct.Struct(">QI8s")


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """All that is asked for but the page; amounts are US dollars. A coin without a figure does not match its bounds."""

    sort: Sort = Sort.MARKET_CAP
    descending: bool = True
    symbols: frozenset[str] = frozenset()
    """In upper case; empty: all."""
    prefix: str = ""
    """Casefolded beginning of the symbol or of the name."""
    min_price: Decimal | None = None
    max_price: Decimal | None = None
    min_market_cap: Decimal | None = None
    min_volume: Decimal | None = None
    category: str | None = None
    ids: frozenset[str] | None = None
    """CoinGecko's."""
    sign: int = 0
    """1: only what rose by the figure that the list is in the order of; -1: only what fell."""

    def digest(self) -> bytes:
        """Tells selections apart, in every process."""
        told = msgspec.structs.asdict(self) | {"symbols": sorted(self.symbols), "ids": sorted(self.ids or ())}
        return hashlib.blake2b(encoded(told), digest_size=8).digest()

    def places(self, generation: Generation) -> list[int]:
        """The places of the coins that match, in order."""
        places: list[int] | tuple[int, ...] = generation.order(self.sort, descending=self.descending)
        if self.prefix:
            searched = generation.searched
            places = [place for place in places if any(text.startswith(self.prefix) for text in searched[place])]
        return [place for place in places if self._matches(generation.coins[place])]

    def _matches(self, coin: Coin) -> bool:
        listing = coin.listing
        if self.symbols and listing.symbol.upper() not in self.symbols:
            return False
        if self.ids is not None and coin.ids.get(Provider.COINGECKO) not in self.ids:
            return False
        if self.category is not None and self.category not in listing.categories:
            return False
        if self.sign:
            moved = getattr(listing, self.sort)
            if moved is None or moved * self.sign <= 0:
                return False
        return (
            _within(listing.price, self.min_price, self.max_price)
            and _within(listing.market_cap, self.min_market_cap)
            and _within(listing.volume_24h, self.min_volume)
        )


def _within(value: Decimal | None, least: Decimal | None, most: Decimal | None = None) -> bool:
    if least is None and most is None:
        return True
    return value is not None and (least is None or value >= least) and (most is None or value <= most)


class ListCursor(NamedTuple):
    """Where a page ended: how many coins came before, in which generation, of which list."""

    generation: int
    position: int
    selection: bytes
    """Its digest."""

    def encode(self) -> str:
        """The opaque text that clients send back."""
        return base64.urlsafe_b64encode(_FORM.pack(*self)).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> "ListCursor":
        """The cursor behind `text`; raises `InvalidInputError` for anything that `encode` did not make."""
        try:
            cursor = cls(*_FORM.unpack(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))))
            if cursor.encode() != text:  # the decoder passes over characters that it does not know
                raise ValueError("another spelling")
            return cursor
        except (binascii.Error, struct.error, ValueError):
            raise cursor_refused("This is not a cursor that a list here gave", "cursor_invalid") from None


def cursor_refused(why: str, kind: str) -> InvalidInputError:
    """What a client is told whose cursor leads nowhere."""
    return InvalidInputError(f"query.cursor: {why}.", [FieldError(("query", "cursor"), why, kind)])


class Part(NamedTuple):
    """How much of a list is asked for, and from where."""

    limit: int
    offset: int = 0
    after: ListCursor | None = None


class Rendered(NamedTuple):
    """An answer as it goes over the wire."""

    body: bytes
    etag: str
    next: ListCursor | None = None
    category_at: datetime | None = None
    """Of a category of CoinGecko's: when it was asked which coins are in it."""


def render(generation: Generation, selection: Selection, part: Part) -> Rendered:
    """A page of what is selected, from `part.after` or `part.offset` on."""
    places = selection.places(generation)
    begin = part.after.position if part.after else part.offset
    shown = places[begin : begin + part.limit]
    body = b"[" + b",".join([generation.bodies[place] for place in shown]) + b"]"
    following = None
    if begin + part.limit < len(places):
        following = ListCursor(generation.number, begin + part.limit, selection.digest())
    return Rendered(body, etag_of(body, following), following)


def etag_of(body: bytes, following: ListCursor | None = None) -> str:
    """A strong validator: the same only for the same bytes that go on in the same way."""
    told = hashlib.blake2b(body, digest_size=12)
    told.update(following.encode().encode() if following else b"")
    return f'"{told.hexdigest()}"'
