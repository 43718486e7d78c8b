"""Orders and pages, for any listing."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import InvalidInputError
from app.crypto.encoding import Coin
from app.crypto.generations import Generation, Sort
from app.crypto.ports import CoinListing, Provider
from app.crypto.selection import ListCursor, Part, Selection, render
from tests.crypto.listing.kit import NOON

few = st.one_of(st.none(), st.integers(-2, 2).map(Decimal))
ranks = st.one_of(st.none(), st.integers(1, 4))


def generation_of(rows: list[dict[str, Any]]) -> Generation:
    coins = []
    for number, figures in enumerate(rows):
        slug = f"c{number}"
        listing = CoinListing(provider=Provider.COINGECKO, provider_id=slug, slug=slug, symbol=slug.upper(), **figures)
        times: dict[str, Any] = dict.fromkeys(("first_seen", "synced_at", "reached_at"), NOON)
        coins.append(Coin(slug=slug, ids={"coingecko": slug}, listing=listing, reach=1, **times))
    return Generation(1, NOON, Provider.COINGECKO, coins)


generations = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["a", "A", "b"]), "rank": ranks, "price": few, "market_cap": few, "volume_24h": few}
    ),
    max_size=25,
).map(generation_of)


@given(generations, st.sampled_from(list(Sort)), st.booleans())
def test_orders_are_total_stable_and_end_with_what_is_not_known(generation: Generation, sort: Sort, descending: bool):
    order = generation.order(sort, descending=descending)

    assert sorted(order) == list(range(len(generation.coins)))
    coins = [generation.coins[place] for place in order]
    values = [coin.listing.name.casefold() if sort is Sort.NAME else getattr(coin.listing, sort) for coin in coins]
    known = [value for value in values if value is not None]
    assert values == known + [None] * (len(values) - len(known))
    assert known == sorted(known, reverse=descending)
    if sort is not Sort.NAME:
        for one, other, value, following in zip(coins, coins[1:], values, values[1:], strict=False):
            if value == following:
                assert tie(one) < tie(other)


def tie(coin: Coin) -> tuple[bool, int, str]:
    return coin.listing.rank is None, coin.listing.rank or 0, coin.slug


@given(generations, st.sampled_from(list(Sort)), st.booleans(), few, st.integers(1, 7), st.integers(0, 5))
def test_pages_put_together_are_the_list(
    generation: Generation, sort: Sort, descending: bool, least: Decimal | None, limit: int, offset: int
):
    selection = Selection(sort=sort, descending=descending, min_price=least)
    whole = selection.places(generation)
    assert all(least is None or generation.coins[place].listing.price >= least for place in whole)

    pages, part = [], Part(limit, offset)
    while True:
        page = render(generation, selection, part)
        pages.append(page.body.removeprefix(b"[").removesuffix(b"]"))
        if page.next is None:
            break
        part = Part(limit, after=ListCursor.decode(page.next.encode()))
        assert page.next.selection == selection.digest()
    assert b",".join(filter(None, pages)) == b",".join(generation.bodies[place] for place in whole[offset:])


@given(st.integers(0, 2**53), st.integers(0, 10**6), st.binary(min_size=8, max_size=8))
def test_cursors_come_back_as_they_went(number: int, position: int, digest: bytes):
    cursor = ListCursor(number, position, digest)
    assert ListCursor.decode(cursor.encode()) == cursor


@given(st.text(max_size=40))
def test_what_is_no_cursor_is_refused(text: str):
    try:
        cursor = ListCursor.decode(text)
    except InvalidInputError as error:
        assert error.errors[0].loc == ("query", "cursor")
    else:
        assert cursor.encode() == text


def test_selections_are_told_apart_the_same_way_in_every_process():
    known = Selection(symbols=frozenset({"B", "A", "C"}), min_price=Decimal("1.5")).digest()
    assert known == Selection(symbols=frozenset({"C", "A", "B"}), min_price=Decimal("1.5")).digest()
    assert known.hex() == "7331e60d80881ff9"
    for other in (
        Selection(),
        Selection(prefix="a"),
        Selection(category="a"),
        Selection(sign=1),
        Selection(sort=Sort.NAME),
    ):
        assert other.digest() != known
    assert len({Selection(prefix="a").digest(), Selection(category="a").digest(), Selection().digest()}) == 3


@pytest.mark.parametrize("size", [0, 1])
def test_an_empty_list_is_a_list(size: int):
    generation = generation_of([{"name": "a", "price": Decimal(1)}] * size)
    page = render(generation, Selection(min_price=Decimal(2)), Part(5))
    assert (page.body, page.next) == (b"[]", None)
