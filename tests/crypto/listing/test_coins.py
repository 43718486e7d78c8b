"""Which coin a row is about, and what a sync makes of a listing."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from bson import decode, encode
from hypothesis import given
from hypothesis import strategies as st

from app.core.bson_codec import exact_rows
from app.core.errors import DomainError, UnavailableError
from app.crypto.coins import STAYS, CoinFinder, merge
from app.crypto.encoding import Coin, coin_of, encoded, row_of, storable, wire_of
from app.crypto.generations import GenerationStore, OvertakenError
from app.crypto.models import CoinDocument, GenerationDocument
from app.crypto.ports import CoinListing, Provider
from app.crypto.sync import CryptoSync
from tests.crypto.listing.conftest import Database
from tests.crypto.listing.kit import NOON, Room, RowSource, SetClock, SomeRun, cmc, gecko, ranked


class NobodyKnown:
    """A register without coins."""

    async def by_id(self, provider: Provider, provider_id: str) -> Coin | None:
        assert provider
        assert provider_id

    async def by_symbol(self, symbol: str) -> list[Coin]:
        assert symbol
        return []

    async def by_slug(self, slug: str) -> Coin | None:
        assert slug


async def listing_of(
    *syncs: Sequence[CoinListing], limit: int = 100, step: timedelta = timedelta(minutes=5)
) -> dict[str, Coin]:
    """The listing after these syncs, by slug."""
    listed: dict[str, Coin] = {}
    for number, rows in enumerate(syncs):
        found = await CoinFinder(listed.values(), NobodyKnown()).find(rows)
        merged = merge(listed, found, limit, NOON + number * step)
        listed = {coin.slug: coin for coin in merged.coins}
    return listed


# ── which coin ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("first", "second", "slugs"),
    [
        # the provider's id, whatever the coin is called now
        (gecko("matic", "MATIC", "Polygon"), gecko("matic", "POL", "POL (ex-MATIC)"), {"matic"}),
        # another provider: symbol and slug
        (gecko("bitcoin", "BTC", "Bitcoin"), cmc(1, "bitcoin", "BTC", "Bitcoin!"), {"bitcoin"}),
        # symbol and exact name
        (gecko("binancecoin", "BNB", "BNB"), cmc(1839, "bnb", "BNB", "BNB"), {"binancecoin"}),
        (cmc(1839, "bnb", "BNB", "BNB"), gecko("binancecoin", "BNB", "BNB"), {"bnb"}),
        # a symbol alone is not enough, nor is a slug
        (gecko("luna-one", "LUNA", "Luna One"), cmc(7, "luna-two", "LUNA", "Luna Two"), {"luna-one", "luna-two"}),
        (gecko("golem", "GNT", "Golem"), cmc(7, "golem", "GLM", "Golem"), {"golem", "golem-7"}),
        # the same provider means another coin by another id, however alike
        (cmc(1, "twin", "TWIN", "Twin"), cmc(2, "twin", "TWIN", "Twin"), {"twin", "twin-2"}),
        (gecko("twin", "TWIN", "Twin"), gecko("twin-coin", "TWIN", "Twin"), {"twin", "twin-coin"}),
    ],
)
async def test_a_row_finds_its_coin(first: CoinListing, second: CoinListing, slugs: set[str]):
    found = await CoinFinder((await listing_of([first])).values(), NobodyKnown()).find([second])

    assert {found[0].slug} | {first.slug} == slugs


async def test_both_providers_rows_are_one_coin():
    listed = await listing_of(
        [gecko("bitcoin", "BTC", ath="100", image="https://x.test/a.png", price="90", max_supply="21")],
        [cmc(1, "bitcoin", "BTC", price="91", categories=("pow",))],
        [cmc(1, "bitcoin", "BTC", price="92", categories=("pow", "new"))],
    )

    coin = listed["bitcoin"]
    assert coin.ids == {"coingecko": "bitcoin", "coinmarketcap": "1"}
    assert coin.listing.provider is Provider.COINMARKETCAP
    assert (coin.listing.price, coin.listing.ath, coin.listing.image) == (92, 100, "https://x.test/a.png")
    assert coin.listing.max_supply is None, "a figure that this provider could have given"
    assert (coin.first_seen, coin.synced_at) == (NOON, NOON + timedelta(minutes=10))
    back = (await listing_of([cmc(1, "bitcoin", "BTC", categories=("pow",))], [gecko("bitcoin", "BTC")]))["bitcoin"]
    assert (back.listing.categories, back.listing.provider) == (("pow",), Provider.COINGECKO)


@pytest.mark.parametrize(("price", "known"), [("99", True), ("101", False), ("4", False)])
async def test_extremes_of_the_other_provider_are_dropped_when_the_price_is_beyond_them(price: str, known: bool):
    listed = await listing_of(
        [gecko("x", "X", price="50", ath="100", ath_date=NOON, atl="5", atl_date=NOON)], [cmc(1, "x", "X", price=price)]
    )

    listing = listed["x"].listing
    assert (listing.ath is not None and listing.atl is not None) == known
    assert (listing.ath is None) == (listing.ath_date is None)


async def test_a_name_does_not_claim_a_coin_whose_id_comes_later():
    before = [gecko("alpha", "A", "Same"), gecko("beta", "A", "Beta")]
    both = [*before, cmc(1, "alpha", "A", "Same")]
    listed = await listing_of(before, both[2:], [cmc(2, "new", "A", "Same"), cmc(1, "alpha", "A", "Beta")])

    assert listed["alpha"].listing.provider_id == "1"
    assert listed["new"].listing.provider_id == "2"


async def test_a_repeated_row_is_one_coin():
    assert len(await listing_of([gecko("x", "X", price="1"), gecko("x", "X", price="2"), gecko("y", "Y")])) == 2


# ── what a sync changes ──────────────────────────────────────────────────────────────────────────────────────────────


TEN = ranked([gecko(f"c{number}") for number in range(10)])


async def test_a_narrow_sync_keeps_what_it_did_not_look_at():
    listed = await listing_of(TEN, limit=10)
    found = await CoinFinder(listed.values(), NobodyKnown()).find(ranked([TEN[1], TEN[0], TEN[5]]))
    merged = merge(listed, found, 3, NOON + timedelta(minutes=5))

    assert not merged.changes.left
    ranks = {coin.slug: coin.listing.rank for coin in merged.coins}
    assert ranks == {"c0": 2, "c1": 1, "c2": 4, "c3": 4, "c4": 5, "c5": 3, "c6": 7, "c7": 8, "c8": 9, "c9": 10}
    assert {coin.slug for coin in merged.coins if coin.synced_at > NOON} == {"c0", "c1", "c5"}


async def test_what_a_sync_as_wide_does_not_list_has_left():
    listed = await listing_of(TEN, ranked(TEN[:3]), limit=10)
    assert set(listed) == {f"c{number}" for number in range(10)}, "3 of 10 were answered: not what was asked for"
    assert set(await listing_of(TEN, ranked(TEN[:6]), limit=10)) == {f"c{number}" for number in range(6)}


async def test_what_only_wider_syncs_list_stays_a_day():
    listed = await listing_of(TEN, limit=10)
    for passed, left in ((STAYS - timedelta(minutes=1), False), (STAYS, True)):
        found = await CoinFinder(listed.values(), NobodyKnown()).find(ranked(TEN[:3]))
        assert bool(merge(listed, found, 3, NOON + passed).changes.left) == left


async def test_changes_are_counted_and_named():
    listed = await listing_of([gecko("a", price="1"), gecko("b", price="1"), gecko("c", price="1")])
    rows = [
        gecko("a", price="1.0", updated_at=NOON),
        gecko("b", price="2"),
        gecko("c", name="Sea", price="1"),
        gecko("d"),
    ]
    found = await CoinFinder(listed.values(), NobodyKnown()).find(rows)
    changes = merge(listed, found, 100, NOON).changes

    assert (changes.changed, changes.unchanged) == (1, 2)
    assert [coin["slug"] for coin in changes.added] == ["d"]
    assert [(coin["name"], coin["was"]["name"]) for coin in changes.renamed] == [("Sea", "C")]
    assert not changes.left


# ── exact numbers ────────────────────────────────────────────────────────────────────────────────────────────────────

numbers = st.one_of(
    st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**30), max_value=10**30),
    st.sampled_from([Decimal("1e-12"), Decimal("1e15"), Decimal("0E-8"), Decimal("123456789.000000001"), Decimal(0)]),
    st.builds(
        lambda digits, exponent: Decimal(digits).scaleb(exponent), st.integers(0, 10**34 - 1), st.integers(-60, 30)
    ),
)


@given(st.lists(numbers, min_size=3, max_size=3))
async def test_amounts_survive_database_and_json(listing_server: Database, amounts: list[Decimal]):
    assert listing_server.name
    price, supply, cap = amounts
    row = storable(
        CoinListing(provider=Provider.COINGECKO, provider_id="x", slug="x", symbol="X", name="X", price=price)
    )
    row = msgspec.structs.replace(row, total_supply=supply, market_cap=cap)
    coin = Coin(
        slug="x",
        ids={"coingecko": "x"},
        listing=storable(row),
        first_seen=NOON,
        synced_at=NOON,
        reach=1,
        reached_at=NOON,
    )
    options = exact_rows(CoinDocument.get_pymongo_collection()).codec_options
    read = coin_of(decode(encode(row_of(coin), codec_options=options), codec_options=options))
    assert read == coin
    told = msgspec.json.decode(encoded(wire_of(read)), type=dict[str, msgspec.Raw])
    for name, amount in (("price", price), ("total_supply", supply), ("market_cap", cap)):
        kept = getattr(read.listing, name)
        assert kept is not None
        assert Decimal(bytes(told[name]).decode()) == kept
        if len(amount.as_tuple().digits) <= 34:
            assert kept == amount


@pytest.mark.parametrize("value", ["NaN", "sNaN", "Infinity", "-Infinity", "1e5000", "1e-5000"])
async def test_what_is_no_number_is_not_known(value: str):
    assert (await listing_of([gecko("x", price=value, market_cap="7")]))["x"].listing.price is None


# ── in the database ──────────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_register_knows_coins_that_left_and_finds_them_again(room: Room):
    await room.synced([gecko("a", "A", "Ay"), gecko("b", "B", "Bee", ath="9")])
    await room.synced([gecko("a", "A", "Ay")])
    await room.synced([cmc(1, "a", "A", "Ay"), cmc(2, "bee", "B", "Bee", price="1")])

    coin = await room.register.by_slug("b")
    assert coin is not None
    assert (coin.ids, coin.listing.ath) == ({"coingecko": "b", "coinmarketcap": "2"}, 9)
    assert coin.first_seen == NOON + timedelta(milliseconds=1)
    assert await CoinDocument.get_pymongo_collection().count_documents({}) == 2
    found = await room.register.by_id(Provider.COINMARKETCAP, "2")
    assert found == coin
    document = await CoinDocument.get("b")
    assert document is not None
    assert document.price == Decimal(1)


class WatchedStore(GenerationStore):
    """Counts how often a sync came too late."""

    overtaken = 0

    async def put(self, *arguments: Any) -> int:
        try:
            return await super().put(*arguments)
        except OvertakenError:
            self.overtaken += 1
            raise


async def test_of_syncs_at_once_none_is_lost(room: Room):
    await room.synced(TEN, limit=10)
    store = WatchedStore()
    brought = [[gecko("c0", price="5")], [gecko("new-1"), gecko("new-2")], [gecko("c1", price="7")]]
    syncs = [
        CryptoSync(
            source=RowSource(rows),
            store=store,
            register=room.register,
            history=room.history,
            bus=room.bus,
            clock=SetClock(),
        ).sync(SomeRun(limit=len(rows)))
        for rows in brought
    ]
    results = await asyncio.gather(*syncs)

    assert store.overtaken >= 1
    assert len({result["generation"] for result in results}) == 3
    assert set(await room.slugs()) == {coin.slug for coin in TEN} | {"new-1", "new-2"}
    assert [(await room.get(f"/{slug}"))["price"] for slug in ("c0", "c1")] == [5, 7]
    assert await CoinDocument.get_pymongo_collection().count_documents({}) == 12


async def test_generations_are_kept_an_hour_and_three_at_least(room: Room):
    numbers = []
    for minutes in (0, 90, 90, 90, 20, 20):
        room.clock.forward(timedelta(minutes=minutes))
        numbers.append((await room.synced([gecko("a")]))["generation"])
    kept = [row["_id"] async for row in GenerationDocument.get_pymongo_collection().find({}, {"_id": 1})]

    assert sorted(kept) == numbers[-3:]
    assert numbers == sorted(set(numbers))
    assert await room.store.put(numbers[-1], NOON, Provider.COINGECKO, [], {}) > numbers[-1], "the clock was set back"
    with pytest.raises(OvertakenError):
        await room.store.put(numbers[-1], NOON, Provider.COINGECKO, [], {})


async def test_a_coin_that_somebody_deleted_is_entered_again(room: Room):
    await room.synced([gecko("a"), gecko("b")])
    await CoinDocument.get_pymongo_collection().delete_one({"_id": "a"})
    await room.synced([gecko("a", price="2"), gecko("b", price="2")])

    coins = [await room.register.by_slug(slug) for slug in "ab"]
    assert [coin and coin.listing.price for coin in coins] == [2, 2]


@pytest.mark.parametrize("failure", [UnavailableError("CoinGecko: unreachable (timeout)."), None])
async def test_a_sync_that_brings_nothing_leaves_the_listing_as_it_was(room: Room, failure: DomainError | None):
    await room.synced([gecko("a", "A")])
    room.source.rows, room.source.failure = [], failure

    with pytest.raises(DomainError):
        await room.sync.sync(SomeRun(limit=10))

    assert await room.slugs() == ["a"]


async def test_a_sync_tells_how_far_it_is(room: Room):
    room.source.rows = TEN
    run = SomeRun(limit=20, provider=None)
    result = await room.sync.sync(run)

    assert run.told == [(0, 20), (10, 20), (10, 10)]
    assert (result["rows"], result["changes"], result["provider"]) == (10, 10, "coingecko")
    assert len(msgspec.json.encode(result)) < 1000, "the record of a run holds a few KiB"
