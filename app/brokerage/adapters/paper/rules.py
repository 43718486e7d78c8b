"""What the paper broker takes, and the figures of its models."""

import hashlib
from datetime import timedelta
from decimal import Decimal
from typing import Final

import msgspec

from app.brokerage.words import BrokerName, Capabilities, Exchange, Listing, PriceType, Product, Validity

EQUITY_INTRADAY: Final = Decimal("0.2")
"""Of the value of intraday shares (a leverage of 5, the most that the regulator allows)."""
FUTURES: Final = Decimal("0.2")
"""Of the value of a contract, whatever the product."""
SHORT_OPTION: Final = Decimal("0.2")
"""Of strike × quantity of sold options, whatever the product."""
MTF_OWN: Final = Decimal("0.5")
"""What the buyer pays of shares on credit."""
SQUARE_OFF: Final = timedelta(minutes=10)
"""Before the end of the session, when intraday positions are closed: 15:20 on a regular day."""
IOC_PATIENCE: Final = timedelta(seconds=5)
"""How long an immediate-or-cancel order waits for a price to be known at all."""
MOST_ORDERS: Final = 500
"""Of one account at a time that wait, or are not filed yet: they are one document."""

_SHARES: Final = frozenset({Product.CNC, Product.MIS, Product.MTF})
_CONTRACTS: Final = frozenset({Product.MIS, Product.NRML})
PRODUCTS: Final = {
    Exchange.NSE: _SHARES,
    Exchange.BSE: _SHARES,
    Exchange.NFO: _CONTRACTS,
    Exchange.BFO: _CONTRACTS,
}
CAPABILITIES: Final = Capabilities(
    broker=BrokerName.PAPER,
    exchanges=frozenset(PRODUCTS),
    products=PRODUCTS,
    price_types=frozenset(PriceType),
    validities=frozenset(Validity),
    tag_unique=True,
    renews_itself=True,
)


class PaperRules(msgspec.Struct, frozen=True, kw_only=True):
    """What the operator can set."""

    starting_cash: Decimal = Decimal(1_000_000)
    """Rupees."""
    slippage_bps: Decimal = Decimal(2)
    """Hundredths of a per cent that a market order pays on average; between half and one and a half times that."""
    latency_ms: int = 50
    """Between taking an order and its first price, on average; it varies as slippage does."""
    volume_share: Decimal = Decimal("0.1")
    """Of what is traded, for an account's orders; 0: orders are filled whole."""
    always_open: bool = False
    """Trade around the clock, at the last known prices: for demonstrations and tests."""
    seed: int = 0
    """Other seeds give other slippage and latency; the same seed the same."""

    def slippage(self, order: str, fill: int) -> Decimal:
        """The part of the price that a fill pays."""
        return self.slippage_bps / 10_000 * self._spread(f"slippage|{order}|{fill}")

    def latency(self, order: str) -> timedelta:
        """Until the order meets its first price."""
        return timedelta(milliseconds=int(self.latency_ms * self._spread(f"latency|{order}")))

    def _spread(self, what: str) -> Decimal:
        """0.5 to 1.5: a hash, not a generator, so that it is the same after a restart and in another process."""
        digest = hashlib.blake2b(f"{self.seed}|{what}".encode(), digest_size=4).digest()
        return Decimal("0.5") + (Decimal(int.from_bytes(digest)) / (1 << 32)).quantize(Decimal("0.000001"))


def is_option(listing: Listing) -> bool:
    """Whether what is traded is an option."""
    return listing.kind in {"CE", "PE"}


def is_share(listing: Listing) -> bool:
    """Whether it trades in the cash segment."""
    return listing.exchange in {Exchange.NSE, Exchange.BSE}
