"""Faults that a person orders while the simulator runs: by its options, or over HTTP.

    curl localhost:PORT/_simulator/faults                                    what there is
    curl localhost:PORT/_simulator/faults -d '{"fault": "half-open"}'
    curl -X DELETE localhost:PORT/_simulator/faults                          all is well again

PORT is that of the REST interface. Whatever does not happen at once lasts until it is ended.
"""

import argparse
import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from tests.simulators.angel_one.feed import FeedFaults
from tests.simulators.angel_one.http import Answer, HttpFault, HttpRequest, rate_limited, too_many
from tests.simulators.angel_one.rest import CANDLES, LOGIN, PROFILE, REFRESH

if TYPE_CHECKING:
    from tests.simulators.angel_one.simulator import AngelOneSimulator

CONTROL: Final = "/_simulator/faults"
SLOW_SECONDS: Final = 2.0
_MANY: Final = 10_000


def _drop(simulator: "AngelOneSimulator") -> None:
    """Connections of the feed break; clients may connect again."""
    for connection in tuple(simulator.feed.connections):
        connection.abort()


def _half_open(simulator: "AngelOneSimulator") -> None:
    """Connections of the feed stay, and nothing comes through them any more."""
    for connection in simulator.feed.connections:
        connection.go_silent()


def _expired(simulator: "AngelOneSimulator") -> None:
    """All tokens die, as at night, and the feed with them: a new login is needed."""
    simulator.sessions.expire(refresh_too=True)
    _drop(simulator)


def _of_frames(meaning: str, **faults: float) -> Callable[["AngelOneSimulator"], None]:
    def order(simulator: "AngelOneSimulator") -> None:
        simulator.feed.faults = replace(simulator.feed.faults, **faults)  # type: ignore[arg-type]  # by their names

    order.__doc__ = meaning
    return order


def _refusing(status: int, fault: HttpFault) -> Callable[["AngelOneSimulator"], None]:
    def order(simulator: "AngelOneSimulator") -> None:
        simulator.feed.faults.refuse = status
        for path in (LOGIN, REFRESH, PROFILE, CANDLES):
            simulator.rest.fail(path, fault, times=_MANY)
        _drop(simulator)

    order.__doc__ = f"Connections of the feed break, and everything is answered by {status}."
    return order


_INVALID: Final = {"success": False, "message": "Invalid Token", "errorCode": "AG8001", "data": ""}
FAULTS: Final[dict[str, Callable[["AngelOneSimulator"], None]]] = {
    "drop": _drop,
    "half-open": _half_open,
    "garbage": _of_frames("Half of the frames follow one that is none.", malformed=0.5),
    "wrong-size": _of_frames("A third of the frames lose their end.", truncated=0.33),
    "duplicates": _of_frames("Each frame comes three times.", duplicates=2),
    "out-of-order": _of_frames("Frames come in pairs, the later one first.", out_of_order=True),
    "slow": _of_frames(f"Each frame comes {SLOW_SECONDS:g} seconds late.", delay=SLOW_SECONDS),
    "401": _refusing(401, HttpFault(Answer.of(_INVALID, 401))),
    "403": _refusing(403, rate_limited()),
    "429": _refusing(429, too_many(5)),
    "expired": _expired,
}
"""What can be ordered, by name."""


def heal(simulator: "AngelOneSimulator") -> None:
    """End what was ordered; half-open connections break."""
    simulator.feed.faults = FeedFaults()
    simulator.rest.heal()
    for connection in tuple(simulator.feed.connections):
        if connection.silent:
            connection.abort()


def control(simulator: "AngelOneSimulator", request: HttpRequest) -> Answer:
    """The answer to an order over HTTP."""
    if request.method == "DELETE":
        heal(simulator)
        return Answer.of({"fault": None})
    if request.method == "GET":
        return Answer.of({name: order.__doc__ for name, order in FAULTS.items()})
    asked = request.json()
    name = asked.get("fault") if isinstance(asked, dict) else None
    if not isinstance(name, str) or name not in FAULTS:
        return Answer.of({"message": f"There is no such fault. There are {', '.join(FAULTS)}."}, 422)
    FAULTS[name](simulator)
    return Answer.of({"fault": name})


def add_options(parser: argparse.ArgumentParser) -> None:
    """`--fault`, `--after` and `--for`."""
    parser.add_argument("--fault", choices=list(FAULTS), help="what goes wrong with the feed and its provider")
    parser.add_argument("--after", type=float, default=30.0, help="seconds until it does (default: 30)")
    parser.add_argument("--for", dest="lasting", type=float, help="seconds until it ends (default: never)")


async def carry_out(simulator: "AngelOneSimulator", options: argparse.Namespace) -> None:
    """Do what these options say, at their times."""
    if options.fault is None:
        return
    await asyncio.sleep(options.after)
    FAULTS[options.fault](simulator)
    if options.lasting is not None:
        await asyncio.sleep(options.lasting)
        heal(simulator)
