"""CoinMarketCap, the second choice: listings with tags. It needs a key."""

from app.crypto.adapters.coinmarketcap.client import CoinMarketCap

__all__ = ["CoinMarketCap"]
