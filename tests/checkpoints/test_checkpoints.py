import copy
import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from cce.checkpoints import folder as checkpoints
from cce.checkpoints.compact import halve, kept_as, quarter
from cce.checkpoints.folder import FILES, Checkpoint, CheckpointError, load, released, save, training_record
from cce.config import CCE_DM, CCE_RM, NAT, ConfigError, Detector, Phase, TrainConfig, to_json
from cce.reporting.cards import save_with_card
from cce.training import run_folder as runs

DIGITS = tuple("0123456789")


@pytest.fixture
def made(trained) -> Checkpoint:
    model = trained(2)
    phases = (Phase("natural", 1, NAT), Phase("detection", 0.5, CCE_DM))
    record = training_record(TrainConfig("digits", model.config, phases), 40, 12.34, torch.device("cpu"))
    return Checkpoint(
        "tiny",
        model,
        "digits",
        DIGITS,
        CCE_DM,
        record,
        Detector(1.25, 0.05, "180 digits", 180),
        {},
    )


@pytest.fixture
def folder(made, tmp_path):
    return save_with_card(made, tmp_path / "tiny")


def test_round_trip_gives_the_same_outputs_and_words(made, folder, digits):
    loaded = load(folder)
    x = digits.test.pixels()[:40]
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(x), made.model(x), atol=1e-5, rtol=0)
    assert all(torch.equal(v, made.model.state_dict()[k]) for k, v in loaded.model.state_dict().items())
    assert not loaded.model.training
    assert loaded.model.config == made.model.config
    assert (loaded.id, loaded.dataset, loaded.classes) == ("tiny", "digits", DIGITS)
    assert loaded.defense == CCE_DM and loaded.detector == made.detector
    assert loaded.training == json.loads(json.dumps(made.training))
    assert loaded.folder == made.folder == folder


def test_folder_holds_the_four_files_and_nothing_else(folder):
    assert sorted(p.name for p in folder.iterdir()) == sorted(FILES)


def test_config_says_what_the_design_asks_for(folder):
    values = json.loads((folder / "config.json").read_text())
    assert values["format_version"] == 1
    assert values["input_shape"] == [1, 8, 8] and values["classes"] == list(DIGITS)
    assert (values["architecture"], values["members"], values["dataset"]) == ("resnet8", 2, "digits")
    assert values["defense"] == {"name": "CCE-DM", **to_json(CCE_DM)}
    assert values["detector"]["threshold"] == 1.25 and values["detector"]["false_positive_rate"] == 0.05
    assert values["training"]["images_seen"] == 40 * 64
    assert values["training"]["seconds"] == 12.3
    assert values["training"]["versions"]["torch"] == torch.__version__.split("+")[0] or torch.__version__


def test_saving_again_replaces(made, folder, trained):
    other = Checkpoint("tiny", trained(1), "digits", DIGITS, CCE_RM, {})
    save(other, folder)
    assert load(folder).model.config.members == 1
    assert load(folder).detector is None


def test_a_failed_save_leaves_the_old_weights(made, folder, monkeypatch):
    before = load_file(folder / "model.safetensors")

    def fail(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(runs.os, "replace", fail)
    with torch.no_grad():
        made.model.members[0].head.bias += 1
    with pytest.raises(CheckpointError, match="cannot write the checkpoint .*No space left"):
        save(made, folder)
    after = load_file(folder / "model.safetensors")
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert sorted(p.name for p in folder.iterdir()) == sorted(FILES)


def test_metrics_come_back(made, folder):
    runs.write_atomically(folder / "metrics.json", '{"natural": {"accuracy": 0.5}}')
    assert load(folder).metrics == {"natural": {"accuracy": 0.5}}
    (folder / "metrics.json").unlink()
    assert load(folder).metrics == {}


def refused(folder, *words: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    for word in words:
        assert word in str(caught.value)


def test_a_folder_that_is_not_there(tmp_path):
    refused(tmp_path / "none", "none is not a folder; a checkpoint is a folder with config.json")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    refused(folder, f"{folder / name} is missing")


@pytest.mark.parametrize("keep", [0, 4, 100, -100])
def test_truncated_weights(folder, keep):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    refused(folder, f"{path} is truncated or damaged", "fetch the checkpoint again")


@pytest.mark.parametrize("name", ["config.json", "metrics.json"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "cannot be read"),
        (b"", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"[1, 2]", "is not a JSON object"),
    ],
)
def test_a_file_that_is_not_json(folder, name, content, words):
    (folder / name).write_bytes(content)
    refused(folder, str(folder / name), words)


def edit(folder, **changes) -> None:
    """Change fields of config.json; `...` removes one."""
    path = folder / "config.json"
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in values.items() if v is not ...}))


