"""Cryptocurrencies over HTTP."""

from fastapi import APIRouter

from app.crypto.router.history import router as history
from app.crypto.router.listing import router as listing
from app.crypto.router.portfolio import router as portfolio
from app.crypto.router.risk import router as risk

router = APIRouter()
# The listing last: its `/{symbol}` takes every name.
for _part in (history, risk, listing, portfolio):
    router.include_router(_part)
