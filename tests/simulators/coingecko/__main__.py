"""`python -m tests.simulators.coingecko`: the simulator until Ctrl-C; it prints the settings that a service needs."""

from tests.simulators.coingecko.simulator import CoinGeckoSimulator
from tests.simulators.vendor_program import run

run(CoinGeckoSimulator)
