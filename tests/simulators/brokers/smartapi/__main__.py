"""`python -m tests.simulators.brokers.smartapi`: the simulator until Ctrl-C."""

from tests.simulators.brokers.program import run
from tests.simulators.brokers.smartapi.simulator import SmartApiSimulator

run(SmartApiSimulator)
