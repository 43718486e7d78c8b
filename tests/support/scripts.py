"""`scripts/*.py`, run beside a service as a person would run them, many of them without the second that a start takes.

A process of its own does each run all the same, with its own environment, streams and status. It is forked off one that
has imported the service already; `cold` starts Python anew, as a shell does: once for each script, to see that it can.
"""

import multiprocessing
import os
import runpy
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.service import ROOT

_WARM = multiprocessing.get_context("forkserver")
_WARM.set_forkserver_preload(["app.lifespan.tools", "app.lifespan"])
SECONDS = 50


def run_script(
    name: str, env: dict[str, str], *arguments: str, typed: str = "", cold: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run `scripts/<name>` with the settings in `env`, from a folder that is not the repository's."""
    path = str(ROOT / "scripts" / name)
    if cold:
        return subprocess.run(
            [sys.executable, path, *arguments],
            cwd="/", env=env, input=typed, capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
    with TemporaryDirectory() as folder:
        streams = [Path(folder) / stream for stream in ("stdin", "stdout", "stderr")]
        for stream in streams:
            stream.touch()
        streams[0].write_text(typed)
        process = _WARM.Process(target=_run, args=([path, *arguments], env, [str(stream) for stream in streams]))
        process.start()
        process.join(SECONDS)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired([path, *arguments], SECONDS)
        out, err = (stream.read_text() for stream in streams[1:])
        return subprocess.CompletedProcess([path, *arguments], process.exitcode, out, err)


def _run(command: list[str], env: dict[str, str], streams: list[str]) -> None:
    os.environ.clear()
    os.environ.update(env)
    os.chdir("/")
    for number, stream in enumerate(streams):
        opened = os.open(stream, os.O_WRONLY if number else os.O_RDONLY)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")
