"""A local Groww."""

from tests.simulators.brokers.groww.simulator import GrowwSimulator

__all__ = ["GrowwSimulator"]
