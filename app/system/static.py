"""Static assets out of installed packages and our own `assets` folder, so that no page needs the internet."""

import asyncio
import gzip
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from fastapi import Response
from starlette.requests import Request

from app.core.errors import NotFoundError
from app.core.figures.page import ICON

_OWN: Final = Path(__file__).with_name("assets")
_FOR_EVER: Final = "public, max-age=31536000, immutable"
_REVALIDATE: Final = "public, no-cache"
_TYPES: Final = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
# gzip is listed, and not as "gzip;q=0", which refuses it.
_GZIP: Final = re.compile(r"\bgzip\b(?!\s*;\s*q=0(\.0*)?\s*(,|$))", re.IGNORECASE).search


@dataclass(frozen=True, slots=True)
class Asset:
    """One file. `package` is where it comes from: its version makes the URL's `?v=`."""

    path: Path
    package: str | None = None
    replacements: Mapping[bytes, bytes] = field(default_factory=dict)

    @property
    def version(self) -> str | None:
        """The package's version, or None for a file of our own."""
        return version(self.package) if self.package else None


@dataclass(frozen=True, slots=True)
class _Loaded:
    plain: bytes
    packed: bytes
    tag: str


@cache
def _folder(package: str) -> Path:
    # Found without importing the package: that would cost up to a second and run its code.
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"the package {package} is not installed")
    return Path(spec.origin).parent


def packaged_assets() -> dict[str, Asset]:
    """The assets of the docs and chart pages by name."""
    docs = _folder("fastapi_offline") / "static"
    return {
        "plotly.min.js": Asset(_folder("plotly") / "package_data" / "plotly.min.js", "plotly"),
        "swagger-ui-bundle.js": Asset(docs / "swagger-ui-bundle.js", "fastapi-offline"),
        "swagger-ui.css": Asset(docs / "swagger-ui.css", "fastapi-offline"),
        # The bundle shows its maker's logo from a server of theirs: the one thing it would fetch from elsewhere.
        "redoc.standalone.js": Asset(
            docs / "redoc.standalone.js",
            "fastapi-offline",
            {b"https://cdn.redoc.ly/redoc/logo-mini.svg": b"data:image/gif;base64,R0lGODlhAQABAAAAACw="},
        ),
        **{path.name: Asset(path) for path in (*sorted(_OWN.iterdir()), ICON) if path.suffix in _TYPES},
    }


class StaticAssets:
    """Serves assets from memory: each is read and compressed once, when it is first asked for."""

    def __init__(self, assets: Mapping[str, Asset]) -> None:
        self._assets = assets
        self._loading: dict[str, asyncio.Task[_Loaded]] = {}

    def url(self, name: str) -> str:
        """The asset's path below the static folder, with the version that lets caches keep it for ever."""
        released = self._assets[name].version
        return f"{name}?v={released}" if released else name

    async def answer(self, request: Request, name: str) -> Response:
        """The asset, 304 if the client has it already. Raises NotFoundError for a name that is not listed."""
        asset = self._assets.get(name)
        if asset is None:
            raise NotFoundError("There is no such asset.")
        loaded = await self._load(name, asset)
        packed = _GZIP(request.headers.get("accept-encoding", "")) is not None
        tag = f'"{loaded.tag}{"-gz" if packed else ""}"'
        released = asset.version
        headers = {
            "Cache-Control": _FOR_EVER if released and request.query_params.get("v") == released else _REVALIDATE,
            "ETag": tag,
            "Vary": "Accept-Encoding",
            "X-Content-Type-Options": "nosniff",
            # A chart page that was saved to disk loads these from there.
            "Cross-Origin-Resource-Policy": "cross-origin",
        }
        known = {each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")}
        if tag in known or "*" in known:
            return Response(status_code=304, headers=headers)
        if packed:
            headers["Content-Encoding"] = "gzip"
        return Response(
            loaded.packed if packed else loaded.plain, media_type=_TYPES[asset.path.suffix], headers=headers
        )

    async def _load(self, name: str, asset: Asset) -> _Loaded:
        # The task is kept as the cached value: however many ask at once, one thread reads and compresses.
        task = self._loading.get(name)
        if task is None:
            task = self._loading[name] = asyncio.create_task(asyncio.to_thread(_read, asset))
            task.add_done_callback(lambda done: self._forget_failure(name, done))
        return await asyncio.shield(task)

    def _forget_failure(self, name: str, task: asyncio.Task[_Loaded]) -> None:
        if task.cancelled() or task.exception() is not None:
            self._loading.pop(name, None)


def _read(asset: Asset) -> _Loaded:
    content = asset.path.read_bytes()
    for old, new in asset.replacements.items():
        content = content.replace(old, new)
    return _Loaded(content, gzip.compress(content, compresslevel=6, mtime=0), sha256(content).hexdigest()[:24])
