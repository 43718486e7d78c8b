"""What generated signals need of others; the composition root hands over who provides it."""

from collections.abc import Sequence
from typing import Protocol


class SymbolNames(Protocol):
    """Knows what the provider of candles calls what people write."""

    def __call__(self, symbol: str) -> Sequence[str]:
        """What `symbol` may be called, the likeliest first; raises `InvalidInputError` for what is no symbol."""


class FollowedSymbols(Protocol):
    """Knows for which symbols signals are made without anybody asking."""

    def __call__(self) -> Sequence[str]:
        """As the source of candles takes them, each once."""
