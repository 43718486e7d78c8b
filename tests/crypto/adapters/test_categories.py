"""Categories cost a call each, once a day, in all processes."""

import asyncio
from datetime import timedelta

import pytest

from app.crypto.categories import Categories
from app.crypto.errors import BudgetUsedError, ProviderError
from app.crypto.ports import Category, CategoryMembers
from tests.crypto.adapters.kit import NOON, Both


def categories_of(both: Both) -> Categories:
    return Categories(both.db, both.clock, both.sources())


async def test_names_and_members_are_asked_once_a_day_in_all_processes(both: Both):
    one, other = categories_of(both), categories_of(both)
    answers = await asyncio.gather(*(one.members("meme-token") for _ in range(10)))
    assert set(map(str, answers)) == {str(CategoryMembers(["dogecoin", "dust-inu"], both.clock.now()))}
    assert Category("layer-1", "Layer 1 (L1)") in await other.names()
    assert await other.members("meme-token") == answers[0]
    assert both.gecko.total == 2
    assert await other.members("no-such-thing") is None
    both.clock.move(hours=23, minutes=59)
    assert await categories_of(both).members("meme-token")
    assert both.gecko.total == 2
    both.clock.move(minutes=1)
    assert await other.members("meme-token")
    assert both.gecko.total == 4


async def test_yesterdays_are_better_than_none(both: Both):
    categories = categories_of(both)
    kept = CategoryMembers(["ethereum", "binancecoin", "solana"], both.clock.now())
    assert await categories.members("layer-1") == kept
    both.clock.move(days=2)
    both.gecko.fail("unavailable", times=2)
    assert await categories.members("layer-1") == kept
    both.gecko.heal()
    both.gecko.fail("unavailable")
    with pytest.raises(ProviderError):
        await categories.members("stablecoins")


async def test_what_anybody_may_ask_for_takes_few_calls_a_day(both: Both):
    settings = {"coingecko_category_calls_per_day": 3}
    sources, others = both.sources(**settings), both.sources(**settings)
    one, other = Categories(both.db, both.clock, sources), Categories(both.db, both.clock, others)
    first = await one.members("meme-token")  # and the names: two calls
    assert first is not None
    assert await other.members("layer-1")
    with pytest.raises(BudgetUsedError) as raised:
        await one.members("stablecoins")
    assert (raised.value.code, both.gecko.total) == ("categories of the day", 3)
    until = NOON.replace(hour=0, minute=0) + timedelta(days=1) - NOON
    assert raised.value.retry_after == until.total_seconds()
    # Everybody else goes on: the sync on request, and older history.
    await sources.fetch(5, on_demand=True)
    assert await others.history("dogecoin", 30)

    both.clock.move(days=1)
    assert await other.members("stablecoins")
    assert await other.members("layer-1")
    assert await other.members("meme-token") == first, "yesterday's, and it says so"
    assert both.gecko.total == 8
