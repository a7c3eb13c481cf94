"""Data: no real data set and no network; tiny files in a temporary folder, a fake torchvision."""

import importlib.util
import time
import types
import zipfile
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch

from cce.data import datasets as data
from cce.data import downloads
from cce.data.datasets import CLASS_NAMES, DATASETS, DataError, Split, load, samples

SHAPES = {"mnist": (28, 28), "cifar10": (32, 32, 3), "cifar100": (32, 32, 3)}


def tiny_arrays(name: str, train: int = 30, test: int = 20) -> dict[str, np.ndarray]:
    """Random images in the file's layout; labels count up from zero."""
    rng = np.random.default_rng(0)
    draw = lambda count: rng.integers(0, 256, (count, *SHAPES[name]), dtype=np.uint8)  # noqa: E731
    return {
        "x_train": draw(train),
        "y_train": (np.arange(train) % 10).astype(np.uint8),
        "x_test": draw(test),
        "y_test": (np.arange(test) % 10).astype(np.uint8),
    }


def write(folder: Path, name: str, **changes: np.ndarray | None) -> dict[str, np.ndarray]:
    """Write a tiny data file, with some arrays replaced, or left out where None."""
    arrays = {k: v for k, v in (tiny_arrays(name) | changes).items() if v is not None}
    np.savez(folder / f"{name}.npz", **arrays)
    return arrays


@pytest.fixture
def no_download(monkeypatch):
    """A torchvision whose every download fails, as without a network."""

    def refuse(*_, **__):
        raise URLError("no network")

    datasets = types.SimpleNamespace(MNIST=refuse, CIFAR10=refuse, CIFAR100=refuse)
    fake = types.SimpleNamespace(datasets=datasets)
    monkeypatch.setattr(downloads, "import_torchvision", lambda: fake)
    monkeypatch.setattr(downloads, "_POLL_SECONDS", 0.01)


# Loading


@pytest.mark.parametrize("name", list(SHAPES))
def test_file_becomes_three_splits(tmp_path, name):
    arrays = write(tmp_path, name)
    dataset = load(name, tmp_path)
    assert dataset.classes == CLASS_NAMES[name]
    assert dataset.input_size == ((1, 28, 28) if name == "mnist" else (3, 32, 32))
    assert dataset.train.images.dtype == torch.uint8 and dataset.train.labels.dtype == torch.int64
    x = arrays["x_test"].reshape(20, *SHAPES[name][:2], -1)
    assert np.array_equal(dataset.test.images.numpy(), x.transpose(0, 3, 1, 2))
    assert dataset.test.labels.tolist() == arrays["y_test"].tolist()
    assert (len(dataset.train), len(dataset.test), len(dataset.calibration)) == (30, 20, 2)


def test_calibration_is_the_last_tenth_of_the_test_set_and_detection_avoids_it(tmp_path):
    write(tmp_path, "cifar10")
    dataset = load("cifar10", tmp_path)
    assert dataset.calibration.start == 18
    assert torch.equal(dataset.calibration.images, dataset.test.images[18:])
    assert torch.equal(dataset.detection_test.images, dataset.test.images[:18])
    assert dataset.flips


def test_labels_in_a_column_and_channels_last_mnist_are_read_too(tmp_path):
    arrays = tiny_arrays("mnist")
    write(tmp_path, "mnist", x_test=arrays["x_test"][..., None], y_test=arrays["y_test"][:, None])
    dataset = load("mnist", tmp_path)
    assert dataset.test.images.shape == (20, 1, 28, 28) and dataset.test.labels.shape == (20,)
    assert not dataset.flips


def test_root_falls_back_on_the_environment(tmp_path, monkeypatch):
    write(tmp_path, "mnist")
    monkeypatch.setenv("CCE_DATA", str(tmp_path))
    assert data.available("mnist") and not data.available("cifar10")
    assert len(load("mnist").train) == 30


def test_split_pixels_are_on_the_grid_and_first_shares_memory():
    split = Split(torch.arange(256, dtype=torch.uint8).view(4, 1, 8, 8), torch.arange(4), start=7)
    assert torch.equal(split.pixels() * 255, split.images.float())
    assert split.pixels().dtype == torch.float32 and split.pixels().max() == 1
    two = split.first(2)
    assert len(two) == 2 and two.start == 7 and two.images.data_ptr() == split.images.data_ptr()
    assert len(split.first(9)) == 4
    with pytest.raises(ValueError, match="n is -1"):
        split.first(-1)
    with pytest.raises(ValueError, match="4 images but 3 labels"):
        Split(split.images, torch.arange(3))


# Digits and samples


def test_digits_are_always_there(tmp_path):
    assert data.available("digits", tmp_path)
    dataset = load("digits", tmp_path)
    assert [len(s) for s in (dataset.train, dataset.calibration, dataset.test)] == [1257, 180, 360]
    assert [s.start for s in (dataset.train, dataset.calibration, dataset.test)] == [0, 1257, 1437]
    assert dataset.input_size == (1, 16, 16) and dataset.train.images.max() == 255
    assert len(dataset.detection_test) == 360 and not dataset.flips


