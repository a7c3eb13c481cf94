"""A real Studio to measure: `python app.py` in a process of its own, with the bundled files and nothing else."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Served:
    """A running Studio: its address, its process id, the seconds from the command to the first page, its folder."""

    url: str
    pid: int
    seconds: float
    home: Path

    def resident(self) -> float:
        """Memory that the process holds, in MB."""
        said = subprocess.run(["ps", "-o", "rss=", "-p", str(self.pid)], capture_output=True, text=True, check=True)
        return int(said.stdout) / 1024

    def cpu(self) -> float | None:
        """CPU seconds of the process so far: what a busy machine does not change much. None where it is not told."""
        try:
            said = Path(f"/proc/{self.pid}/stat").read_text()
        except OSError:
            return None
        user, system = said.rsplit(")", 1)[1].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


@contextmanager
def studio(threads: int = 0) -> Iterator[Served]:
    """Start one, wait for its first page, and end it.

    Args:
        threads: CPU threads; 0 leaves it to torch.

    Raises:
        RuntimeError: it ended, or gave no page within five minutes; the message has its log.
    """
    with tempfile.TemporaryDirectory() as home, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        environment = os.environ | {
            "CCE_STUDIO_HOME": home,
            "CCE_DATA": str(Path(home) / "data"),
            "HF_HUB_OFFLINE": "1",
        }
        if threads:
            environment["OMP_NUM_THREADS"] = str(threads)
        log = Path(home) / "log.txt"
        begun = time.perf_counter()
        with open(log, "w") as said:
            command = [sys.executable, "app.py", "--port", str(port)]
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=subprocess.STDOUT)
        try:
            url = f"http://127.0.0.1:{port}/"
            _wait(url, process, log, begun)
            yield Served(url, process.pid, time.perf_counter() - begun, Path(home))
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path, begun: float) -> None:
    while time.perf_counter() - begun < 300:
        if process.poll() is not None:
            raise RuntimeError(f"the Studio ended at its start:\n{log.read_text()}")
        try:
            with urllib.request.urlopen(url, timeout=60) as page:
                page.read()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"the Studio gave no page in five minutes:\n{log.read_text()}")
