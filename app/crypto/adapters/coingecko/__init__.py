"""CoinGecko, the first choice: listings, a coin's history, categories."""

from app.crypto.adapters.coingecko.client import CoinGecko

__all__ = ["CoinGecko"]