def test_digits_are_scikit_learns_wherever_it_keeps_them(monkeypatch):
    from sklearn.datasets import load_digits

    own = load_digits()
    expected = np.column_stack([own.data, own.target])
    assert np.array_equal(data._digits_rows(), expected)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert np.array_equal(data._digits_rows(), expected)


def test_digits_follow_the_stated_rule():
    """Twice the size: output pixel 1 sits at input 0.25, pixel 2 at 0.75; pixel 0 repeats."""
    raw, _ = data._raw_digits()
    row = raw[0, 0] * 255 / 16  # [0, 0, 5, 13, 9, 1, 0, 0] * 255 / 16
    upscaled = load("digits").train.images[0, 0, 0]
    assert upscaled[0] == round(row[0])
    assert upscaled[5] == round(0.75 * row[2] + 0.25 * row[3])
    assert upscaled[6] == round(0.25 * row[2] + 0.75 * row[3])
    assert np.array_equal(load("digits", size=8).train.images[0, 0], (raw[0] * 255 / 16).round())


def test_sizes_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(ValueError, match="size is 4; digits are 8x8"):
        load("digits", size=4)
    with pytest.raises(ValueError, match="size is 16, but mnist has its own"):
        load("mnist", tmp_path, size=16)


@pytest.mark.parametrize("name", DATASETS)
def test_samples_come_with_installed_packages(name):
    split = samples(name)
    shape = {"mnist": (1, 28, 28), "digits": (1, 16, 16)}.get(name, (3, 32, 32))
    assert split.images.shape == (360 if name == "digits" else 20, *shape)
    assert split.images.dtype == torch.uint8 and split.labels.dtype == torch.int64
    assert split.labels.max() < len(CLASS_NAMES[name])


def test_samples_are_the_first_of_the_official_test_sets():
    assert samples("cifar10").labels[:6].tolist() == [3, 8, 8, 0, 6, 6]
    assert samples("mnist").labels[:6].tolist() == [7, 2, 1, 0, 4, 1]
    names = [CLASS_NAMES["cifar100"][i] for i in samples("cifar100").labels[:3]]
    assert names == ["mountain", "forest", "seal"]


