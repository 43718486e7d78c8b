"""`python -m tests.simulators.yahoo`: the simulator until Ctrl-C; it prints the settings that a service needs."""

import argparse
import asyncio
import sys
from contextlib import suppress

from tests.simulators.yahoo.simulator import YahooSimulator


async def _serve(port: int) -> None:
    async with YahooSimulator(port=port) as simulator:
        lines = (f"{name}={value}" for name, value in simulator.environment().items())
        sys.stdout.write("\n".join([*lines, ""]))
        sys.stdout.flush()
        await asyncio.Event().wait()


parser = argparse.ArgumentParser(prog="python -m tests.simulators.yahoo", description="A local Yahoo.")
parser.add_argument("--port", type=int, default=0, help="default: any free one")
with suppress(KeyboardInterrupt):
    asyncio.run(_serve(parser.parse_args().port))
