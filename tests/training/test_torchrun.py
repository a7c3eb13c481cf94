"""`torchrun -m cce ...`: its own options stand in the way of none of ours."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cce.__main__ import build_parser
from cce.config import to_json
from cce.training.run_folder import RunFolder
from tiny_runs import tiny_config


def flags():
    """Every flag of every command, by all its names."""
    (commands,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    for name, parser in commands.choices.items():
        for action in parser._actions:
            long = [option for option in action.option_strings if option.startswith("--")]
            if long and "--help" not in long:
                yield pytest.param(name, long, id=f"{name} {long[0]}")


@pytest.mark.parametrize(("command", "names"), flags())
def test_every_flag_has_a_name_that_torchrun_passes_on(command, names):
    from torch.distributed.run import get_args_parser

    passed = []
    for name in names:
        words = ["--nproc-per-node", "2", "-m", "cce", command, name, "1"]
        try:
            found = get_args_parser().parse_args(words)
        except SystemExit:  # "ambiguous option"
            continue
        if found.training_script_args == [command, name, "1"]:
            passed.append(name)
    assert passed, f"torchrun takes {names} for options of its own"


@pytest.mark.slow
def test_torchrun_trains_in_the_folder_that_it_is_given(tmp_path):
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps(to_json(tiny_config(evaluate_every=100))))
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "cce", "train"]
    words += ["--config", str(path), "--quiet", "--device", "cpu", "--run-folder", str(tmp_path / "mine")]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    folder = RunFolder(tmp_path / "mine")
    assert folder.status()["state"] == "finished" and (folder.checkpoint / "model.safetensors").exists()
