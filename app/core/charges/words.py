"""The words of charges: what is traded where, what it costs by component, and what goes wrong."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import date
from decimal import Context, Decimal
from enum import StrEnum
from fractions import Fraction
from typing import Final

EXACT: Final = Context(prec=90)
"""Products of two 34-digit numbers and a rate, to the last digit; only what is said to be rounded is rounded."""
NOTHING: Final = Decimal("0.00")


class ChargesDataError(ValueError):
    """The file is not usable; the message is one line that says why."""


class UnknownBrokerError(ValueError):
    """The data has no plan of this broker; the message says which there are."""


class Exchange(StrEnum):
    """Where it is traded."""

    NSE = "NSE"
    BSE = "BSE"


class Segment(StrEnum):
    """What is traded, as far as charges tell it apart."""

    DELIVERY = "delivery"
    """Shares that are kept beyond the day (or were)."""
    INTRADAY = "intraday"
    """Shares bought and sold on one day."""
    FUTURES = "futures"
    OPTIONS = "options"
    """The turnover is the premium: quantity × the option's own price."""
    MTF = "mtf"
    """Delivery on the broker's credit (margin trading facility): taxed as delivery, with brokerage of its own."""

    @property
    def levied_as(self) -> "Segment":
        """The segment whose taxes and exchange charges hold."""
        return Segment.DELIVERY if self is Segment.MTF else self


class Side(StrEnum):
    """Of a trade."""

    BUY = "buy"
    SELL = "sell"

    @property
    def opposite(self) -> "Side":
        """What ends a position that this began."""
        return Side.SELL if self is Side.BUY else Side.BUY


@dataclass(frozen=True, slots=True)
class TradeForCharges:
    """One executed order: brokerage is capped by order, so its fills belong together, at their average price."""

    exchange: Exchange
    segment: Segment
    side: Side
    quantity: Decimal | int
    """Units, not lots."""
    price: Decimal
    """Rupees a unit; of an option its premium."""
    on: date
    """The day of the trade, in India."""
    broker: str = "none"
    depository: bool = True
    """Whether the depository charges this sale of delivered shares: it does once a share and day, so not for a second
    sale of the same share on the same day."""
    same_day: Fraction = Fraction(0)
    """Of an order for delivery the part (0 to 1) whose shares were bought and sold on this one day: nothing of it is
    delivered, and it is charged as intraday. See `same_day_parts`."""

    def __post_init__(self) -> None:
        """Raises `TypeError` or `ValueError` for a quantity or a price that is none, or a part that cannot be."""
        if self.same_day and (self.segment is not Segment.DELIVERY or not 0 <= self.same_day <= 1):
            raise ValueError("only an order for delivery, and at most all of it, is bought and sold on one day")
        for name, value in (("quantity", self.quantity), ("price", self.price)):
            # bool is an int, and a float would bring its binary fraction along.
            if isinstance(value, bool) or not isinstance(value, int | Decimal):
                raise TypeError(f"the {name} of a trade is a Decimal, or a whole number")
            if not Decimal(value).is_finite() or value <= 0:
                raise ValueError(f"the {name} of a trade is a number over zero")

    @property
    def turnover(self) -> Decimal:
        """Rupees, exact."""
        return EXACT.multiply(Decimal(self.quantity), Decimal(self.price))


def same_day_parts(bought: int, sold: int) -> tuple[Fraction, Fraction]:
    """Which part of what was bought of a share on a day, and which of what was sold, was both: every order of the day
    bears the part of its side, so the matched shares have the day's average price, as on a contract note."""
    matched = min(bought, sold)
    return Fraction(matched, bought) if bought else Fraction(0), Fraction(matched, sold) if sold else Fraction(0)


@dataclass(frozen=True, slots=True)
class Charges:
    """What trades cost besides their price, in rupees by component."""

    brokerage: Decimal = NOTHING
    stt: Decimal = NOTHING
    """Securities transaction tax, in whole rupees."""
    transaction: Decimal = NOTHING
    """The exchange's."""
    sebi: Decimal = NOTHING
    """The regulator's turnover fee."""
    investor_protection: Decimal = NOTHING
    """The contribution to the exchange's fund (IPFT), where it is listed apart."""
    stamp: Decimal = NOTHING
    """Stamp duty, which buyers pay."""
    depository: Decimal = NOTHING
    """For taking sold shares out of the account, once a share and day."""
    gst: Decimal = NOTHING
    """On all of it but the taxes: brokerage, transaction, SEBI, investor protection, depository."""
    note: str | None = None
    """What is not certain about it; None if the data covers the day."""

    @property
    def total(self) -> Decimal:
        """All components."""
        return sum((getattr(self, name) for name in COMPONENTS), NOTHING)

    @property
    def certain(self) -> bool:
        """Whether the data covers the day."""
        return self.note is None

    def as_dict(self) -> dict[str, Decimal]:
        """By component, and `total`."""
        return {name: getattr(self, name) for name in COMPONENTS} | {"total": self.total}

    def __add__(self, other: "Charges") -> "Charges":
        """The sum by component, of what was charged apart (each rounded by itself)."""
        return added((self, other))


COMPONENTS: Final = tuple(field.name for field in fields(Charges) if field.name != "note")


def added(several: Iterable[Charges]) -> Charges:
    """The sum by component; the notes of all, each once."""
    several = list(several)
    notes = dict.fromkeys(one.note for one in several if one.note)
    sums = {name: sum((getattr(one, name) for one in several), NOTHING) for name in COMPONENTS}
    return Charges(**sums, note=" ".join(notes) or None)


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """A position that was begun and ended."""

    entry: Charges
    exit: Charges
    turnover: Decimal
    """Of the entry, in rupees."""
    gross: Decimal
    """What it made before charges."""

    @property
    def charges(self) -> Charges:
        """Of both trades."""
        return self.entry + self.exit

    @property
    def net(self) -> Decimal:
        """What it made after charges."""
        return EXACT.subtract(self.gross, self.charges.total)

    @property
    def cost_percent(self) -> Decimal:
        """The charges in per cent of the entry's turnover: the price has to move by so much to make up for them."""
        return self.charges.total / self.turnover * 100
