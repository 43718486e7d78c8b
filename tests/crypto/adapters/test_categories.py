"""Categories cost a call each, once a day, in all processes."""

import asyncio

import pytest

from app.crypto.categories import Categories
from app.crypto.errors import ProviderError
from app.crypto.ports import Category
from tests.crypto.adapters.kit import Both


def categories_of(both: Both) -> Categories:
    return Categories(both.db, both.clock, both.sources())


async def test_names_and_members_are_asked_once_a_day_in_all_processes(both: Both):
    one, other = categories_of(both), categories_of(both)
    answers = await asyncio.gather(*(one.members("meme-token") for _ in range(10)))
    assert all(answer == ["dogecoin", "dust-inu"] for answer in answers)
    assert Category("layer-1", "Layer 1 (L1)") in await other.names()
    assert await other.members("meme-token") == ["dogecoin", "dust-inu"]
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
    assert await categories.members("layer-1") == ["ethereum", "binancecoin", "solana"]
    both.clock.move(days=2)
    both.gecko.fail("unavailable", times=2)
    assert await categories.members("layer-1") == ["ethereum", "binancecoin", "solana"]
    both.gecko.heal()
    both.gecko.fail("unavailable")
    with pytest.raises(ProviderError):
        await categories.members("stablecoins")
