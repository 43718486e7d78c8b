"""Rows are those that the documents describe."""

import os
import subprocess
import sys
from typing import NamedTuple

import bson
import pytest
from bson import CodecOptions

from app.market_data.models import TickDocument
from app.market_data.ports import Quality
from app.market_data.rows import RowMaker, decode, depth_of, encode, from_ms, moved
from tests.market_data.pipeline.kit import BANK, NIFTY, OPEN_MS, OPTION, rows_of, tick


class Step(NamedTuple):
    quantity: int
    price: int
    orders: int


class Book(NamedTuple):
    buys: tuple[Step, ...]
    sells: tuple[Step, ...]


BOOK = Book((Step(75, 2_399_950, 2),), (Step(150, 2_400_050, 3),))
FULL = {
    "open": 2_390_000,
    "high": 2_420_000,
    "low": 2_380_000,
    "close": 2_395_005,
    "volume": 7,
    "last_quantity": 75,
    "average_price": 2_398_712,
    "total_buy_quantity": 1e6,
    "total_sell_quantity": 2e6,
    "has_day": True,
    "sequence": 9,
    "depth": lambda: BOOK,
    "open_interest": 12,
    "upper_circuit": 2_640_000,
    "lower_circuit": 2_160_000,
}


def test_a_full_row() -> None:
    one = tick(OPTION, price=2_400_005, digest=5, received_ms=OPEN_MS + 3, **FULL)
    [row] = rows_of([one])
    assert {name: value for name, value in row.items() if name not in ("_id", "depth", "raw_data")} == {
        "schema_version": 1,
        "tk": "43210",
        "symbol": OPTION.symbol,
        "exchange": "NFO",
        "exchange_type": 2,
        "token": "43210",
        "instrument_type": "OPTIDX",
        "expiry": "26NOV2026",
        "strike_price": 24000.0,
        "ltpc": 24000.05,
        "ch": 50.0,
        "chp": 0.21,
        "high": 24200.0,
        "low": 23800.0,
        "open": 23900.0,
        "close": 23950.05,
        "volume": 7,
        "received_at": from_ms(OPEN_MS + 3),
        "ingested_at": from_ms(OPEN_MS + 5),
        "source": "angel_one",
        "processed": False,
        "data_quality": "good",
        "is_realtime": True,
    }
    assert row["depth"] == {
        "buy": [{"quantity": 75, "price": 23999.5, "orders": 2}],
        "sell": [{"quantity": 150, "price": 24000.5, "orders": 3}],
    }
    assert row["raw_data"] == {
        "exchange_time": OPEN_MS,
        "sequence": 9,
        "last_quantity": 75,
        "average_price": 23987.12,
        "total_buy_quantity": 1e6,
        "total_sell_quantity": 2e6,
        "open_interest": 12,
        "upper_circuit": 26400.0,
        "lower_circuit": 21600.0,
    }


@pytest.mark.parametrize("more", [{}, FULL])
async def test_a_row_is_what_the_document_stores(more: dict[str, object], db: object) -> None:  # noqa: ARG001 (Beanie)
    [row] = rows_of([tick(**more)])
    document = TickDocument.model_validate(row)
    expected = document.model_dump(by_alias=True, exclude_none=True)
    expected["_id"] = expected.pop("id", row["_id"])
    assert row == expected
    assert set(row) - {"_id"} <= set(TickDocument.model_fields)


def test_what_a_mode_does_not_bring_is_not_there() -> None:
    [row] = rows_of([tick(quality=Quality.STALE)])
    assert row.keys().isdisjoint({"ch", "chp", "high", "low", "open", "close", "volume", "depth", "expiry"})
    assert row["is_realtime"] is False
    [unopened] = rows_of([tick(has_day=True)])
    assert unopened.keys().isdisjoint({"ch", "chp", "high", "low", "open", "close"}), "no price is nothing"


def test_currencies_have_more_decimals() -> None:
    [row] = rows_of([tick(price=834_275_000, divisor=10_000_000)])
    assert row["ltpc"] == 83.4275


def test_a_tick_s_id_is_its_own() -> None:
    same = [tick(digest=42), tick(digest=42, received_ms=OPEN_MS + 9, arrival_ms=OPEN_MS + 70)]
    others = [tick(digest=43), tick(digest=42, ms=OPEN_MS + 1000), tick(BANK, digest=42)]
    ids = [row["_id"] for row in rows_of(same + others)]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 4
    assert ids[0].generation_time == from_ms(OPEN_MS), "to the second, as in any id"
    assert rows_of([tick(digest=-42)])[0]["_id"] == rows_of([tick(digest=2**64 - 42)])[0]["_id"]


def test_the_id_is_the_same_in_every_process() -> None:
    code = (
        "from tests.market_data.pipeline.kit import rows_of, tick; print(rows_of([tick(digest=42)])[0]['_id'], end='')"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": "7"}, capture_output=True, check=True
    )
    assert found.stdout.decode() == str(rows_of([tick(digest=42)])[0]["_id"])


def test_encoded_decoded_moved() -> None:
    [row] = rows_of([tick(**FULL)])
    encoded = encode(row)
    assert decode(encoded.raw) == encoded
    assert encoded.id == row["_id"]
    later = moved(encoded, OPEN_MS + 77)
    assert (later.received_ms, later.id, later.symbol) == (OPEN_MS + 77, encoded.id, NIFTY.symbol)
    assert decode(later.raw) == later
    aware = CodecOptions(tz_aware=True)
    assert bson.decode(later.raw, aware) == {**bson.decode(encoded.raw, aware), "received_at": from_ms(OPEN_MS + 77)}


def test_an_instrument_that_changed_is_learnt_again() -> None:
    maker = RowMaker("elsewhere")
    assert maker.make(tick(received_ms=1))["exchange"] == "NSE"
    other = type(NIFTY)(NIFTY.symbol, "1", "BSE", 3)
    assert maker.make(tick(other, received_ms=1))["exchange"] == "BSE"
    assert maker.make(tick(received_ms=1))["source"] == "elsewhere"


def test_a_depth_that_is_a_mapping_already() -> None:
    assert depth_of({"buy": []}, 100) == {"buy": []}
