"""A simulator of Angel One's SmartAPI for orders; what is not about orders is that of market data."""

from tests.simulators.brokers.smartapi.simulator import SmartApiSimulator

__all__ = ["SmartApiSimulator"]
