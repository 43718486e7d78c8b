"""`python -m tests.simulators.brokers.kite`: the simulator until Ctrl-C."""

from tests.simulators.brokers.kite.simulator import KiteSimulator
from tests.simulators.brokers.program import run

run(KiteSimulator)
