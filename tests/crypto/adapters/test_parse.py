"""What both vendors' payloads become: shapes as they come, every number exactly, junk told from what is not known."""

from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bson import Decimal128
from hypothesis import given
from hypothesis import strategies as st

from app.crypto.adapters import figures
from app.crypto.adapters.coingecko import parse as gecko
from app.crypto.adapters.coinmarketcap import parse as cap
from app.crypto.errors import NonsenseError, ProviderError
from app.crypto.ports import CoinListing, PricePoint, Provider

PAYLOADS = Path(__file__).parent / "payloads"
decode = msgspec.json.Decoder(float_hook=Decimal).decode


def payload(name: str) -> Any:
    return decode((PAYLOADS / f"{name}.json").read_bytes())


def rows_of(content: Any) -> dict[str, CoinListing]:
    rows, rejected = (gecko if isinstance(content, list) else cap).listings(content)
    assert rejected == 0
    return {row.provider_id: row for row in rows}


def test_a_row_of_coingecko():
    assert rows_of(payload("coingecko_markets"))["bitcoin"] == CoinListing(
        provider=Provider.COINGECKO,
        provider_id="bitcoin",
        slug="bitcoin",
        symbol="BTC",
        name="Bitcoin",
        rank=1,
        price=Decimal("68123.45"),
        market_cap=Decimal(1348844310000),
        fully_diluted_valuation=Decimal(1430592450000),
        volume_24h=Decimal(33734565363),
        high_24h=Decimal("69475.03"),
        low_24h=Decimal("67641.21"),
        price_change_1h=Decimal("0.12262495372372209"),
        price_change_24h=Decimal("-0.3400149537237221"),
        price_change_7d=Decimal("0.000045"),
        circulating_supply=Decimal(19800000),
        total_supply=Decimal(21000000),
        max_supply=Decimal(21000000),
        ath=Decimal(126080),
        ath_date=datetime(2025, 10, 6, 18, 57, 42, 558_000, tzinfo=UTC),
        atl=Decimal("67.81"),
        atl_date=datetime(2013, 7, 6, tzinfo=UTC),
        image="https://coin-images.coingecko.com/coins/images/1/large/bitcoin.png?1696501400",
        updated_at=datetime(2026, 11, 22, 10, 0, 10, 845_000, tzinfo=UTC),
    )


def test_tiny_and_huge_numbers_and_odd_texts():
    dust = rows_of(payload("coingecko_markets"))["dust-inu"]
    assert (dust.symbol, dust.name, dust.rank, dust.image) == ("$DUST", "Dust Inu", None, None)
    assert dust.price == Decimal("1e-12")
    assert dust.low_24h == Decimal("9.87654321E-13")
    assert str(dust.total_supply) == "1000000000000000.123456789012345678"
    assert dust.max_supply == Decimal("1e15")
    assert dust.atl == Decimal("1e-20")
    assert (dust.ath_date, dust.atl_date) == (datetime(2021, 5, 10, 4, tzinfo=UTC), None)
    assert dust.updated_at == datetime(2026, 11, 22, 10, 0, 10, 845_000, tzinfo=UTC)
    # No value and no supply is how it says that it does not know; no volume is a volume.
    assert (dust.market_cap, dust.circulating_supply, dust.volume_24h) == (None, None, Decimal(0))
    assert dust.price_change_24h is None


def test_a_coin_of_which_nothing_is_known():
    known = rows_of(payload("coingecko_markets"))["nothing-known"]
    assert msgspec.structs.asdict(known) == {
        **dict.fromkeys(CoinListing.__struct_fields__),
        "provider": Provider.COINGECKO,
        "provider_id": "nothing-known",
        "slug": "nothing-known",
        "symbol": "NK",
        "name": "Nothing Known",
        "categories": (),
    }


def test_rows_of_coinmarketcap():
    rows = rows_of(payload("coinmarketcap_listings"))
    assert rows["1"] == CoinListing(
        provider=Provider.COINMARKETCAP,
        provider_id="1",
        slug="bitcoin",
        symbol="BTC",
        name="Bitcoin",
        rank=1,
        price=Decimal("68123.451234567894"),
        market_cap=Decimal("1348844334444.44"),
        fully_diluted_valuation=Decimal("1430592475925.93"),
        volume_24h=Decimal("33734565363.12345"),
        price_change_1h=Decimal("0.12"),
        price_change_24h=Decimal("-0.34"),
        price_change_7d=Decimal("4.5"),
        circulating_supply=Decimal(19800000),
        total_supply=Decimal(19800000),
        max_supply=Decimal(21000000),
        categories=("mineable", "pow", "sha-256", "store-of-value"),
        updated_at=datetime(2026, 11, 22, 10, 0, 1, tzinfo=UTC),
    )
    dust = rows["36000"]
    assert (dust.price, dust.market_cap, dust.total_supply) == (Decimal("1e-12"), None, Decimal("1000000000000000.5"))
    assert (dust.categories, dust.updated_at) == ((), datetime(2026, 11, 22, 10, tzinfo=UTC))


