"""The simulated brokers as programs: they print the settings that a service needs, and what signs in to them."""

import argparse
import asyncio
import sys
from contextlib import suppress

from tests.simulators.brokers.server import BrokerSimulator


def run(kind: type[BrokerSimulator]) -> None:
    """Serve until Ctrl-C."""
    name = f"python -m {kind.__module__.rpartition('.')[0]}"
    parser = argparse.ArgumentParser(prog=name, description=f"A local {kind.__name__.removesuffix('Simulator')}.")
    parser.add_argument("--port", type=int, default=0, help="default: any free one")
    parser.add_argument("--unlimited", action="store_true", help="without the vendor's limits of rate")
    options = parser.parse_args()
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(kind(port=options.port, limited=not options.unlimited)))


async def _serve(simulator: BrokerSimulator) -> None:
    async with simulator:
        settings = [f"{name}={value}" for name, value in simulator.environment().items()]
        people = [f"# {name}: {value}" for name, value in simulator.credentials().items()]
        sys.stdout.write("\n".join([*settings, *people, ""]))
        sys.stdout.flush()
        await asyncio.Event().wait()
