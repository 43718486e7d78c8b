"""The vendor's SDK as an oracle: a child process that does what it is told."""

import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any


class SdkError(Exception):
    """The SDK raised."""


class Sdk:
    """Drives `sdk_child.py`; its methods block, so call them in a thread where a loop runs."""

    def __init__(self, folder: Path) -> None:
        """`folder`: where the SDK's `logs` directory appears."""
        # Its import asks a public service for the machine's address, without a timeout: a closed port says no at once.
        nowhere = "http://127.0.0.1:9"
        environment = {**os.environ, "https_proxy": nowhere, "HTTPS_PROXY": nowhere, "no_proxy": "127.0.0.1"}
        self._log = (folder / "sdk.log").open("w")
        self._child = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("sdk_child.py"))],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            message = json.loads(line)
            (self._events if "event" in message else self._answers).put(message)
        self._answers.put(None)

    def ask(self, command: str, *arguments: object) -> Any:
        """Run a command of the child; raises `SdkError` with the kind and words of what the SDK raised."""
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps([command, arguments]) + "\n")
        self._child.stdin.flush()
        answer = self._answers.get(timeout=50)
        if answer is None:
            raise SdkError("the child has ended")
        if "raised" in answer:
            raise SdkError(f"{answer['raised']}: {answer['message']}")
        return answer["result"]

    def hear(self, socket: int) -> dict[str, Any]:
        """The next event of a socket; what former sockets still say is passed over."""
        while True:
            event = self._events.get(timeout=30)
            if event["socket"] == socket:
                return event

    def close(self) -> None:
        """End the child."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.kill()
        self._child.wait(10)
        self._reader.join(10)
        self._child.stdin.close()
        self._child.stdout.close()
        self._log.close()
