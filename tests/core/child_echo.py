"""`python -m tests.core.child_echo`: says what it is asked to say, in the order in which that is done; see `main`."""

import os
import threading
import time

from app.core.child_program import Pipes


def main() -> None:
    """A question is `what` or `what:argument`."""
    pipes, setup = Pipes.standard(), b""
    for number, body in pipes.questions():
        what, _, argument = body.decode().partition(":")
        if what == "setup":
            setup = body
        if what in {"setup", "echo"}:
            pipes.answer(number, setup + b"|" + body)
        elif what == "later":
            threading.Timer(float(argument), pipes.answer, (number, body)).start()
        elif what == "count":
            for one in range(int(argument)):
                pipes.answer(number, str(one).encode(), more=True)
            pipes.answer(number, b"done")
        elif what == "environment":
            pipes.answer(number, repr(dict(os.environ)).encode())
        elif what == "large":
            pipes.answer(number, b"x" * int(argument))
        else:
            fail(pipes, what, argument)


def fail(pipes: Pipes, what: str, argument: str) -> None:
    """In one of the ways in which programs do."""
    if what == "exit":
        os._exit(int(argument))
    elif what == "kill":
        os.kill(os.getpid(), int(argument))
    elif what == "garbage":
        pipes._write.write(b"\xff" * 1000)
        pipes._write.flush()
    elif what == "mute":
        pipes._write.close()
    time.sleep(600)


if __name__ == "__main__":
    main()
