"""Services as forks of one process that has imported them: a second of CPU less for each of the suite's many starts.

`python -m tests.support.zygote FD` imports `app.main`, as uvicorn does, and then forks on request. In the fork the
environment, folder and output of the new service are put in place and uvicorn's own command line is run, so all that
depends on them happens as in a process of its own; what an import does is the same in all of them. Starts themselves
are tested without it (`ServiceProcess(forked=False)`).
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class Forked:
    """A running fork; as much of `subprocess.Popen` as tests use."""

    def __init__(self, zygote: "Zygote", pid: int, args: Sequence[str]) -> None:
        self.pid, self.args = pid, args
        self.returncode: int | None = None
        self._zygote = zygote

    def poll(self) -> int | None:
        """How it ended; None if it runs."""
        if self.returncode is None:
            self.returncode = self._zygote.ask({"poll": self.pid})["ended"]
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; raises `subprocess.TimeoutExpired`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (ended := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(list(self.args), timeout or 0)
            time.sleep(0.01)
        return ended

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


class Zygote:
    """The process that forks; it ends with this one."""

    def __init__(self) -> None:
        ours, its = socket.socketpair()
        with its:
            command = [sys.executable, "-m", "tests.support.zygote", str(its.fileno())]
            self._process = subprocess.Popen(command, cwd=ROOT, pass_fds=[its.fileno()], stdin=subprocess.DEVNULL)
        self._stream = ours.makefile("rw")
        self._lock = threading.Lock()

    def start(self, command: Sequence[str], *, folder: Path, env: Mapping[str, str], log: Path) -> Forked:
        """uvicorn with these arguments, in a session of its own; output goes to the end of `log`."""
        request = {"command": list(command), "folder": str(folder), "env": dict(env), "log": str(log)}
        return Forked(self, self.ask(request)["pid"], command)

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Its answer."""
        with self._lock:
            self._stream.write(json.dumps(request) + "\n")
            self._stream.flush()
            answer: dict[str, Any] = json.loads(self._stream.readline())
            return answer


_making = threading.Lock()


def zygote() -> Zygote:
    """The one of this process; services are started from several threads at once."""
    with _making:
        return _made()


@cache
def _made() -> Zygote:
    return Zygote()


def _serve(control: socket.socket) -> Callable[[], None] | None:
    """Answer requests; in a fork gives what it is to run, in the zygote nothing, at the end of whoever asks."""
    ended: dict[int, int] = {}
    with control, control.makefile("rw") as stream:
        while line := stream.readline():
            request = json.loads(line)
            if "poll" in request:
                answer = {"ended": _ended(request["poll"], ended)}
            else:
                sys.stdout.flush()
                pid = os.fork()
                if pid == 0:
                    _replace(control.fileno())
                    return _service(request)
                answer = {"pid": pid}
            stream.write(json.dumps(answer) + "\n")
            stream.flush()
    return None


def _replace(descriptor: int) -> None:
    """By nothing: a fork must not hold the zygote's own connection open."""
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, descriptor)
    os.close(nothing)


def _ended(pid: int, known: dict[int, int]) -> int | None:
    if pid not in known:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found == 0:
            return None
        known[pid] = os.waitstatus_to_exitcode(status)
    return known[pid]


def _service(request: Mapping[str, Any]) -> Callable[[], None]:
    os.setsid()
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    os.chdir(request["folder"])
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)

    def run() -> None:
        from uvicorn.main import main

        sys.argv = ["uvicorn", *request["command"]]
        main()

    return run


def _imported() -> None:
    import uvicorn.main
    import uvicorn.protocols.http.auto
    import uvicorn.protocols.websockets.auto  # noqa: F401 (in every service)

    import app.main  # noqa: F401


if __name__ == "__main__":
    _imported()
    # Out of the way of the loop, so that a service ends as any program does.
    if (work := _serve(socket.socket(fileno=int(sys.argv[1])))) is not None:
        work()
