"""From what people write (`RELIANCE`, `NIFTY50`, `500325.BO`) to the provider's symbols. Pure."""

import re
from typing import Final

from app.core.errors import FieldError, InvalidInputError
from app.quotes.ports import Symbol

MAX_LENGTH: Final = 32
INDICES: Final = {
    "NIFTY50": "^NSEI",
    "NIFTY": "^NSEI",
    "SENSEX": "^BSESN",
    "BANKNIFTY": "^NSEBANK",
    "NIFTYBANK": "^NSEBANK",
}
"""Names of indices, without spaces."""
_INDIAN_INDICES: Final = frozenset(INDICES.values()) | {"^INDIAVIX", "^NSEMDCP50", "^CRSLDX"}
_FORM = re.compile(r"\^?[A-Z0-9][A-Z0-9.&=_\-]*").fullmatch
# What a share is called at the American exchanges: where NSE has nothing by that name, it may be meant.
_AMERICAN = re.compile(r"[A-Z]{1,5}(-[A-Z])?").fullmatch
_COIN = re.compile(r"[A-Z0-9]{2,10}-(USD|EUR|INR|GBP|USDT)").fullmatch


def resolve(text: str, *, where: tuple[str, str] = ("path", "symbol")) -> Symbol:
    """The symbol that `text` means, whatever its case.

    Indices go by their names; `.NS` is NSE and `.BO` is BSE; what has no exchange is NSE's. Raises `InvalidInputError`
    for what is no symbol.
    """
    name = text.strip().upper()
    if found := INDICES.get(name.replace(" ", "")):
        return Symbol(found, indian=True)
    if len(name) > MAX_LENGTH or not _FORM(name):
        message = "This is not a symbol: letters, digits and . & - = _ are, 32 at most, for instance RELIANCE or ^NSEI"
        raise InvalidInputError(f"{'.'.join(where)}: {message}.", [FieldError(where, message, "symbol_invalid")])
    if name.startswith("^"):
        return Symbol(name, indian=name in _INDIAN_INDICES or name.startswith("^CNX"))
    if "." in name or "=" in name:
        return Symbol(name, indian=name.endswith((".NS", ".BO")))
    if _COIN(name):
        return Symbol(name, indian=False)
    return Symbol(f"{name}.NS", indian=True, otherwise=name if _AMERICAN(name) else None)


def elsewhere(symbol: Symbol) -> Symbol | None:
    """What else a name without exchange may be; None where there is nothing else."""
    return Symbol(symbol.otherwise, indian=False) if symbol.otherwise else None