@pytest.mark.parametrize("version", [0, 2, "1", None, ...])
def test_a_wrong_format_version(folder, version):
    edit(folder, format_version=version)
    found = None if version is ... else version
    refused(folder, "config.json", f"format_version is {found!r}; this version reads 1")


@pytest.mark.parametrize(
    "name", ["id", "dataset", "classes", "input_shape", "architecture", "members", "defense", "training"]
)
def test_a_missing_field_is_named(folder, name):
    edit(folder, **{name: ...})
    refused(folder, "config.json", f"the field {name!r} is missing")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"members": 3}, "holds 2 members; config.json says members is 3"),
        ({"members": 1}, "holds 2 members; config.json says members is 1"),
        ({"classes": list("01234567")}, "head.weight has the shape (10, 64)"),
        ({"input_shape": [3, 8, 8]}, "stem.conv.weight has the shape (16, 1, 3, 3)"),
        ({"architecture": "resnet14"}, "config.json and the weights disagree"),
        ({"architecture": "cnn-mnist"}, "config.json and the weights disagree"),
        ({"members": 10**12}, "holds 2 members; config.json says members is 1000000000000"),
        ({"architecture": "resnet6000000002"}, "tensors are too few for resnet6000000002"),
        ({"architecture": "cnn-cifar10", "input_shape": [3, 100, 100]}, "config.json and the weights disagree"),
    ],
)
def test_a_config_that_disagrees_with_the_weights(folder, change, words):
    edit(folder, **change)
    refused(folder, "model.safetensors", words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architecture": "resnet9"}, "architecture is 'resnet9'"),
        ({"architecture": None}, "architecture is None"),
        ({"members": 0}, "members is 0; an ensemble has at least one"),
        ({"members": "2"}, "members is '2'; it must be a int"),
        ({"classes": 10}, "classes is 10; it must be a list"),
        ({"classes": []}, "classes is 0; it must be at least 2"),
        ({"input_shape": [1, 8]}, "input_shape has 2 entries; it must have 3"),
        ({"architecture": "cnn-mnist", "input_shape": [1, 2, 2]}, "cnn-mnist needs 4 x 4 pixels or more"),
        ({"id": 7}, "id is 7; it must be a str"),
        ({"defense": "CCE-RM"}, "defense is 'CCE-RM'; it must be a dict"),
        ({"defense": {"method": "magic"}}, "defense method is 'magic'"),
        ({"defense": {"lambda_rm": 1}}, "defense has an unknown field 'lambda_rm'"),
        ({"training": None}, "training is None; it must be a dict"),
        ({"detector": {"threshold": 1.0}}, "detector lacks the field"),
        ({"detector": "entropy"}, "detector is text; it must be an object"),
        (
            {"detector": {"threshold": math.nan, "false_positive_rate": 0.05, "calibrated_on": "", "images": 1}},
            "threshold is nan; it must be a finite number",
        ),
        (
            {"detector": {"threshold": 1.0, "false_positive_rate": 5.0, "calibrated_on": "", "images": 1}},
            "false_positive_rate is 5.0; it is from 0 to 1",
        ),
        (
            {"detector": {"threshold": "high", "false_positive_rate": 0.05, "calibrated_on": "", "images": 1}},
            "detector.threshold is 'high'; it must be a float",
        ),
    ],
)
def test_a_bad_field_of_the_config_is_named(folder, change, words):
    edit(folder, **change)
    refused(folder, str(folder / "config.json"), words)


def test_weights_of_half_precision_are_read_as_float32(made, folder, digits):
    path = folder / "model.safetensors"
    halves = {k: v.half() if v.is_floating_point() else v for k, v in load_file(path).items()}
    save_file(halves, path)
    loaded = load(folder).model
    assert {p.dtype for p in loaded.parameters()} == {torch.float32} and all(
        p.requires_grad for p in loaded.parameters()
    )
    with torch.no_grad():
        x = digits.test.pixels()[:40]
        torch.testing.assert_close(loaded(x), made.model(x), atol=0.05, rtol=0.05)


@pytest.mark.parametrize(
    ("rounded", "size", "words", "apart"),
    [(halve, 0.6, "half precision;", 5e-4), (quarter, 0.45, "int8 with a scale", 5e-3)],
)
def test_a_rounded_ensemble_takes_few_bytes_and_is_read_as_it_was(rounded, size, words, apart, made, folder, tmp_path):
    model = copy.deepcopy(made.model)
    rounded(model)
    small = save_with_card(replace(made, model=model), tmp_path / "small")
    sizes = [(f / "model.safetensors").stat().st_size for f in (folder, small)]
    assert sizes[1] < size * sizes[0]  # names and counts take as much as before
    loaded = load(small)
    for name, tensor in made.model.state_dict().items():
        assert loaded.model.state_dict()[name].dtype == tensor.dtype
        assert torch.equal(loaded.model.state_dict()[name], model.state_dict()[name])
        assert (model.state_dict()[name] - tensor).abs().max() <= 2e-7 + apart * tensor.abs().max()
    cards = [(f / "README.md").read_text() for f in (folder, small)]
    assert [words in card for card in cards] == [False, True]
    assert save(loaded, tmp_path / "again").joinpath("model.safetensors").stat().st_size == sizes[1]


