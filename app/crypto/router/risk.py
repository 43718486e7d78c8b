"""Risk of cryptocurrencies."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from app.core.deps import PublicLimit, provided
from app.core.errors import FieldError, InvalidInputError
from app.core.problem import problem_responses
from app.crypto.risk_service import CoinRisks
from app.crypto.router.common import TAGS, SymbolPath
from app.crypto.router.history import SlugQuery
from app.crypto.schemas.risk import MAX_COINS, CoinRisk, CorrelationMatrix, DaysIn

router = APIRouter(prefix="/api/v1/cryptocurrencies", tags=TAGS, dependencies=[PublicLimit])

Risks = Annotated[CoinRisks, provided(CoinRisks)]
DaysQuery = Annotated[DaysIn, Query(description="How many days back; as far as history is kept.")]
USUAL_DAYS = 365


def _names(field: str, text: str | None, longest: int) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(","))) if text else []
    if not all(name and len(name) <= longest and name.isprintable() for name in names):
        problem = FieldError(("query", field), "This is not a list of names separated by commas", "names_invalid")
        raise InvalidInputError(f"query.{field}: This is not a list of names separated by commas.", [problem])
    return names


async def _symbols(
    symbols: Annotated[
        str | None,
        Query(
            max_length=65 * MAX_COINS, description="Separated by commas; case does not matter.", examples=["BTC,ETH"]
        ),
    ] = None,
) -> list[str]:
    return _names("symbols", symbols, 64)


async def _slugs(
    slugs: Annotated[
        str | None,
        Query(max_length=201 * MAX_COINS, description="Further coins, by slug.", examples=[None]),
    ] = None,
) -> list[str]:
    return _names("slugs", slugs, 200)


@router.get("/correlation", summary="Correlation of cryptocurrencies", responses=problem_responses())
async def correlation(
    risks: Risks,
    symbols: Annotated[list[str], Depends(_symbols)],
    slugs: Annotated[list[str], Depends(_slugs)],
    days: DaysQuery = USUAL_DAYS,
) -> CorrelationMatrix:
    """Of the daily returns of 2 to 20 coins, on the days that all of them have one. Too little data gives null."""
    return await risks.correlation(symbols, slugs, days)


@router.get("/{symbol}/risk", summary="Risk of a cryptocurrency", responses=problem_responses(404))
async def risk(symbol: SymbolPath, risks: Risks, days: DaysQuery = USUAL_DAYS, slug: SlugQuery = None) -> CoinRisk:
    """Volatility, drawdown, value at risk and expected shortfall from stored daily prices.

    Each figure says its formula, its source and how many data it is made of; where they are too few it is null, with
    the reason.
    """
    return await risks.of(symbol, slug, days)
