"""`python -m tests.simulators.brokers.upstox`: a local Upstox; prints the settings that a service needs."""

from tests.simulators.brokers.program import run
from tests.simulators.brokers.upstox import UpstoxSimulator

run(UpstoxSimulator)
