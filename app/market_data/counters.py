"""What became of the ticks since this process began, in all and by symbol."""

from typing import Any

import msgspec


class SymbolTally(msgspec.Struct):
    """The same for one symbol; what reports on data quality are made of."""

    good: int = 0
    stale: int = 0
    suspect: int = 0
    duplicates: int = 0
    late: int = 0
    """Ticks older than one of this symbol that came before them."""
    rejected: dict[str, int] = {}

    def by_quality(self) -> dict[str, int]:
        """How many of which quality there were."""
        return {"good": self.good, "stale": self.stale, "suspect": self.suspect}


class Counters(msgspec.Struct):
    """Plain numbers that only ever grow; every part of the pipeline adds its own."""

    received: int = 0
    """Ticks that came from the source."""
    stored: int = 0
    """Rows that the database has acknowledged."""
    duplicate: int = 0
    """Repeats: told from what is remembered here, or by the database from what is stored there."""
    after_hours: int = 0
    late: int = 0
    moved: int = 0
    """Rows that took a later millisecond, because another tick had theirs in the database."""
    lost: int = 0
    """Rows given up: the buffer and the spill were full, or the database refused them."""
    spilled: int = 0
    """Rows written to the spill while the database was away or too slow."""
    drained: int = 0
    """Rows that came back from the spill and are settled."""
    dropped_fields: int = 0
    """Nonsense in a field beside the price (a quantity that is no number): the tick is kept without it."""
    conflated: int = 0
    reconnects: int = 0
    rejected: dict[str, int] = {}
    """By reason, see `checks`."""
    symbols: dict[str, SymbolTally] = {}

    def of(self, symbol: str) -> SymbolTally:
        """The tally of `symbol`, made when it is new."""
        tally = self.symbols.get(symbol)
        if tally is None:
            tally = self.symbols[symbol] = SymbolTally()
        return tally

    def reject(self, reason: str, symbol: str | None = None, count: int = 1) -> None:
        """Count ticks that go no further; without a symbol where it is not known."""
        self.rejected[reason] = self.rejected.get(reason, 0) + count
        if symbol is not None:
            tally = self.of(symbol)
            tally.rejected[reason] = tally.rejected.get(reason, 0) + count

    def repeat(self, symbol: str) -> None:
        """Count a repeat."""
        self.duplicate += 1
        self.of(symbol).duplicates += 1

    def take_symbols(self) -> dict[str, SymbolTally]:
        """The tallies since the last call; they begin again at nothing."""
        taken, self.symbols = self.symbols, {}
        return taken

    def as_dict(self) -> dict[str, Any]:
        """The totals, for answers and documents; without the symbols."""
        return {
            name: dict(value) if isinstance(value := getattr(self, name), dict) else value
            for name in self.__struct_fields__
            if name != "symbols"
        }
