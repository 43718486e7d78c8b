"""What live prices call the symbols of users' signals. Pure.

People write what charts, quotes and other programs call it (`RELIANCE`, `NSE:RELIANCE`, `RELIANCE.NS`, `NIFTY50`,
`^NSEI`); ticks have the names of the exchange's list and of the six indices (`RELIANCE-EQ`, `NIFTY 50`).
"""

from collections.abc import Callable, Collection
from typing import Final

_INDICES: Final = {
    "NIFTY": "NIFTY 50",
    "NIFTY50": "NIFTY 50",
    "^NSEI": "NIFTY 50",
    "NIFTYBANK": "BANKNIFTY",
    "BANKNIFTY": "BANKNIFTY",
    "^NSEBANK": "BANKNIFTY",
    "NIFTYFINSERVICE": "FINNIFTY",
    "FINNIFTY": "FINNIFTY",
    "NIFTYMIDSELECT": "MIDCPNIFTY",
    "MIDCPNIFTY": "MIDCPNIFTY",
    "^BSESN": "SENSEX",
    "BSE:SENSEX": "SENSEX",
    "BSE:BANKEX": "BANKEX",
}
"""Without spaces."""


def price_name(symbol: str, known: Collection[str]) -> str | None:
    """Which of the `known` names of live prices `symbol` (in capitals) means; None if it is none of them.

    A share without an exchange is NSE's if that is known, and BSE's, which has the bare name, if not.
    """
    symbol = symbol.removeprefix("NFO:").removeprefix("BFO:")
    name = symbol.removeprefix("NSE:")
    index = _INDICES.get(name.replace(" ", ""))
    share = name.removesuffix(".NS")
    bare = name == symbol == share or name.endswith("-EQ")
    for wanted in (index, f"{share}-EQ", name if bare else None):
        if wanted in known:
            return wanted
    if symbol.endswith(".BO") or symbol.startswith("BSE:"):
        share = symbol.removesuffix(".BO").removeprefix("BSE:")
        return share if share in known else None
    return None


PriceNames = Callable[[str], str | None]
"""Says what live prices call a symbol; None where the feed brings none of it."""


def as_written(symbol: str) -> str | None:
    """For who knows no other names."""
    return symbol
