"""Figures as PNG and SVG, where the image extra (kaleido and a Chrome or Chromium) is installed."""

import asyncio
import json
import os
import sys
from contextlib import suppress
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import psutil
import structlog

from app.core.errors import NotAcceptableError, UnavailableError
from app.core.figures.render import NO_BROWSER
from app.core.figures.theme import Figure

log = structlog.get_logger("arrow.figures")

_RENDERER: Final = Path(__file__).with_name("render.py")
_ELSEWHERE: Final = "Available here: format=json and format=html."
# The child gets what it needs to find itself and a browser, and none of the service's secrets.
_ENVIRONMENT: Final = frozenset(
    {
        *("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH", "BROWSER_PATH"),
        *("TMPDIR", "TEMP", "TMP", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"),
        *("SYSTEMROOT", "USERPROFILE", "APPDATA", "LOCALAPPDATA", "PROGRAMFILES", "PROGRAMFILES(X86)"),
    }
)


class ImageFormat(StrEnum):
    """Image formats of a figure."""

    PNG = "png"
    SVG = "svg"

    @property
    def media_type(self) -> str:
        """The `Content-Type` of the image."""
        return "image/png" if self is ImageFormat.PNG else "image/svg+xml"


class FigureImages:
    """Renders figures in a child process, one at a time.

    A child, because the renderer imports plotly and drives a browser: neither may hold this process' interpreter,
    and a browser that hangs or dies takes only its own child along. One at a time, because each takes
    a browser and a core for two seconds or so.
    """

    def __init__(self, *, deadline: float = 60, queue: int = 8, renderer: Path = _RENDERER) -> None:
        """`deadline`: seconds for one image. `queue`: how many may wait before more are turned away."""
        self._deadline = deadline
        self._queue = queue
        self._renderer = renderer
        self._waiting = 0
        self._turn = asyncio.Lock()

    async def render(self, figure: Figure, format_: ImageFormat, *, width: int = 1280, height: int = 720) -> bytes:
        """`figure` as an image of `width` x `height` CSS pixels (a PNG has twice as many each way).

        Raises NotAcceptableError where the image extra is missing or finds no browser, UnavailableError when too
        many images are waiting, or this one failed or took too long.
        """
        if find_spec("kaleido") is None:
            raise NotAcceptableError(
                f"format={format_} needs the image extra, which is not installed (pip install kaleido, and Chrome or"
                f" Chromium). {_ELSEWHERE}"
            )
        if self._waiting >= self._queue:
            raise UnavailableError("Too many images are being made. Try again in a moment.", retry_after=10)
        scale = 2 if format_ is ImageFormat.PNG else 1
        options = {"format": str(format_), "width": width, "height": height, "scale": scale}
        job = json.dumps({"figure": figure, "options": options}, allow_nan=False).encode()
        self._waiting += 1
        try:
            async with self._turn:
                return await self._in_child(job, format_)
        finally:
            self._waiting -= 1

    async def _in_child(self, job: bytes, format_: ImageFormat) -> bytes:
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # the renderer's folder is not where its imports come from
            str(self._renderer),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if name.upper() in _ENVIRONMENT},
        )
        try:
            async with asyncio.timeout(self._deadline):
                image, complaints = await child.communicate(job)
        except TimeoutError:
            log.warning("image export timed out", seconds=self._deadline)
            raise UnavailableError("The image took too long to make.", retry_after=30) from None
        finally:
            if child.returncode is None:
                _end_with_children(child.pid)
                await child.wait()
        if child.returncode == NO_BROWSER:
            raise NotAcceptableError(
                f"format={format_} cannot be made here: the image extra found no working Chrome or Chromium"
                f" (BROWSER_PATH can name one). {_ELSEWHERE}"
            )
        if child.returncode or not image:
            log.error("image export failed", code=child.returncode, tail=complaints.decode(errors="replace")[-800:])
            raise UnavailableError(f"The image could not be made. {_ELSEWHERE}", retry_after=30)
        return image


def _end_with_children(pid: int) -> None:
    with suppress(psutil.NoSuchProcess):
        renderer = psutil.Process(pid)
        for process in [*renderer.children(recursive=True), renderer]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
