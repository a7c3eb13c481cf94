"""`python app.py` in a process of its own, on a free port."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class RunningStudio:
    """A Studio on a home folder of its own, that can be ended and started again at the same address."""

    def __init__(self, home: Path, *arguments: str, **environment: str) -> None:
        port = free_port()
        self.home, self.address, self.log = home, f"http://127.0.0.1:{port}/", home / "log.txt"
        own = {"CCE_STUDIO_HOME": str(home), "CCE_DATA": str(home / "data"), "HF_HUB_OFFLINE": "1"}
        self.environment = os.environ | own | environment
        self.command = [sys.executable, "app.py", "--port", str(port), *arguments]
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                self.command, cwd=ROOT, env=self.environment, stdout=log, stderr=subprocess.STDOUT
            )
        for _ in range(600):
            assert self.process.poll() is None, self.log.read_text()
            try:
                urllib.request.urlopen(self.address, timeout=30).close()
                return
            except OSError:
                time.sleep(0.5)
        self.kill()
        raise TimeoutError(self.log.read_text())

    def end(self) -> None:
        """Ask it to end; kill it where it does not."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
