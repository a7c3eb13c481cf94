"""Weights in number types that people publish: refused by name and type, or loaded right."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from cce.__main__ import main
from cce.checkpoints.folder import CheckpointError, load


@pytest.fixture
def copy(tiny_checkpoints, tmp_path):
    """A copy of a checkpoint with changed weights."""

    def make(change):
        folder = tmp_path / "copy"
        shutil.copytree(tiny_checkpoints / "tiny-two", folder)
        save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors")
        return folder

    return make


def first_weight(tensors):
    return next(k for k in sorted(tensors) if k.endswith("weight"))


@pytest.mark.parametrize("kind", ["float8_e4m3fn", "float8_e5m2", "int32", "int64", "uint8", "complex64", "bool"])
def test_a_type_that_is_no_weights_is_refused_by_name_and_type(kind, copy, capsys):
    names = []

    def change(tensors):
        names.append(first_weight(tensors))
        return tensors | {names[0]: tensors[names[0]].float().to(getattr(torch, kind))}

    folder = copy(change)
    with pytest.raises(CheckpointError) as refused:
        load(folder)
    assert names[0] in str(refused.value) and f"the type {kind.removesuffix('fn')}" in str(refused.value)
    assert main(["attack", str(folder), "test:0"]) == 1
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_load_as_float32(kind, copy, tiny_checkpoints):
    folder = copy(lambda t: {k: v.to(kind) if v.is_floating_point() else v for k, v in t.items()})
    made, before = load(folder), load(tiny_checkpoints / "tiny-two")
    for name, tensor in made.model.state_dict().items():
        assert tensor.dtype == before.model.state_dict()[name].dtype
        assert torch.allclose(tensor.float(), before.model.state_dict()[name].float(), atol=0.02, rtol=0.01)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "metrics.json"])
def test_a_git_lfs_pointer_is_named(name, copy):
    folder = copy(lambda t: t)
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:" + "a" * 64 + "\nsize 123\n")
    with pytest.raises(CheckpointError, match=f"{name} is a Git LFS pointer.*git lfs pull"):
        load(folder)
