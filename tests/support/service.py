"""The service as a user runs it: a uvicorn process on a free port, with its own data folder."""

import contextlib
import itertools
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.support.http import NO_TLS
from tests.support.zygote import Forked, zygote

ROOT = Path(__file__).resolve().parents[2]
GENEROUS = {
    "RATE_LIMIT_PER_MINUTE": "1000000",
    "USER_RATE_LIMIT_PER_MINUTE": "1000000",
    "AUTH_RATE_LIMIT_PER_MINUTE": "1000000",
    "AUTH_ADDRESS_RATE_LIMIT_PER_MINUTE": "1000000",
    "ALERT_RATE_LIMIT_PER_MINUTE": "1000000",
    "CRYPTO_SYNC_RATE_LIMIT_PER_MINUTE": "1000000",
    "MARKET_SYNC_RATE_LIMIT_PER_MINUTE": "1000000",
    "PREDICTION_RATE_LIMIT_PER_MINUTE": "1000000",
}
"""Limits out of the way of tests that are not about them."""
CHEAP = {"PASSWORD_HASH_PASSES": "1", "PASSWORD_HASH_KIB": "64"}
"""Passwords that cost nothing, which production refuses."""
FULL_PRICE = {"PASSWORD_HASH_PASSES": "3", "PASSWORD_HASH_KIB": "32768"}


FIRST_PORT, LAST_PORT, SHARES = 11_000, 19_800, 8
"""Ports for servers of the tests: above those that browsers refuse, below those of embedded databases, and below all
that the system hands out by itself. So nobody else gets one while its server starts, or is away between two lives."""


_turn = itertools.count(os.getpid() * 97)


