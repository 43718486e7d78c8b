"""Cryptocurrencies over HTTP."""

from app.crypto.router.history import router as history
from app.crypto.router.listing import router as listing
from app.crypto.router.portfolio import router as portfolio
from app.crypto.router.risk import router as risk

# The listing last: its `/{symbol}` takes every name.
routers = (history, risk, listing, portfolio)
