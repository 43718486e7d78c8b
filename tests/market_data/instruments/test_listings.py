"""The table of listings against a plain list of the same rows."""

import zlib
from collections.abc import Callable
from decimal import Decimal
from random import Random

import pytest

from app.market_data.listings import EXCHANGES, Listing, ListingTable, TableBuilder

Row = tuple[str, str, str, str, str]


def table_of(*rows: Row) -> ListingTable:
    builder = TableBuilder()
    for row in rows:
        builder.add(*row)
    return builder.build()


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """20,000: more than are sorted at a time, names that begin alike, symbols that several have."""
    random, rows = Random(3), dict[tuple[str, str], Row]()  # noqa: S311 (names, no secrets)
    while len(rows) < 20_000:
        exchange, token = random.choice([*EXCHANGES]), str(random.randrange(1, 99_999))
        name = "".join(random.choices("ABC", k=random.randint(1, 7)))
        symbol = f"{name}-{random.choice(['EQ', 'BE'])}" if exchange == "NSE" else name
        rows[exchange, token] = (exchange, token, symbol, name, "")
    return list(rows.values())


@pytest.fixture(scope="module")
def table(rows: list[Row]) -> ListingTable:
    return table_of(*rows)


def test_every_token_is_found_and_no_other(table: ListingTable, rows: list[Row]):
    assert len(table) == len(rows)
    for exchange, token, symbol, name, _ in rows:
        found = table.find(exchange, token)
        assert found is not None
        assert (found.exchange, found.token, found.symbol, found.name) == (exchange, token, symbol, name)
    known = {row[:2] for row in rows}
    for exchange in EXCHANGES:
        for token in map(str, range(1, 3000)):
            assert (table.find(exchange, token) is not None) is ((exchange, token) in known)
    assert table.find("MCX", "1") is None
    assert table.find("NSE", "") is None


def test_names_find_all_that_have_them(table: ListingTable, rows: list[Row]):
    for text in ["A", "ABC", "ABC-EQ", "CCCCCCC", "AB-BE", "X", ""]:
        expected = {
            row[:2]
            for row in rows
            if text and (row[2] in {text, f"{text}-EQ"} or (row[0] in {"NSE", "BSE"} and row[3] == text))
        }
        found = table.named(text)
        if len(expected) < 200:
            assert {(listing.exchange, listing.token) for listing in found} == expected
        else:
            assert {(listing.exchange, listing.token) for listing in found} <= expected
        assert all(listing.exchange == "BSE" for listing in table.named(text, "BSE"))
    order = [(EXCHANGES_IN_ORDER.index(x.exchange), x.kind != "EQ") for x in table.named("ABC")]
    assert order == sorted(order), "shares of NSE first, then those of BSE"


EXCHANGES_IN_ORDER = ["NSE", "BSE", "NFO", "BFO"]


@pytest.mark.parametrize("exchange", [None, "NSE", "BFO"])
@pytest.mark.parametrize("text", ["ABC", "CABA", "CA BA", "AC-B", "123"])
def test_a_search_gives_matches_only_and_the_best_first(
    table: ListingTable, rows: list[Row], text: str, exchange: str | None
):
    def fits(listing: Listing) -> bool:
        shown = f"{listing.symbol} {listing.name}"
        return listing.token == text or all(word in shown for word in text.split())

    there = sum(
        (exchange is None or row[0] == exchange)
        and (row[1] == text or all(word in f"{row[2]} {row[3]}" for word in text.split()))
        for row in rows
    )
    found = table.search(text, exchange, most=20)
    assert len(found) == min(20, there)
    assert len({listing.place for listing in found}) == len(found)
    assert all(fits(listing) for listing in found)
    assert all(exchange in {None, listing.exchange} for listing in found)
    exact = [listing for listing in found if text in {listing.symbol, listing.name, listing.token}]
    assert found[: len(exact)] == exact


def test_a_few_bytes_carry_it_to_other_processes(table: ListingTable, rows: list[Row]):
    data = table.encode()
    assert len(data) < 20 * len(rows)
    other = ListingTable.decode(data)
    assert len(other) == len(table)
    assert other.search("ABC") == table.search("ABC")
    assert other.named("ABC") == table.named("ABC")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda _: b"",
        lambda data: data[:-9],
        lambda data: data[:-2],
        lambda data: b"y" + data[1:],
        lambda _: zlib.compress(b"nonsense"),
        lambda data: zlib.compress(zlib.decompress(data)[:-1]),
    ],
)
def test_what_is_no_table_is_refused(table: ListingTable, spoil: Callable[[bytes], bytes]):
    with pytest.raises(ValueError, match=r".*"):
        ListingTable.decode(spoil(table.encode()))


def test_all_that_is_known_of_a_contract():
    builder = TableBuilder()
    builder.add("NFO", "43210", "NIFTY26NOV2624500CE", "NIFTY", "OPTIDX", "2026-11-26", 2_450_050, 65, 5)
    builder.add("NFO", "43210", "NIFTY26NOV2624500CE", "NIFTY", "OPTIDX", "2026-11-26", 2_450_050, 65, 5)
    (found,) = builder.build().named("NIFTY26NOV2624500CE")
    assert found == Listing(
        "NFO", "43210", "NIFTY26NOV2624500CE", "NIFTY", "OPTIDX", "2026-11-26", Decimal("24500.5"), Decimal("0.05"), 65
    )
    assert builder.repeated == 1
    assert builder.by_expiry == {"2026-11-26": 2}
    instrument = found.instrument()
    assert (instrument.exchange_type, instrument.expiry, instrument.strike_price) == (2, "2026-11-26", 24500.5)


@pytest.mark.parametrize(
    ("exchange", "symbol", "kind", "expected"),
    [
        ("NSE", "RELIANCE-EQ", "", "EQ"),
        ("NSE", "GVPTECH-BE", "", "BE"),
        ("NSE", "679AP34-SG", "", "SG"),
        ("NSE", "NIFTY", "", ""),
        ("NSE", "BAJAJ-AUTO-EQ", "", "EQ"),
        ("BSE", "RELIANCE", "", "EQ"),
        ("NSE", "NIFTY 50", "AMXIDX", "INDEX"),
        ("NFO", "X", "FUTSTK", "FUTSTK"),
    ],
)
def test_kinds(exchange: str, symbol: str, kind: str, expected: str):
    (found,) = table_of((exchange, "1", symbol, "N", kind)).named(symbol)
    assert found.kind == expected
    assert found.is_index is (expected == "INDEX")


def test_what_is_nearly_spelt_so():
    table = table_of(
        ("NSE", "2885", "RELIANCE-EQ", "RELIANCE", ""),
        ("NSE", "1", "RELAXO-EQ", "RELAXO", ""),
        ("NSE", "2", "TCS-EQ", "TCS", ""),
        ("NFO", "3", "RELIANCE26NOV26FUT", "RELIANCE", "FUTSTK"),
    )
    assert table.near("RELAINCE")[0] == "RELIANCE"
    assert table.near("ZZZ") == []
    assert "RELIANCE26NOV26FUT" not in table.near("RELIANCE26NOV26FUT")


def test_an_empty_table_answers():
    table = TableBuilder().build()
    assert (len(table), table.find("NSE", "1"), table.named("A"), table.search("AB"), table.near("AB")) == (
        0, None, [], [], [],
    )  # fmt: skip
    assert len(ListingTable.decode(table.encode())) == 0
