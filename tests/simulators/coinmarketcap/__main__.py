"""`python -m tests.simulators.coinmarketcap`: the simulator until Ctrl-C; it prints the settings of a service."""

from tests.simulators.coinmarketcap.simulator import KEY, CoinMarketCapSimulator
from tests.simulators.vendor_program import run

run(CoinMarketCapSimulator, key=KEY)
