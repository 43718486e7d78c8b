"""Runs the vendor's SDK in a process of its own, as its import, its logging and its threads leave traces everywhere.

Reads one JSON command a line from standard input, writes one JSON answer a line to standard output. Knows nothing of
the service.
"""

import json
import os
import sys
import threading
from typing import Any, TextIO


class Commands:
    """What can be asked of the SDK."""

    def __init__(self, out: TextIO) -> None:
        self._out, self._lock = out, threading.Lock()
        self._sockets: list[Any] = []
        self._clients: dict[str, Any] = {}

    def say(self, answer: object) -> None:
        """One line to the parent, from any thread."""
        with self._lock:
            self._out.write(json.dumps(answer) + "\n")
            self._out.flush()

    def parse(self, frames: list[str]) -> list[Any]:
        """The SDK's reading of frames in hex."""
        from SmartApi.smartWebSocketV2 import SmartWebSocketV2

        reader = SmartWebSocketV2("jwt", "key", "client", "feed")
        return [reader._parse_binary_data(bytes.fromhex(frame)) for frame in frames]

    def bench(self, frame: str, count: int) -> float:
        """Frames a second."""
        from time import perf_counter

        from SmartApi.smartWebSocketV2 import SmartWebSocketV2

        reader, raw = SmartWebSocketV2("jwt", "key", "client", "feed"), bytes.fromhex(frame)
        began = perf_counter()
        for _ in range(count):
            reader._parse_binary_data(raw)
        return count / (perf_counter() - began)

    def listen(self, url: str, headers: list[str], mode: int, tokens: list[dict[str, Any]]) -> int:
        """Connect an SDK's socket; what it hears comes as events `open`, `tick`, `error` with the number returned."""
        from SmartApi.smartWebSocketV2 import SmartWebSocketV2

        socket = SmartWebSocketV2(*headers, max_retry_attempt=0)
        socket.ROOT_URI = url
        number = len(self._sockets)

        def on_open(_wsapp: object) -> None:
            self.say({"event": "open", "socket": number})
            socket.subscribe("sdk1", mode, tokens)

        socket.on_open = on_open
        socket.on_data = lambda _wsapp, data: self.say({"event": "tick", "socket": number, "data": data})
        socket.on_error = lambda *_about: self.say({"event": "error", "socket": number})
        self._sockets.append(socket)
        threading.Thread(target=socket.connect, daemon=True).start()
        return number

    def unsubscribe(self, mode: int, tokens: list[dict[str, Any]]) -> str:
        """On the socket opened last."""
        self._sockets[-1].unsubscribe("sdk2", mode, tokens)
        return "asked"

    def client(self, root: str, api_key: str) -> str:
        """Make a `SmartConnect`."""
        from SmartApi import SmartConnect

        self._clients["it"] = SmartConnect(api_key=api_key, root=root, timeout=30)
        return "made"

    def call(self, method: str, arguments: list[Any]) -> Any:
        """Call a method of the `SmartConnect`."""
        return getattr(self._clients["it"], method)(*arguments)


def main() -> None:
    """Serve until standard input ends."""
    out = os.fdopen(os.dup(1), "w")
    sys.stdout = sys.stderr  # the SDK prints
    commands = Commands(out)
    for line in sys.stdin:
        name, arguments = json.loads(line)
        try:
            commands.say({"result": getattr(commands, name)(*arguments)})
        except Exception as error:  # noqa: BLE001 (whatever the SDK raises is the answer)
            commands.say({"raised": type(error).__name__, "message": str(error)})


if __name__ == "__main__":
    main()
