"""Processes behind everything else: what the system says of them, and what they leave to others."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cce.runs import background
from cce.runs.background import alive, put_behind, spawn
from cce.training.run_folder import process_start

SPIN = [sys.executable, "-c", "while True: pass"]
SWITCH = Path("/proc/sys/kernel/sched_autogroup_enabled")


@pytest.fixture
def spun() -> Iterator[list[int]]:
    """Ids of processes that end with the test."""
    made: list[int] = []
    yield made
    for pid in made:
        os.kill(pid, signal.SIGKILL)
    background.reap()


def cpu_seconds(pid: int) -> float:
    values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(values[11]) + int(values[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.skipif(
    not SWITCH.exists() or SWITCH.read_text().strip() != "1", reason="this system does not share the CPU by sessions"
)
def test_of_one_core_a_session_that_is_behind_gets_a_third_of_what_another_gets_at_most(spun: list[int], tmp_path):
    """An attack on this core then takes 4/3 of its time at most. Niceness alone would leave both the same."""
    core = min(os.sched_getaffinity(0))
    other = subprocess.Popen(SPIN, start_new_session=True)
    spun.append(other.pid)
    spun.append(behind := spawn(SPIN, tmp_path / "log.txt"))
    for pid in spun:
        os.sched_setaffinity(pid, {core})
    before = [cpu_seconds(pid) for pid in spun]
    end = time.monotonic() + 120  # others may keep this core busy
    while cpu_seconds(other.pid) - before[0] < 1.0:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert cpu_seconds(behind) - before[1] < (cpu_seconds(other.pid) - before[0]) / 3


def test_a_process_is_started_in_a_session_of_its_own_behind_others_without_a_pipe(spun: list[int], tmp_path: Path):
    spun.append(pid := spawn(SPIN, tmp_path / "log.txt"))
    assert os.getsid(pid) == pid and os.getpriority(os.PRIO_PROCESS, pid) >= 10
    assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"
    assert os.readlink(f"/proc/{pid}/fd/1") == os.readlink(f"/proc/{pid}/fd/2") == str(tmp_path / "log.txt")
    assert alive(pid, process_start(pid)) and not alive(pid, 1.0)


def test_a_process_that_is_gone_is_passed_over():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    put_behind(child.pid)
    background.send(child.pid, signal.SIGTERM, session=False)
    assert not alive(child.pid, None) and not alive(None, None)


def test_what_is_repeated_goes_on_after_any_failure_and_says_so_once(caplog: pytest.LogCaptureFixture):
    done = []

    def work() -> None:
        done.append(1)
        if len(done) < 4:
            raise TypeError("a wrong kind" if len(done) < 3 else "another")

    thread = background.repeat(work, 0.01, "jobs")
    end = time.monotonic() + 20
    while len(done) < 6:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert thread.daemon and thread.is_alive()
    assert [r.getMessage() for r in caplog.records if r.name == "cce.runs.background"] == [
        "jobs: TypeError: a wrong kind; it goes on",
        "jobs: TypeError: another; it goes on",
    ]
