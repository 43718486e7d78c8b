"""A local Upstox."""

from tests.simulators.brokers.upstox.simulator import UpstoxSimulator

__all__ = ["UpstoxSimulator"]
