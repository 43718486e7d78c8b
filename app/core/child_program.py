"""Programs of ours that run beside the service, as they see it themselves: questions come in, answers go out.

Each message has its length, its number and whether more follow before it. The service's side is `child_process`.
"""

import ctypes
import os
import signal
import struct
import sys
import threading
from collections.abc import Iterator
from typing import BinaryIO, Final, Self

HEAD: Final = struct.Struct(">II?")
"""Bytes of the message, number of the question that it is or belongs to, and whether it is not the last answer."""
LONGEST: Final = 64 << 20
"""Bytes. Nothing that is said here is longer: more was written by somebody else."""

_PARENT_DEATH_SIGNAL: Final = 1  # PR_SET_PDEATHSIG in <linux/prctl.h>


class Pipes:
    """The program's ends. Any thread may answer; one of them reads."""

    def __init__(self, read: BinaryIO, write: BinaryIO) -> None:
        self._read, self._write = read, write
        self._writing = threading.Lock()

    @classmethod
    def standard(cls) -> Self:
        """Standard input and output, which is taken away from everybody else: what a library prints there goes to
        standard error, whether by `print` or from C. Called once, before anything is imported that prints."""
        _end_with_parent()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the service's: it ends this program
        answers = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        return cls(sys.stdin.buffer, answers)

    def questions(self) -> Iterator[tuple[int, bytes]]:
        """Their numbers and what they say, until the service has gone, however it went."""
        while len(head := self._read.read(HEAD.size)) == HEAD.size:
            length, number, _ = HEAD.unpack(head)
            body = self._read.read(length)
            if len(body) < length:
                return
            yield number, body

    def answer(self, number: int, body: bytes, *, more: bool = False) -> None:
        """To question `number`; with `more`, not the last one. Raises `OSError` when nobody reads any more."""
        with self._writing:
            self._write.write(HEAD.pack(len(body), number, more))
            self._write.write(body)
            self._write.flush()


def _end_with_parent() -> None:
    """Where Linux can, have it end this program too: one that is busy may not see that its input has ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
