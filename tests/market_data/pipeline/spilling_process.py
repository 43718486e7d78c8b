"""A process that spills numbered rows until it is killed, or its disk is full: `python -m … <folder> <kill|full>`.

It writes how many rows are on the disk after every call, by what `append` says.
"""

import resource
import sys
from pathlib import Path

import bson

from app.core.clock import SystemClock
from app.market_data.spill import Spill


def numbered(first: int, count: int) -> list[bytes]:
    return [bson.encode({"n": number, "text": "x" * (number % 90)}) for number in range(first, first + count)]


def main(folder: Path, mode: str) -> None:
    if mode == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
    spill = Spill(folder, clock=SystemClock(), file_bytes=100_000)
    total = 0
    while True:
        kept = spill.append(numbered(total, 400))
        total += kept
        sys.stdout.write(f"{total}\n")
        sys.stdout.flush()
        if kept < 400:
            sys.stdout.write(f"{spill.last_error}\n")
            spill.close()
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
