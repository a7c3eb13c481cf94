"""The same commands with the same seed print the same figures: in fresh processes, with more threads than cores.

Rounding may differ between settings (threads, batch size, precision), never between runs.
"""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from cce.config import to_json
from tiny_runs import tiny_config

RUNS, TOGETHER, THREADS = 10, 2, 3
"""Processes, how many at once, and the threads of each: together more than there are cores to run them."""

COMMANDS = """
import contextlib, hashlib, io, json, sys
from cce.__main__ import main

tiny, place = sys.argv[1:]
timed = ("seconds", "command", "created", "peak_memory", "images_per_second", "seconds_left")


def untimed(value):
    if isinstance(value, dict):
        return {k: untimed(v) for k, v in value.items() if k not in timed}
    return [untimed(v) for v in value] if isinstance(value, list) else value


def figures(*words):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main([*words, "--threads", "THREADS"]) == 0, words
    return untimed(json.loads(out.getvalue()))


small = ("--json", "--n", "16")
words = {
    "attack": ("attack", tiny, "test:5", "--json"),
    "evaluate": ("evaluate", tiny, *small, "--adaptive", "1", "--attacks", "pgd:2", "mim:2", "--fresh"),
    "detect": ("detect", tiny, *small, "--adaptive", "1", "--attacks", "pgd:2"),
    "transfer": ("transfer", tiny, *small, "--attack", "pgd:2"),
    "surface": ("surface", tiny, "test:5", "--resolution", "9", "--json"),
    "reproduce": ("reproduce", "table6", "--checkpoints", tiny, "--steps", "2", "--out", f"{place}/r.html", *small),
}
found = {name: figures(*given) for name, given in words.items()}
for name in ("evaluate", "surface"):  # every command reads the checkpoint anew
    assert figures(*words[name]) == found[name], f"{name} differs within a process"
with contextlib.redirect_stdout(io.StringIO()):
    run = ("--config", f"{place}/train.json", "--run", f"{place}/run", "--quiet")
    assert main(["train", *run, "--threads", "THREADS"]) == 0
with open(f"{place}/run/metrics.jsonl") as rows:
    found["train"] = untimed([json.loads(row) for row in rows])
with open(f"{place}/run/checkpoint/model.safetensors", "rb") as weights:
    found["weights"] = hashlib.sha256(weights.read()).hexdigest()
print(json.dumps({k: hashlib.sha256(json.dumps(v, sort_keys=True).encode()).hexdigest() for k, v in found.items()}))
"""


@pytest.mark.slow
def test_every_command_gives_the_same_figures_in_every_run(tiny_checkpoints, tmp_path):
    """On the code with addresses in caches that threads share, surfaces and evaluations differ within ten runs.

    Each process has two evaluations and two surfaces.
    """
    config = json.dumps(to_json(tiny_config(train_images=16, evaluate_every=2.0)))
    code = COMMANDS.replace("THREADS", str(THREADS))

    def run(number):
        place = tmp_path / str(number)
        place.mkdir()
        (place / "train.json").write_text(config)
        words = [sys.executable, "-c", code, str(tiny_checkpoints / "tiny-two"), str(place)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout.splitlines()[-1])

    with ThreadPoolExecutor(TOGETHER) as pool:
        seen = list(pool.map(run, range(RUNS)))
    differing = {name for one in seen for name in one if one[name] != seen[0][name]}
    assert not differing
