"""`python app.py`: what it says where it cannot serve, and where it writes."""

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command, env = [sys.executable, "app.py", *arguments], os.environ | environment
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600, check=False)


def test_a_busy_port_is_said_plainly():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run("--port", str(port))
    assert done.returncode == 1
    assert f"cannot use port {port} on 127.0.0.1" in done.stderr
    assert f"python app.py --port {port + 1}" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_tells_the_options():
    done = run("--help")
    assert done.returncode == 0
    for option in ("--port", "--host", "--allow-host", "--checkpoints", "--data", "--device", "--mcp"):
        assert option in done.stdout


def test_everything_is_written_below_the_studio_s_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name in ("GRADIO_TEMP_DIR", "CCE_DATA", "GRADIO_ANALYTICS_ENABLED"):
        monkeypatch.setenv(name, "x")  # so that it is put back afterwards
        monkeypatch.delenv(name)
    monkeypatch.setenv("CCE_STUDIO_HOME", str(tmp_path))
    monkeypatch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
    spec = importlib.util.spec_from_file_location("app_script", ROOT / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert os.environ["GRADIO_TEMP_DIR"] == str(tmp_path / "tmp" / f"process-{os.getpid()}")
    assert os.environ["CCE_DATA"] == str(tmp_path / "data")
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert module.parse([]).host == "0.0.0.0"


def test_a_port_in_the_environment_that_is_no_number_is_refused_in_words():
    done = run(GRADIO_SERVER_PORT="seventy")
    assert done.returncode == 2
    assert "invalid int value: 'seventy'" in done.stderr and "Traceback" not in done.stderr


def test_without_its_package_mcp_says_how_to_get_it(tmp_path: Path):
    hidden = "import sys, importlib.util as u; f = u.find_spec\n"
    hidden += "u.find_spec = lambda name, *a: None if name == 'mcp' else f(name, *a)\n"
    (tmp_path / "sitecustomize.py").write_text(hidden)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    done = run("--mcp", "--port", str(port), PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert "pip install mcp==1.30.0" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch computes with libgomp on Linux")
def test_the_threads_of_a_team_look_for_work_only_so_often_unless_told_otherwise():
    """Beside other processes libgomp's own number is slower by ten; it reads the variable as PyTorch is imported."""
    env = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    for told, found in (({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7")):
        done = subprocess.run(
            [sys.executable, "-c", "import cce, torch"],
            cwd=ROOT,
            env=env | told | {"OMP_DISPLAY_ENV": "VERBOSE"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert f"GOMP_SPINCOUNT = '{found}'" in done.stderr
