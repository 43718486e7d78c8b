"""The coins that the simulators of listing providers list: the same for the same seed and time, at either provider."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

_WELL_KNOWN: Final = (
    # CoinGecko's id, CoinMarketCap's and its slug, symbol, name, price, circulating and largest supply, tags
    ("bitcoin", 1, "bitcoin", "BTC", "Bitcoin", "68123.45", "19800000", "21000000", "mineable pow store-of-value"),
    ("ethereum", 1027, "ethereum", "ETH", "Ethereum", "3456.78", "120400000", None, "pos smart-contracts layer-1"),
    ("tether", 825, "tether", "USDT", "Tether", "1.0003", "112000000000.123456", None, "stablecoin payments"),
    ("binancecoin", 1839, "bnb", "BNB", "BNB", "598.1", "147000000", "200000000", "marketplace layer-1"),
    ("solana", 5426, "solana", "SOL", "Solana", "172.34", "462000000", None, "pos layer-1"),
    ("dogecoin", 74, "dogecoin", "DOGE", "Dogecoin", "0.12345", "144000000000", None, "mineable memes"),
)


@dataclass(frozen=True, slots=True)
class Coin:
    """One coin of the simulators. Whatever is None is null at both."""

    gecko_id: str
    cap_id: int
    cap_slug: str
    symbol: str
    name: str
    price: Decimal | None
    supply: Decimal | None
    most: Decimal | None = None
    tags: tuple[str, ...] = ()
    ranked: bool = True
    """CoinGecko gives no rank to what wraps another coin."""
    seed: int = 0

    def change(self, now: datetime, ago: timedelta = timedelta(0)) -> Decimal:
        """By which factor the price stands off its base, `ago` before `now`."""
        minutes = (now - ago).timestamp() / 60
        drift = 0.05 * math.sin(minutes / 997 + self.seed) + 0.01 * math.sin(minutes / 61 + 2 * self.seed)
        return Decimal(repr(round(1 + drift, 8)))

    def worth(self, now: datetime, ago: timedelta = timedelta(0)) -> Decimal | None:
        """The price in dollars."""
        return None if self.price is None else self.price * self.change(now, ago)

    def percent(self, now: datetime, ago: timedelta) -> Decimal | None:
        """How the price has changed since, in per cent."""
        if self.price is None:
            return None
        return round((self.change(now) / self.change(now, ago) - 1) * 100, 5)

    def value(self, now: datetime) -> Decimal | None:
        """The market capitalisation."""
        worth = self.worth(now)
        return None if worth is None or self.supply is None else Decimal(round(worth * self.supply))

    def volume(self, now: datetime) -> Decimal | None:
        """Of a day."""
        value = self.value(now)
        return None if value is None else Decimal(round(value * Decimal("0.031")))


def special_coins() -> list[Coin]:
    """What happens in real listings and is easily got wrong."""
    tiny = Decimal("1e-12")
    return [
        Coin("dust-inu", 900001, "dust-inu", "DUST", "Dust Inu", tiny, Decimal("1e15"), Decimal("1e15"), ("memes",)),
        Coin(
            "many-digits",
            900002,
            "many-digits",
            "DIGITS",
            "Many Digits",
            Decimal("0.000000123456789012"),
            Decimal("1000000000000000.123456789012345678"),
            None,
        ),
        # Three coins with one symbol, two of them with one name, too
        Coin("holo", 900003, "holo", "HOT", "Holo", Decimal("0.0021"), Decimal(177619433541)),
        Coin("hydro-protocol", 900004, "hydro-protocol", "HOT", "Hydro Protocol", Decimal("0.004"), Decimal(700000000)),
        Coin("holo-2", 900005, "holo-new", "HOT", "Holo", Decimal("0.0001"), Decimal(1000000)),
        Coin(
            "wrapped-bitcoin", 900006, "wrapped-bitcoin", "WBTC", "Wrapped Bitcoin", Decimal(68001), Decimal(150000),
            ranked=False,
        ),
        Coin("unknown-coin", 900007, "unknown-coin", "???", "Nothing is known of it", None, None, ranked=False),
    ]  # fmt: skip


class Coins:
    """The market that the simulators share, or have each their own of."""

    def __init__(self, count: int = 300, *, seed: int = 7) -> None:
        """`count` coins in all, the special ones among them."""
        self.coins: list[Coin] = [
            Coin(a, b, c, d, e, Decimal(f), Decimal(g), Decimal(h) if h else None, tuple(i.split()), seed=n)
            for n, (a, b, c, d, e, f, g, h, i) in enumerate(_WELL_KNOWN)
        ]
        self.coins += special_coins()
        chance = random.Random(seed)  # noqa: S311 (prices)
        for number in range(len(self.coins), count):
            price = Decimal(repr(round(10 ** chance.uniform(-8, 3), 10)))
            supply = Decimal(round(10 ** chance.uniform(5, 9.5) / float(price)))
            slug, name = f"coin-{number}", f"Coin {number}"
            self.coins.append(Coin(slug, 10_000 + number, slug, f"C{number}", name, price, supply, seed=number))
        self.coins = self.coins[:count]

    def ranked(self, now: datetime) -> list[Coin]:
        """By market capitalisation, what is not known at the end."""
        return sorted(self.coins, key=lambda coin: -(coin.value(now) or Decimal(0)))

    def rename(self, gecko_id: str, *, symbol: str, name: str, cap_slug: str) -> None:
        """A rebranding: both providers keep their ids."""
        self._replace(gecko_id, lambda coin: replace(coin, symbol=symbol, name=name, cap_slug=cap_slug))

    def reprice(self, gecko_id: str, price: Decimal) -> None:
        """Another base price."""
        self._replace(gecko_id, lambda coin: replace(coin, price=price))

    def _replace(self, gecko_id: str, change: Callable[[Coin], Coin]) -> None:
        self.coins = [change(coin) if coin.gecko_id == gecko_id else coin for coin in self.coins]
