"""Market data over HTTP."""

from app.market_data.router.candles import router as candles
from app.market_data.router.market import router as market
from app.market_data.router.ticks import router as ticks
from app.market_data.router.watchlist import router as watchlist

routers = (ticks, candles, market, watchlist)
