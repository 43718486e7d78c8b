"""Which coin somebody means who says a symbol."""

from typing import NamedTuple, Protocol

from app.core.errors import FieldError, InvalidInputError, NotFoundError
from app.crypto.ports import CoinPrices


class LiveListing(CoinPrices, Protocol):
    """The newest prices, and how to have them."""

    async def newest(self) -> object:
        """Have the newest listing in memory; raises `UnavailableError` where there is none yet."""

    async def refresh(self) -> None:
        """Have the newest listing in memory, if there is one."""


class CoinName(NamedTuple):
    """What tells a coin. Of one that has left the listing only what was asked for is known."""

    slug: str
    symbol: str
    name: str | None

    @property
    def stored(self) -> dict[str, str]:
        """For a row or an answer of a coin that is listed."""
        return {"slug": self.slug, "symbol": self.symbol, "name": self.name or self.symbol}


class CoinNames:
    """Finds coins by symbol or slug among those that are listed."""

    def __init__(self, listing: LiveListing) -> None:
        self._listing = listing

    async def find(self, symbol: str, slug: str | None = None) -> CoinName:
        """The largest coin with `symbol`, or the one with this symbol that `slug` names.

        A slug that is not listed is taken at its word: there may be history of it. Raises `NotFoundError`, and
        `UnavailableError` before the first listing.
        """
        await self._listing.newest()
        wanted = slug or self._listing.slug_of(symbol)
        if wanted is None:
            raise NotFoundError(
                f"No listed coin has the symbol {symbol.upper()}. For one that has left the listing add its ?slug= ."
            )
        price = self._listing.price(wanted)
        if price is None:
            return CoinName(wanted, symbol.upper(), None)
        if price.symbol.upper() != symbol.upper():
            raise NotFoundError(f"The coin {wanted} has another symbol, {price.symbol.upper()}.")
        return CoinName(price.slug, price.symbol, price.name)

    async def chosen(self, symbol: str | None, slug: str | None, loc: tuple[str | int, ...]) -> CoinName:
        """The listed coin that a client chose by one of the two, in the field at `loc`.

        Raises `InvalidInputError` if there is none with a price, and `UnavailableError` before the first listing.
        """
        await self._listing.newest()
        wanted = slug or (self._listing.slug_of(symbol) if symbol else None)
        price = self._listing.price(wanted) if wanted else None
        if price is None:
            message = f"There is no listed coin with the {'slug' if slug else 'symbol'} {slug or symbol}"
            raise InvalidInputError(
                f"{'.'.join(map(str, loc))}: {message}.", [FieldError(loc, message, "coin_unknown")]
            )
        return CoinName(price.slug, price.symbol, price.name)
