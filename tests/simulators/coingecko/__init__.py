"""A simulator of CoinGecko, for the tests and for people without a network."""

from tests.simulators.coingecko.simulator import CoinGeckoSimulator

__all__ = ["CoinGeckoSimulator"]
