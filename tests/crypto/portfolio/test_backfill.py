"""Older history from a provider: once a coin, a few at a time, and never in the way of the syncs."""

from app.crypto.errors import BudgetUsedError, RequestRefusedError
from app.crypto.portfolio_models import BackfillDocument
from app.crypto.ports import Provider
from tests.crypto.listing.kit import SomeRun
from tests.crypto.portfolio.kit import COINS, Desk, daily, price_of, walk


async def states() -> dict[str, str]:
    return {row["_id"]: row["state"] for row in await BackfillDocument.get_pymongo_collection().find({}).to_list()}


async def test_each_wanted_coin_is_filled_in_once(desk: Desk) -> None:
    desk.listing.put(*(price_of(f"coin-{number}", f"C{number}", "5") for number in range(7)))
    desk.archive.points = {f"gecko-coin-{number}": daily(walk(100, number)) for number in range(7)}
    assert (await desk.get(f"{COINS}/C0/risk"))["volatility"]["value"] is None
    first = await desk.backfill.work(SomeRun())
    assert first == {"coins": 5, "points": 500, "waiting": None}
    assert (await desk.get(f"{COINS}/C0/risk"))["volatility"]["value"] is not None, "at once, not minutes later"
    assert await desk.backfill.work(SomeRun()) == {"coins": 2, "points": 200, "waiting": None}
    assert await desk.backfill.work(SomeRun()) == {"coins": 0, "points": 0, "waiting": None}
    assert sorted(desk.archive.asked) == sorted(desk.archive.points)


async def test_what_cannot_be_asked_now_is_asked_later(desk: Desk) -> None:
    desk.listing.put(price_of("bitcoin", "BTC", "5"), price_of("odd", "ODD", "5"))
    desk.archive.points["gecko-bitcoin"] = daily(walk(50, 1))
    desk.archive.failures = {
        "gecko-bitcoin": BudgetUsedError(Provider.COINGECKO, "month"),
        "gecko-odd": RequestRefusedError(Provider.COINGECKO, "404"),
    }
    await desk.backfill.want("unheard-of")
    result = await desk.backfill.work(SomeRun())
    assert (result["points"], result["waiting"]) == (0, "call budget used up (month)")
    assert (await states())["bitcoin"] == "wanted"
    del desk.archive.failures["gecko-bitcoin"]
    await desk.backfill.work(SomeRun())
    assert await states() == {"bitcoin": "filled", "odd": "refused", "unheard-of": "unknown"}
