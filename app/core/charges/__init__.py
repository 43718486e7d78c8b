"""What trading costs on the Indian exchanges: the engine, and the dated data that it reads."""

from app.core.charges.data import ChargesData, load_charges
from app.core.charges.engine import ChargeEngine
from app.core.charges.words import (
    COMPONENTS,
    Charges,
    ChargesDataError,
    Exchange,
    RoundTrip,
    Segment,
    Side,
    TradeForCharges,
    UnknownBrokerError,
    added,
    same_day_parts,
)

__all__ = [
    "COMPONENTS",
    "ChargeEngine",
    "Charges",
    "ChargesData",
    "ChargesDataError",
    "Exchange",
    "RoundTrip",
    "Segment",
    "Side",
    "TradeForCharges",
    "UnknownBrokerError",
    "added",
    "load_charges",
    "same_day_parts",
]
