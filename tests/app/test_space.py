"""A dry run as a Hugging Face Space: the front matter, the environment, no training, a GPU for what computes."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from gradio_client import Client, handle_file
from huggingface_hub import metadata_load

from cce.data import datasets as data
from cce.data.pictures import to_png

ROOT = Path(__file__).resolve().parents[2]
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}

# What `spaces` is on a Space: a decorator, plain or with a duration. It notes what it was given and what was called.
SPACES = """
import functools, os
NOTES = os.environ["SPACES_NOTES"]
def note(line):
    with open(NOTES, "a") as file:
        file.write(line + "\\n")
def GPU(task=None, duration=60):
    if task is None:
        return functools.partial(GPU, duration=duration)
    note("given " + task.__name__)
    @functools.wraps(task)
    def lent(*args, **kwargs):
        note("called " + task.__name__)
        return task(*args, **kwargs)
    return lent
"""


def test_the_front_matter_is_what_a_space_takes():
    card = metadata_load(ROOT / "README.md")
    assert card["sdk"] == "gradio" and card["sdk_version"] == version("gradio")
    assert f"gradio=={card['sdk_version']}" in (ROOT / "requirements.txt").read_text()
    assert (ROOT / card["app_file"]).is_file()
    assert {card["colorFrom"], card["colorTo"]} <= COLOURS
    assert len(card["short_description"]) <= 60
    assert card["title"] and card["emoji"] and card["license"] == "mit"
    assert re.fullmatch(r"3\.\d+", card["python_version"]) and isinstance(card["models"], list)
    assert card["suggested_hardware"] in {"cpu-basic", "cpu-upgrade", "zero-a10g", "t4-small"}
    assert all(re.fullmatch(r"[a-z0-9-]+", tag) for tag in card["tags"])


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """`python app.py` with what a Space sets and nothing else; its address, and its one writable folder."""
    home = tmp_path_factory.mktemp("space")
    (home / "packages").mkdir()
    (home / "packages" / "spaces.py").write_text(SPACES)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ours = ("CCE_STUDIO_TRAINING", "CCE_DATA", "GRADIO_TEMP_DIR", "GRADIO_MCP_SERVER")
    environment = {key: value for key, value in os.environ.items() if key not in ours} | {
        "SPACE_ID": "someone/cce-studio",
        "GRADIO_SERVER_NAME": "0.0.0.0",
        "GRADIO_SERVER_PORT": str(port),
        "CCE_STUDIO_HOME": str(home / "writable"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(home / "packages"),
        "SPACES_NOTES": str(home / "notes.txt"),
    }
    with open(home / "log.txt", "w") as log:
        process = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            for _ in range(600):
                assert process.poll() is None, (home / "log.txt").read_text()
                if "CCE Studio is on" in (home / "log.txt").read_text():
                    break
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}/", home
        finally:
            process.terminate()
            process.wait(30)


@pytest.mark.slow
def test_a_dry_run_as_a_space(space: tuple[str, Path], tmp_path: Path):
    url, home = space
    client = Client(url, verbose=False)
    page = str(client.config)
    (start,) = [c["props"] for c in client.config["components"] if c["props"].get("elem_id") == "train-start"]
    assert start["interactive"] is False
    assert "Training is off on this Space" in page and "CCE_STUDIO_TRAINING to 1" in page
    names = [name for name in client.view_api(return_format="dict", print_info=False)["named_endpoints"]]
    assert not [name for name in names if re.search("start|stop|delete|resume", name)]
    assert "/attack" in names
    picture = tmp_path / "digit.png"
    picture.write_bytes(to_png(data.load("digits").test.pixels()[3]))
    path, result = client.predict(
        image=handle_file(picture), label="auto", model="digits-cce-dm", attack="pgd", steps=2, api_name="/attack"
    )
    assert Path(path).is_file() and len(result["trajectory"]) == 3
    notes = (home / "notes.txt").read_text().split("\n")
    assert "given attack" in notes and "given classify" in notes
    assert "called attack" in notes and "called classify" not in notes
    assert not [line for line in notes if line in ("given runs", "given run")]
    assert (home / "writable" / "tmp").is_dir()
    assert "Traceback" not in (home / "log.txt").read_text()