def free_port() -> int:
    """A TCP port on loopback that nothing listens on now, and that is nobody else's to take: each of the suite's
    processes has a share of its own, and goes through it in turn, another suite's beginning elsewhere in it."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    size = (LAST_PORT - FIRST_PORT) // SHARES
    for _ in range(size):
        port = FIRST_PORT + worker % SHARES * size + next(_turn) % size
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


NOBODY = "http://127.0.0.1:9"
OFFLINE = {
    "CRYPTO_SYNC_ENABLED": "false",
    "SIGNALS_TIMEFRAMES": "[]",
    "YAHOO_BASE_URL": NOBODY,
    "ZERODHA_BASE_URL": NOBODY,
    "UPSTOX_BASE_URL": NOBODY,
    "UPSTOX_INSTRUMENTS_URL": NOBODY,
    "GROWW_BASE_URL": NOBODY,
    "GROWW_INSTRUMENTS_URL": NOBODY,
}
"""No test asks the internet."""


class ServiceProcess:
    """One run of the service; `env` adds to or (with None) removes from the defaults."""

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        workers: int = 1,
        generous: bool = True,
        forked: bool = True,
        **env: str | None,
    ) -> None:
        """`forked`: from a process that has imported it (`tests.support.zygote`); several workers never are."""
        self.folder = folder
        self.data_dir = folder / "data"
        self.port = port or free_port()
        self.workers = workers
        self.url = f"http://127.0.0.1:{self.port}"
        self.ws_url = f"ws://127.0.0.1:{self.port}/ws"
        self.log_path = folder / "service.log"
        self.process: subprocess.Popen[bytes] | Forked | None = None
        self._forked = forked and workers == 1
        self._database: str | None = None
        defaults = {"ENVIRONMENT": "test", "DATA_DIR": str(self.data_dir), **(GENEROUS if generous else {})}
        defaults |= OFFLINE
        defaults |= {} if env.get("ENVIRONMENT") == "production" else CHEAP
        if url := os.environ.get("TEST_MONGODB_URL"):
            self._database = f"arrow_test_{secrets.token_hex(6)}"
            defaults |= {"MONGODB_URL": url, "DATABASE_NAME": self._database}
        # Only what a program needs to run: nothing of the developer's own settings reaches the service.
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        self.env = {name: value for name, value in (inherited | defaults | env).items() if value is not None}

    @property
    def embedded(self) -> bool:
        """Whether the service runs on the embedded database."""
        return "MONGODB_URL" not in self.env

    def start(self, *, wait: float = 50) -> "ServiceProcess":
        """Start and wait until it is healthy; `AssertionError` with the log when it is not within `wait` seconds."""
        self.launch()
        self.wait_ready(wait)
        return self

    def launch(self) -> "ServiceProcess":
        """Start without waiting."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = ["--app-dir", str(ROOT), "app.main:app", "--port", str(self.port)]
        # Tests hold connections to single workers, and a busy machine may leave them idle for a while.
        command += ["--timeout-graceful-shutdown", "10", "--timeout-keep-alive", "60"]
        if self.workers > 1:
            command += ["--workers", str(self.workers)]
        # The folder has no .env of anybody's.
        if self._forked:
            self.process = zygote().start(command, folder=self.folder, env=self.env, log=self.log_path)
            return self
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "uvicorn", *command],
                cwd=self.folder,
                env=self.env,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def wait_ready(self, seconds: float = 50) -> None:
        """Wait for `/health/ready`."""
        assert self.process is not None
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"the service ended with {self.process.returncode}:\n{self.log_text()[-4000:]}")
            if self._is_ready():
                return
            time.sleep(0.03)
        raise AssertionError(f"the service was not ready within {seconds} s:\n{self.log_text()[-4000:]}")

    def _is_ready(self) -> bool:
        # Most of a start nobody listens: to be refused costs next to nothing without a client for it.
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", self.port)):
                return False
        try:
            return httpx.get(f"{self.url}/health/ready", timeout=10, verify=NO_TLS).status_code == 200
        except httpx.TransportError:
            return False

    def log_text(self) -> str:
        """All that the service wrote to its output so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def health(self) -> dict[str, Any]:
        """The answer of `/health`."""
        answer: dict[str, Any] = httpx.get(f"{self.url}/health", timeout=30, verify=NO_TLS).json()
        return answer

    def worker_pids(self) -> list[int]:
        """The processes that serve requests."""
        assert self.process is not None
        if self.workers == 1:
            return [self.process.pid]
        workers = []
        for child in psutil.Process(self.process.pid).children():
            try:
                if any("spawn_main" in part for part in child.cmdline()):
                    workers.append(child.pid)
            except psutil.NoSuchProcess:  # killed, and not collected by the parent yet
                continue
        return workers

    def database_pid(self) -> int:
        """The embedded database's process."""
        pid: int = self.health()["database"]["embedded"]["pid"]
        return pid

    @property
    def mongodb_url(self) -> str:
        """The database that the running service uses."""
        if not self.embedded:
            return self.env["MONGODB_URL"]
        return f"mongodb://127.0.0.1:{self.health()['database']['embedded']['port']}/?directConnection=true"

    @property
    def database_name(self) -> str:
        """Its name there."""
        return self.env.get("DATABASE_NAME", "arrow")

    def kill_all(self) -> None:
        """`kill -9` of the service and everything that it started."""
        victims = self._tree()
        for victim in victims:
            try:
                victim.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        wait_for_end(victims, 30)
        if self.process is not None:
            self.process.wait(30)

    def stop(self, *, wait: float = 40) -> int:
        """SIGTERM, and the exit status; whatever is left after `wait` seconds is killed and fails the test."""
        if self.process is None:
            return 0
        family = self._tree()
        self.process.terminate()
        try:
            status = self.process.wait(wait)
        finally:
            alive = wait_for_end(family, 30)
            for left in alive:
                left.kill()
            self.process = None
        assert not alive, f"left behind: {[left.pid for left in alive]}"
        return status

    def close(self) -> None:
        """End it in any case, and drop its database on a real server."""
        if self.process is not None and self.process.poll() is None:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.kill_all()
        if self.embedded:
            self._end_orphan()
        if self._database:
            from pymongo import MongoClient

            # The server of the tests: this service's own address may be wrong on purpose.
            client: MongoClient[dict[str, Any]] = MongoClient(os.environ["TEST_MONGODB_URL"])
            with client:
                client.drop_database(self._database)

    def _end_orphan(self) -> None:
        """End the database that a killed service left behind, where nobody came to adopt it."""
        for process in psutil.process_iter(["cmdline"]):
            if any(part.startswith(f"{self.data_dir}{os.sep}") for part in process.info["cmdline"] or ()):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()

    def _tree(self) -> list[psutil.Process]:
        if self.process is None:
            return []
        try:
            root = psutil.Process(self.process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


def wait_for_end(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Those that have not ended in that time. One whose parent is gone, and that nobody collects, has."""
    deadline = time.monotonic() + seconds
    while (alive := [process for process in processes if _is_alive(process)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return alive


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
