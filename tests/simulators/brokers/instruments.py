"""What the simulated exchanges list: the same for every broker, who each write it down in a way of their own."""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Final


@dataclass(frozen=True, slots=True)
class Instrument:
    """One instrument. Prices in rupees, quantities in units."""

    exchange: str
    symbol: str
    """Without the series: `RELIANCE`."""
    token: str
    """The exchange's number."""
    price: Decimal
    """At the start."""
    tick: Decimal = Decimal("0.05")
    lot: int = 1
    freeze: int | None = None
    isin: str | None = None
    name: str = ""
    kind: str = "EQ"
    """`EQ`, `FUT`, `CE`, `PE`, `INDEX`."""
    expiry: date | None = None
    strike: Decimal | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What the book knows it by."""
        return self.exchange, self.symbol

    @property
    def derivative(self) -> bool:
        """Whether it ends one day."""
        return self.expiry is not None


RELIANCE: Final = Instrument(
    "NSE", "RELIANCE", "2885", Decimal("1510.00"), Decimal("0.10"), 1, 99_999, "INE002A01018", "RELIANCE INDUSTRIES"
)
INFY: Final = Instrument(
    "NSE", "INFY", "1594", Decimal("1620.00"), Decimal("0.10"), 1, 99_999, "INE009A01021", "INFOSYS"
)
IDEA: Final = Instrument(
    "NSE", "IDEA", "14366", Decimal("8.15"), Decimal("0.01"), 1, 999_999, "INE669E01016", "VODAFONE IDEA"
)
RELIANCE_BSE: Final = Instrument(
    "BSE", "RELIANCE", "500325", Decimal("1510.10"), Decimal("0.05"), 1, None, "INE002A01018", "RELIANCE INDUSTRIES"
)
NIFTY: Final = Instrument(
    "NSE", "NIFTY 50", "26000", Decimal("24500.00"), Decimal("0.05"), name="NIFTY 50", kind="INDEX"
)
NIFTY_CALL: Final = Instrument(
    "NFO",
    "NIFTY26DEC24500CE",
    "45125",
    Decimal("182.35"),
    Decimal("0.05"),
    65,
    1_800,
    None,
    "NIFTY",
    "CE",
    date(2026, 12, 29),
    Decimal(24_500),
)
NIFTY_FUTURE: Final = Instrument(
    "NFO",
    "NIFTY26DECFUT",
    "45001",
    Decimal("24610.00"),
    Decimal("0.10"),
    65,
    1_800,
    None,
    "NIFTY",
    "FUT",
    date(2026, 12, 29),
)
INSTRUMENTS: Final = (RELIANCE, INFY, IDEA, RELIANCE_BSE, NIFTY, NIFTY_CALL, NIFTY_FUTURE)
"""What a simulator lists unless it is told otherwise."""
EQUITY, FUTURE = RELIANCE, NIFTY_FUTURE
