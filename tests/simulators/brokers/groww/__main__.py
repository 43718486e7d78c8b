"""`python -m tests.simulators.brokers.groww`: a local Groww; prints the settings that a service needs."""

from tests.simulators.brokers.groww import GrowwSimulator
from tests.simulators.brokers.program import run

run(GrowwSimulator)
