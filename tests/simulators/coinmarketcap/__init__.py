"""A simulator of CoinMarketCap, for the tests and for people without a key."""

from tests.simulators.coinmarketcap.simulator import CoinMarketCapSimulator

__all__ = ["CoinMarketCapSimulator"]
