"""A simulator of Zerodha's Kite Connect, for the tests and for people without an account."""

from tests.simulators.brokers.kite.simulator import KiteAccount, KiteSimulator

__all__ = ["KiteAccount", "KiteSimulator"]
