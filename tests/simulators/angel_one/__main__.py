"""`python -m tests.simulators.angel_one`: the simulator until Ctrl-C; it prints the settings that a service needs.

What goes wrong on demand: `--fault half-open --after 60 --for 30`, or over HTTP, see `faults`.
"""

import argparse
import asyncio
import sys
from contextlib import suppress

from tests.simulators.angel_one.faults import add_options, carry_out
from tests.simulators.angel_one.simulator import AngelOneSimulator


async def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulators.angel_one", description="A local Angel One.")
    parser.add_argument("--rest-port", type=int, default=0, help="default: any free one")
    parser.add_argument("--feed-port", type=int, default=0, help="default: any free one")
    parser.add_argument("--every", type=float, default=0.25, help="seconds between ticks of an index")
    add_options(parser)
    options = parser.parse_args()
    ports = {"rest_port": options.rest_port, "feed_port": options.feed_port}
    async with AngelOneSimulator(**ports, instrument_rows=500) as simulator:
        lines = (f"{name}={value}" for name, value in simulator.environment().items())
        sys.stdout.write("\n".join([*lines, ""]))
        sys.stdout.flush()
        await asyncio.gather(simulator.stream(every=options.every), carry_out(simulator, options))


with suppress(KeyboardInterrupt):
    asyncio.run(main())