def test_the_third_version_of_coinmarketcap_says_the_same():
    content = payload("coinmarketcap_listings")
    changed = payload("coinmarketcap_listings")
    changed["status"]["error_code"] = "0"
    for row in changed["data"]:
        row["quote"] = [{"symbol": "BTC", "price": 1}, {"id": 2781, "symbol": "USD", **row["quote"]["USD"]}]
        row["tags"] = [{"slug": tag, "name": tag.upper()} for tag in row["tags"] or []]
    assert cap.error_of(200, changed, None) is None
    assert cap.listings(changed) == cap.listings(content)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("current_price", value) for value in (-1, "a lot", True, [], {}, "NaN", "-Infinity", Decimal("1e31"))],
        *[("id", value) for value in (None, "", "two words", "a/b", [], 1.5, "x" * 129, "line\nbreak")],
        *[("name", value) for value in (None, "", " \u200b ", 7)],
        *[("symbol", value) for value in (None, "\x00", {})],
    ],
)
def test_a_row_that_cannot_be_read_is_counted_and_the_others_stand(field: str, value: Any):
    content = payload("coingecko_markets")
    content[1][field] = value
    rows, rejected = gecko.listings(content)
    assert ([row.provider_id for row in rows], rejected) == (["bitcoin", "nothing-known"], 1)


@pytest.mark.parametrize(
    "field", ["market_cap", "high_24h", "max_supply", "ath_date", "image", "market_cap_rank", "roi"]
)
@pytest.mark.parametrize("value", ["∞", -1, [], {"a": 1}, True, "1e400", "\x00"])
def test_nonsense_beside_the_price_is_left_out(field: str, value: Any):
    content = payload("coingecko_markets")
    content[0][field] = value
    row = rows_of(content)["bitcoin"]
    assert row.price == Decimal("68123.45")
    assert getattr(row, {"market_cap_rank": "rank"}.get(field, field), None) is None


def test_a_coin_that_two_pages_hold_is_listed_once_and_ranks_decide():
    content = payload("coingecko_markets")
    second = {**content[0], "id": "second", "market_cap_rank": 2}
    rows, rejected = gecko.listings([content[2], second, content[0], {**content[0], "current_price": 1}])
    assert [(row.provider_id, row.rank) for row in rows] == [("bitcoin", 1), ("second", 2), ("nothing-known", None)]
    assert (rows[0].price, rejected) == (Decimal("68123.45"), 0)


def test_coins_that_share_a_symbol_are_different_coins():
    content = payload("coingecko_markets")
    twins = [{**content[0], "id": name} for name in ("holo", "hydro-protocol", "holo-2")]
    assert {row.symbol for row in rows_of(twins).values()} == {"BTC"}
    assert list(rows_of(twins)) == ["holo", "hydro-protocol", "holo-2"]


def test_history():
    content = {
        "prices": [[1790000300000, "x"], [1790000000000, Decimal("1e-12")], [1790000600000, 2], [1790000000000, 3], 7],
        "market_caps": [[1790000000000, None], [1790000600000, Decimal("5.5")]],
        "total_volumes": [[1790000600000, 0]],
    }
    assert gecko.history(content) == [
        PricePoint(datetime(2026, 9, 21, 14, 13, 20, tzinfo=UTC), Decimal(3), None, None),
        PricePoint(datetime(2026, 9, 21, 14, 23, 20, tzinfo=UTC), Decimal(2), Decimal("5.5"), Decimal(0)),
    ]
    assert gecko.history({"prices": []}) == []
    for nonsense in ({}, [], None, {"prices": {}}, {"prices": [[1, None]]}):
        with pytest.raises(NonsenseError):
            gecko.history(nonsense)


# Whatever comes

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.decimals() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(sorted({*payload("coingecko_markets")[0], *payload("coinmarketcap_listings")["data"][0]}))


@given(JSON, st.integers(100, 599), st.none() | st.floats(1, 1e6))
def test_any_json_is_an_error_or_content(content: Any, status: int, retry_after: float | None):
    for parse in (gecko, cap):
        error = parse.error_of(status, content, retry_after)
        assert error is None or isinstance(error, ProviderError)
        if error is None:
            with suppress(NonsenseError):
                parse.listings(content)


@given(st.dictionaries(FIELDS, JSON, max_size=8))
def test_any_row_is_read_or_counted(values: dict[str, Any]):
    first, second = payload("coingecko_markets")[:2]
    rows, rejected = gecko.listings([first, second, {**second, "id": "third", **values}])
    assert len(rows) + rejected in {2, 3}  # two, if it took another's id
    content = payload("coinmarketcap_listings")
    row = {**content["data"][1], "id": 7, **values}
    rows, rejected = cap.listings({"data": [*content["data"], row]})
    assert len(rows) + rejected in {2, 3}
    for listing in rows:
        for value in msgspec.structs.asdict(listing).values():
            if isinstance(value, Decimal):
                assert Decimal128(value).to_decimal() == value


@given(st.from_regex(r"-?(0|[1-9][0-9]{0,12})(\.[0-9]{1,18})?(e-?1?[0-9])?", fullmatch=True))
def test_every_number_is_what_its_text_says(text: str):
    value = figures.number(decode(text))
    expected = Decimal(text)
    if value is None:
        assert expected
        assert not Decimal("1e-30") <= abs(expected) <= Decimal("1e30")
    else:
        assert value == expected
        assert Decimal128(value).to_decimal() == expected


@given(JSON)
def test_reading_a_value_never_fails(value: Any):
    for read in (figures.number, figures.positive, figures.amount, figures.rank, figures.moment, figures.moment_of_ms):
        read(value)
    for read in (figures.name_of_id, figures.address, figures.slugs):
        read(value)
    shown = figures.text(value, 5)
    assert shown is None or (0 < len(shown) <= 5 and shown.isprintable())


def test_more_than_34_digits_are_rounded_to_what_can_be_stored():
    assert figures.number(decode("0.12345678901234567890123456789012345678")) == Decimal(
        "0.1234567890123456789012345678901235"
    )
