"""Fixtures of the core's tests."""

from tests.core.bus_processes import launch, make_bus, redis_port

__all__ = ["launch", "make_bus", "redis_port"]
