"""Yahoo, asked by the library `yfinance`, which runs in a process of its own when it is first needed."""

from app.quotes.adapters.yahoo.client import Yahoo
from app.quotes.adapters.yahoo.process import YahooProcess

__all__ = ["Yahoo", "YahooProcess"]
