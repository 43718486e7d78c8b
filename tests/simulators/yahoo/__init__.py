"""A simulator of Yahoo's finance service, for the tests and for people without a network."""

from tests.simulators.yahoo.market import YahooMarket
from tests.simulators.yahoo.simulator import YahooSimulator

__all__ = ["YahooMarket", "YahooSimulator"]
