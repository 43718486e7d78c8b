"""A simulator of Angel One's SmartAPI, for the tests and for people without an account."""

from tests.simulators.angel_one.account import Account
from tests.simulators.angel_one.feed import FeedConnection, FeedFaults
from tests.simulators.angel_one.market import EQUITIES, INDICES, Listing, Market
from tests.simulators.angel_one.simulator import AngelOneSimulator

__all__ = [
    "EQUITIES",
    "INDICES",
    "Account",
    "AngelOneSimulator",
    "FeedConnection",
    "FeedFaults",
    "Listing",
    "Market",
]