def test_a_weight_beyond_half_precision_is_named(made):
    model = copy.deepcopy(made.model)
    model.members[1].head.bias.data[3] = 70000.0
    with pytest.raises(ConfigError, match=r"members\.1\.head\.bias holds values beyond float16's 65504"):
        halve(model)


def test_rows_of_zeros_and_of_one_size_stay_what_they_are(made):
    model = copy.deepcopy(made.model)
    weight = model.members[0].head.weight.data
    weight[0], weight[1] = 0.0, -0.25
    quarter(model)
    assert (weight[0] == 0).all() and torch.allclose(weight[1], torch.tensor(-0.25), rtol=4e-3)
    assert kept_as(model) == "int8"
    weight[2, 3] += 1e-4
    assert kept_as(model) == "float32"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: w.pop("members.0.head.weight.scale"), "head.weight is int8 and has no scales"),
        (lambda w: w.update({"members.0.head.weight.scale": torch.ones(3)}), "head.weight.scale has the shape (3,)"),
        (lambda w: w.update({"members.0.other.scale": torch.ones(3)}), "members.0.other.scale is not part of"),
        (lambda w: w["members.0.head.weight.scale"].fill_(math.inf), "head.weight holds values that are not finite"),
    ],
)
def test_scales_that_do_not_fit(change, words, made, tmp_path):
    model = copy.deepcopy(made.model)
    quarter(model)
    path = save(replace(made, model=model), tmp_path / "small") / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path)
    refused(path.parent, words)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite(folder, value):
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights["members.1.head.weight"][3, 5] = value
    save_file(weights, path)
    refused(folder, f"{path}: members.1.head.weight holds values that are not finite")


def test_a_missing_and_a_foreign_tensor(folder):
    path = folder / "model.safetensors"
    weights = load_file(path)
    bias = weights.pop("members.0.head.bias")
    save_file(weights, path)
    refused(folder, f"{path}: the tensor members.0.head.bias is missing")
    save_file(weights | {"members.0.head.bias": bias, "members.0.extra": bias.clone()}, path)
    refused(folder, f"{path}: the tensor members.0.extra is not part of this architecture")


def test_released_lists_folders_with_a_config_by_name(made, tmp_path):
    for name in ("b", "a"):
        save(made, tmp_path / name)
    (tmp_path / "c").mkdir()
    assert [p.name for p in released(tmp_path)] == ["a", "b"]


def test_every_released_checkpoint_loads():
    for path in released():
        assert load(path).id == path.name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": list("abcdefghij")}, "those of digits are 0, 1, 2, 3"),
        ({"classes": [[1]] * 10}, "it must be a list of names"),
        ({"id": "a\nb"}, "printable"),
        ({"id": "x" * 5000}, "printable"),
        ({"members": math.inf}, "members is inf"),
        ({"members": 10**400}, "members is inf"),
        ({"architecture": "resnet" + "9" * 5000}, "cannot be used"),
        ({"input_shape": [1, 10**6, 10**6]}, "at most 128 pixels a side"),
    ],
)
def test_what_a_stranger_may_write_into_the_config_is_refused_in_words(folder, change, words):
    edit(folder, **change)
    refused(folder, str(folder / "config.json"), words)


def test_deep_nesting_is_refused_in_words(folder):
    (folder / "config.json").write_text('{"a":' * 3000 + "1" + "}" * 3000)
    refused(folder, "nested more than 32 deep")


def test_a_training_record_that_does_not_fit_is_left_out_and_named(folder):
    edit(folder, training={"config": {}, "images_seen": "many"})
    checkpoint = load(folder)
    assert checkpoint.training == {} and "training" in checkpoint.left_out[0]


def test_a_full_disk_is_told_in_words(made, folder, monkeypatch):
    def fail(*args, **kwargs):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    before = (folder / "model.safetensors").read_bytes()
    monkeypatch.setattr(checkpoints, "save_file", fail)
    with pytest.raises(CheckpointError, match="cannot write the checkpoint .*No space left on device"):
        save(made, folder)
    assert (folder / "model.safetensors").read_bytes() == before
