"""A server in a process of its own, as a user starts it, for scripts that load it for minutes."""

import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

APP = Path(__file__).parents[1] / "app.py"
READY_SECONDS = 180


@dataclass(frozen=True, slots=True)
class Running:
    url: str
    process: psutil.Process
    log: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def complaints(self) -> list[str]:
        """What the server did not foresee, each with its traceback."""
        unforeseen = r"^.*(?:ERROR|Traceback|Task was destroyed|never retrieved).*(?:\n(?!\d{4}-).*)*"
        return re.findall(unforeseen, self.log.read_text(), re.MULTILINE)

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz", timeout=10).status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def running(folder: Path, *flags: str) -> Iterator[Running]:
    """Its data and its log are in `folder`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    log = folder / "log"
    command = [sys.executable, str(APP), "--port", str(port), "--data-dir", str(folder / "data"), *flags]
    with log.open("wb") as writing:
        process = subprocess.Popen(command, stdout=writing, stderr=writing)
        server = Running(f"http://127.0.0.1:{port}", psutil.Process(process.pid), log)
        try:
            deadline = time.monotonic() + READY_SECONDS
            while not server.is_ready():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(log.read_text()[-2_000:])
                time.sleep(0.2)
            yield server
        finally:
            process.terminate()
            process.wait(timeout=30)
