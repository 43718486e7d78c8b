"""Writes frames of the feed, field by field at the offsets of the vendor's table. Knows nothing of the parser."""

import struct
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

LTP, QUOTE, SNAP_QUOTE, DEPTH = 1, 2, 3, 4
SIZES: Final = {LTP: 51, QUOTE: 123, SNAP_QUOTE: 379, DEPTH: 443}
TOKEN_AT, TOKEN_BYTES = 2, 25

# offset, struct's letter, field. A frame of a mode has the fields that fit into its size.
FIELDS: Final[Sequence[tuple[int, str, str]]] = (
    (27, "q", "sequence"),
    (35, "q", "exchange_time"),
    (43, "q", "last_price"),
    (51, "q", "last_quantity"),
    (59, "q", "average_price"),
    (67, "q", "volume"),
    (75, "d", "total_buy_quantity"),
    (83, "d", "total_sell_quantity"),
    (91, "q", "open"),
    (99, "q", "high"),
    (107, "q", "low"),
    (115, "q", "close"),
    (123, "q", "last_trade_time"),
    (131, "q", "open_interest"),
    (139, "q", "undefined"),
    (347, "q", "upper_circuit"),
    (355, "q", "lower_circuit"),
    (363, "q", "year_high"),
    (371, "q", "year_low"),
)
DEPTH_FIELDS: Final[Sequence[tuple[int, str, str]]] = ((27, "q", "exchange_time"), (35, "q", "received_time"))
BEST_FIVE_AT, BEST_FIVE_STEP = 147, 20
BUYS_AT, SELLS_AT, BEST_TWENTY_STEP = 43, 243, 10


class Step(NamedTuple):
    """A step of an order book."""

    quantity: int
    price: int
    orders: int


def encode(
    mode: int,
    exchange: int,
    token: str,
    values: Mapping[str, float],
    *,
    buys: Sequence[Step] = (),
    sells: Sequence[Step] = (),
) -> bytes:
    """A frame of `mode`; fields that `values` lacks are 0, and others that the mode has not are left out."""
    frame = bytearray(SIZES[mode])
    frame[0], frame[1] = mode, exchange
    spelling = token.encode("ascii")
    assert len(spelling) < TOKEN_BYTES
    frame[TOKEN_AT : TOKEN_AT + len(spelling)] = spelling
    for offset, letter, name in DEPTH_FIELDS if mode == DEPTH else FIELDS:
        if offset < SIZES[mode]:
            struct.pack_into("<" + letter, frame, offset, values.get(name, 0))
    if mode == SNAP_QUOTE:
        _best_five(frame, buys, sells)
    elif mode == DEPTH:
        _best_twenty(frame, BUYS_AT, buys)
        _best_twenty(frame, SELLS_AT, sells)
    return bytes(frame)


def _best_five(frame: bytearray, buys: Sequence[Step], sells: Sequence[Step]) -> None:
    sides = [(1, step) for step in _filled(buys, 5)] + [(0, step) for step in _filled(sells, 5)]
    for number, (flag, step) in enumerate(sides):
        at = BEST_FIVE_AT + number * BEST_FIVE_STEP
        struct.pack_into("<H", frame, at, flag)
        struct.pack_into("<q", frame, at + 2, step.quantity)
        struct.pack_into("<q", frame, at + 10, step.price)
        struct.pack_into("<H", frame, at + 18, step.orders)


def _best_twenty(frame: bytearray, at: int, steps: Sequence[Step]) -> None:
    for number, step in enumerate(_filled(steps, 20)):
        struct.pack_into("<i", frame, at + number * BEST_TWENTY_STEP, step.quantity)
        struct.pack_into("<i", frame, at + number * BEST_TWENTY_STEP + 4, step.price)
        struct.pack_into("<h", frame, at + number * BEST_TWENTY_STEP + 8, step.orders)


def _filled(steps: Sequence[Step], count: int) -> list[Step]:
    assert len(steps) <= count
    return [*steps, *[Step(0, 0, 0)] * (count - len(steps))]
