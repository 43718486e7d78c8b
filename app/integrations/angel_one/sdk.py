"""The vendor's `SmartConnect`, made harmless: it builds the requests and reads the answers, `Wire` carries them.

As it ships, its import asks a public service for the machine's address (without a timeout), its constructor makes
`./logs/DATE/`, and its errors write PIN, codes, tokens and API key into that log. So its one module is executed here
with imports of our own: where it says `requests` or `logzero` it gets objects that do nothing, or refuse. Nothing of
the process is touched for that (no patched module, no logger, no folder), and `logzero` and `websocket-client`, which
it needs and does not declare, are not needed at run time.
"""

import builtins
import threading
from collections.abc import Mapping, Sequence
from importlib.machinery import PathFinder
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Final, Protocol

_PACKAGE: Final = "SmartApi"
_LOCK = threading.Lock()
_loaded: list[type[Any]] = []


class Transport(Protocol):
    """What carries a request to the vendor."""

    def ask(self, method: str, path: str, headers: Mapping[str, str], body: object) -> dict[str, Any]:
        """The answer's envelope, which says success; raises `AngelOneError` for everything else."""


class _NoNetwork:
    """In the place of `requests`: `_request` below is the only way to the network."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._refuse

    @staticmethod
    def _refuse(*_arguments: object, **_named: object) -> Any:
        raise OSError("the SDK has no network of its own")


class _NoLog:
    """In the place of `logzero` and its logger: says nothing, writes nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self if name == "logger" else self._ignore

    @staticmethod
    def _ignore(*_arguments: object, **_named: object) -> None:
        return None


class _Imports:
    """`__import__` as the SDK's modules see it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._instead: dict[str, Any] = {"requests": _NoNetwork(), "logzero": _NoLog()}

    def module(self, name: str) -> ModuleType:
        """A module of the SDK's folder, executed with these imports; it is not entered into `sys.modules`."""
        spec = spec_from_file_location(f"{_PACKAGE}.{name}", self._folder / f"{name}.py")
        if spec is None or spec.loader is None:
            raise ImportError(f"smartapi-python has no module {name}")
        module = module_from_spec(spec)
        vars(module)["__builtins__"] = {**vars(builtins), "__import__": self}
        spec.loader.exec_module(module)
        return module

    def __call__(
        self,
        name: str,
        globals_: Mapping[str, object] | None = None,
        locals_: Mapping[str, object] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> Any:
        if name in self._instead:
            return self._instead[name]
        package, _, own = name.partition(".")
        if package == _PACKAGE and own:
            module = self.module(own)
            return module if fromlist else SimpleNamespace(**{own: module})
        return builtins.__import__(name, globals_, locals_, fromlist or (), level)


def _quieted(smart_connect: type[Any]) -> type[Any]:
    class QuietSmartConnect(smart_connect):  # type: ignore[misc] # no types, and known only now
        """`SmartConnect` over our own transport."""

        def __init__(self, transport: Transport, *, api_key: str, jwt: str | None = None) -> None:
            # Not the parent's: it makes a folder, a log file, and a client that turns off warnings for the process.
            self._transport = transport
            self.api_key = self.privateKey = api_key
            self.access_token = jwt
            self.refresh_token = self.feed_token = self.userId = None
            self.debug = False

        def _request(self, route: str, method: str, parameters: object = None) -> dict[str, Any]:
            headers = dict(self.requestHeaders())
            if self.access_token:
                headers["Authorization"] = f"Bearer {self.access_token}"
            # The parent puts a GET's parameters, the refresh token among them, into the URL; no GET needs them.
            body = (parameters or {}) if method in {"POST", "PUT"} else None
            return self._transport.ask(method, self._routes[route], headers, body)

    return QuietSmartConnect


def load() -> type[Any]:
    """The class; takes some 20 ms the first time, so call it in a thread. Raises `ImportError` without the SDK."""
    with _LOCK:
        if not _loaded:
            spec = PathFinder.find_spec(_PACKAGE)
            if spec is None or not spec.submodule_search_locations:
                raise ImportError("smartapi-python is not installed")
            imports = _Imports(Path(next(iter(spec.submodule_search_locations))))
            _loaded.append(_quieted(imports.module("smartConnect").SmartConnect))
        return _loaded[0]
