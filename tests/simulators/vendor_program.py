"""The simulators of listing providers as programs."""

import argparse
import asyncio
import sys
from contextlib import suppress

from tests.simulators.coins import Coins
from tests.simulators.vendor import VendorSimulator


def run(kind: type[VendorSimulator], key: str | None = None) -> None:
    """Serve until Ctrl-C, and print the settings that a service needs."""
    name = f"python -m {kind.__module__.rpartition('.')[0]}"
    parser = argparse.ArgumentParser(prog=name, description=f"A local {kind.__name__.removesuffix('Simulator')}.")
    parser.add_argument("--port", type=int, default=0, help="default: any free one")
    parser.add_argument("--coins", type=int, default=1000, help="how many there are")
    parser.add_argument("--key", default=key, help="the only API key that holds; default: %(default)s")
    parser.add_argument("--per-minute", type=int, help="the plan's limit; default: none")
    parser.add_argument("--per-month", type=int, help="the plan's limit; default: none")
    options = parser.parse_args()
    simulator = kind(
        Coins(options.coins),
        key=options.key,
        per_minute=options.per_minute,
        per_month=options.per_month,
        port=options.port,
    )
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(simulator))


async def _serve(simulator: VendorSimulator) -> None:
    async with simulator:
        lines = (f"{name}={value}" for name, value in simulator.environment().items())
        sys.stdout.write("\n".join([*lines, ""]))
        sys.stdout.flush()
        await asyncio.Event().wait()