def test_samples_without_foolbox_say_what_to_install(monkeypatch):
    monkeypatch.setattr(data.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install foolbox"):
        samples("mnist")


def test_class_names_are_official():
    assert {name: len(classes) for name, classes in CLASS_NAMES.items()} == {
        "mnist": 10,
        "digits": 10,
        "cifar10": 10,
        "cifar100": 100,
    }
    for name in ("cifar10", "cifar100"):
        assert list(CLASS_NAMES[name]) == sorted(CLASS_NAMES[name])


@pytest.mark.parametrize("call", [load, samples, data.available], ids=["load", "samples", "available"])
def test_unknown_name_lists_the_known_ones(call):
    with pytest.raises(ValueError, match="no data set is called 'imagenet'.*cifar10"):
        call("imagenet")


# Files that are not what they should be


def test_no_file_and_no_network_says_where_it_looked_and_three_ways(tmp_path, no_download):
    with pytest.raises(DataError) as caught:
        load("cifar10", tmp_path / "new")
    message = str(caught.value)
    assert "could not be downloaded" in message and "no network" in message
    assert f"Looked for cifar10.npz in {tmp_path / 'new'}" in message
    assert all(f"  {way}. " in message for way in (1, 2, 3))
    assert "python -m cce data cifar10" in message and "170 MB" in message
    assert str(tmp_path / "new" / "cifar10.npz") in message and "CCE_DATA" in message
    assert list((tmp_path / "new").iterdir()) == [], "nothing may be left behind"


BAD = {
    "float images": ({"x_train": np.zeros((30, 32, 32, 3))}, "x_train is float64.*uint8"),
    "channels first": (
        {"x_test": np.zeros((20, 3, 32, 32), np.uint8)},
        r"x_test has shape \(20, 3, 32, 32\).*channels last",
    ),
    "missing array": ({"y_test": None}, "lacks y_test"),
    "float labels": ({"y_train": np.zeros(30)}, "y_train is float64"),
    "too few labels": ({"y_test": np.zeros(19, np.int64)}, r"y_test has shape \(19,\).*20 images"),
    "label too large": ({"y_test": np.full(20, 10)}, "y_test runs from 10 to 10.*0 to 9"),
    "negative label": ({"y_train": np.full(30, -1)}, "y_train runs from -1"),
    "pickled objects": ({"y_test": np.array([None] * 20)}, "y_test cannot be read"),
    "no test images": (
        {"x_test": np.zeros((0, 32, 32, 3), np.uint8), "y_test": np.zeros(0, np.int64)},
        "x_test has 0 images; at least 10",
    ),
}


@pytest.mark.parametrize(("changes", "words"), BAD.values(), ids=BAD)
def test_a_wrong_file_is_named_with_its_field(tmp_path, changes, words):
    write(tmp_path, "cifar10", **changes)
    with pytest.raises(DataError, match=words) as caught:
        load("cifar10", tmp_path)
    assert str(tmp_path / "cifar10.npz") in str(caught.value)


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "flipped byte", "npy"])
def test_a_damaged_file_is_named_with_the_way_out(tmp_path, damage):
    write(tmp_path, "mnist")
    path = tmp_path / "mnist.npz"
    content = bytearray(path.read_bytes())
    if damage == "flipped byte":
        content[2000] ^= 0xFF  # inside x_train, which the archive's checksum covers
    wrong = {"truncated": content[: len(content) // 2], "empty": b"", "text": b"hello"}
    path.write_bytes(wrong.get(damage, content))
    if damage == "npy":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    with pytest.raises(DataError, match="delete the file and load again") as caught:
        load("mnist", tmp_path)
    assert str(path) in str(caught.value)


HEADERS = {
    "no Python": (b"{'descr': '|u1', 'fortran_order': (, 'shape': (3,), }", "cannot be read"),
    "no type": (b"{'descr': '|q9', 'fortran_order': False, 'shape': (3,), }", "cannot be read"),
    "no array": (None, "is no array"),
}


@pytest.mark.parametrize(("header", "words"), HEADERS.values(), ids=HEADERS)
def test_a_header_that_numpy_chokes_on_is_told_in_words(tmp_path, header, words):
    """NumPy raises nearly anything over these, or gives bytes."""
    write(tmp_path, "mnist")
    path, kept = tmp_path / "mnist.npz", {}
    with zipfile.ZipFile(path) as archive:
        kept = {name: archive.read(name) for name in archive.namelist()}
    length = b"" if header is None else len(header).to_bytes(2, "little")
    kept["y_test.npy"] = b"nothing" if header is None else b"\x93NUMPY\x01\x00" + length + header + b"\x00" * 64
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in kept.items():
            archive.writestr(name, content)
    with pytest.raises(DataError, match=f"y_test {words}.*delete the file and load again") as caught:
        load("mnist", tmp_path)
    assert " at 0x" not in str(caught.value)


# Downloading


class FakeOfficial:
    """Stands in for a torchvision data set: writes into its root, gives arrays."""

    made = 0

    def __init__(self, root: str, train: bool, download: bool) -> None:
        assert download
        type(self).made += 1
        (Path(root) / "archive.tar.gz").write_bytes(b"x" * 1000)
        time.sleep(0.05)
        arrays = tiny_arrays("cifar10")
        part = "train" if train else "test"
        self.data, self.targets = arrays[f"x_{part}"], arrays[f"y_{part}"].tolist()


@pytest.fixture
def fake_download(monkeypatch):
    FakeOfficial.made = 0
    datasets = types.SimpleNamespace(CIFAR10=FakeOfficial)
    fake = types.SimpleNamespace(datasets=datasets)
    monkeypatch.setattr(downloads, "import_torchvision", lambda: fake)
    monkeypatch.setattr(downloads, "_POLL_SECONDS", 0.01)


def test_load_downloads_once_and_writes_the_file(tmp_path, fake_download):
    first = load("cifar10", tmp_path)
    again = load("cifar10", tmp_path)
    assert FakeOfficial.made == 2, "one for training, one for test, none the second time"
    assert torch.equal(first.train.images, again.train.images)
    assert first.test.labels.tolist() == tiny_arrays("cifar10")["y_test"].tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["cifar10.npz"], "no scratch left"


def test_download_reports_progress(tmp_path, fake_download):
    heard: list[tuple[float, str]] = []
    path = data.download("cifar10", tmp_path, lambda fraction, text: heard.append((fraction, text)))
    assert path == tmp_path / "cifar10.npz" and path.is_file()
    fractions = [fraction for fraction, _ in heard]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    assert any("Downloading cifar10" in text and "of 170 MB" in text for _, text in heard)


def test_a_download_cancelled_from_its_progress_leaves_no_file(tmp_path, fake_download):
    def cancel(fraction: float, text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        data.download("cifar10", tmp_path, cancel)
    assert not data.available("cifar10", tmp_path)


def test_a_dead_connection_is_noticed(tmp_path, monkeypatch):
    datasets = types.SimpleNamespace(CIFAR10=lambda *_, **__: time.sleep(1))
    stuck = types.SimpleNamespace(datasets=datasets)
    monkeypatch.setattr(downloads, "import_torchvision", lambda: stuck)
    monkeypatch.setattr(downloads, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(downloads, "_STALL_SECONDS", 0.1)
    with pytest.raises(DataError, match="nothing received for"):
        data.download("cifar10", tmp_path)


def test_a_write_that_fails_leaves_no_half_file(tmp_path, fake_download, monkeypatch):
    def fail(file, **arrays):
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(DataError, match="No space left on device"):
        data.download("cifar10", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_digits_have_no_file_to_download(tmp_path):
    with pytest.raises(ValueError, match="'digits' has no data file"):
        data.download("digits", tmp_path)
