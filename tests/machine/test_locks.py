"""The system's locks, and a system that has none."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cce.machine import locks

ROOT = Path(__file__).resolve().parents[2]
WINDOWS = "import sys; sys.modules.update(dict.fromkeys(('fcntl', 'resource', 'pwd', 'grp', 'termios')))"


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", f"{WINDOWS}\n{program}"], cwd=ROOT, capture_output=True, text=True)


def test_a_lock_keeps_others_out_until_it_is_closed(tmp_path):
    first, second = (os.open(tmp_path, os.O_RDONLY) for _ in range(2))
    locks.lock(first)
    with pytest.raises(BlockingIOError):
        locks.lock(second, wait=False)
    os.close(first)
    locks.lock(second, wait=False)
    os.close(second)


@pytest.mark.parametrize("command", [["--help"], ["models", "--json"]])
def test_the_command_line_starts_where_the_system_has_no_such_locks(command):
    done = run(f"from cce.__main__ import main\nsys.exit(main({command!r}))")
    assert done.returncode == 0, done.stderr


def test_a_run_is_locked_by_nothing_there(tmp_path):
    program = (
        "from cce.training.run_folder import RunFolder\n"
        f"folder = RunFolder({str(tmp_path)!r})\n"
        "folder.create({})\n"
        "folder.lock().close()"
    )
    done = run(program)
    assert done.returncode == 0, done.stderr
