import ctypes
import os
import re
import shutil
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from cce import kernels
from cce.fast import use_kernels
from cce.kernels import library, seam, winograd

compiled = pytest.mark.skipif(not kernels.available(), reason="no AVX, or no C++ compiler, here")


@pytest.fixture
def anew(monkeypatch, tmp_path):
    """Looks for the library again, in an empty folder."""
    tmp_path.chmod(0o700)
    monkeypatch.setenv("CCE_STUDIO_HOME", str(tmp_path))
    monkeypatch.setattr(library, "FLAGS", (*library.FLAGS, "-O1"))
    monkeypatch.setattr(library, "_found", [])
    return tmp_path


_objects: dict[str, bytes] = {}
"""What was compiled in these tests, by flags and text: the compiler takes five seconds a file."""


def text_of(source, met):
    """A source with the headers that it includes, those that they include too."""
    if source in met:
        return ""
    met.add(source)
    text = source.read_text()
    return text + "".join(text_of(source.parent / name, met) for name in re.findall(r'#include "(.+)"', text))


def run_what_is_new(*commands, run=library._run):
    """As `library._run`; an object that was compiled of the same text is copied."""
    objects = {}
    for command in commands:
        if "-c" in command:
            to, source = Path(command[-2]), Path(command[-1])
            objects[to] = " ".join(command[:-2]) + text_of(source, set())
    run(*(c for c in commands if "-c" not in c or objects[Path(c[-2])] not in _objects))
    for to, key in objects.items():
        if key in _objects:
            to.write_bytes(_objects[key])
        _objects[key] = to.read_bytes()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The bytes of the library, compiled once."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("built")
        folder.chmod(0o700)
        patch.setenv("CCE_STUDIO_HOME", str(folder))
        patch.setattr(library, "FLAGS", (*library.FLAGS, "-O1"))
        patch.setattr(library, "_run", run_what_is_new)
        return library.compiled(library.compiler()).read_bytes()


@pytest.fixture
def compilations(anew, built, monkeypatch):
    """How often the library was compiled anew; a copy of the one library takes the compiler's time away."""
    whole, counted = built, []

    def run(*commands):
        counted.append(len(commands))
        if "-shared" in commands[0]:
            Path(commands[0][commands[0].index("-o") + 1]).write_bytes(whole[: -library._CHECKSUM])

    monkeypatch.setattr(library, "_run", run)
    return counted


def kept(folder):
    (path,) = (folder / "native").iterdir()
    return path


def works_without(caplog, why):
    """PyTorch convolves, and one line of the log says why."""
    conv = torch.nn.Conv2d(16, 16, 3, padding=1)
    use_kernels(conv)
    x = torch.rand(1, 16, 8, 8)
    same = torch.equal(conv(x), F.conv2d(x, conv.weight, conv.bias, padding=1))
    said = [r.getMessage() for r in caplog.records if r.name == "cce.kernels.library"]
    return same and not kernels.available() and ([why in line for line in said] == [True] if why else not said)


@pytest.mark.skipif("AVX" not in torch.backends.cpu.get_cpu_capability(), reason="no AVX here")
@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler here")
@pytest.mark.skipif(os.environ.get("CCE_STUDIO_NATIVE") == "0", reason="turned off")
def test_where_it_can_be_compiled_it_is_used():
    """What is wrong with it makes PyTorch compute, and would skip every other test of it."""
    assert kernels.available()


@compiled
def test_it_is_compiled_once_and_kept(anew, compilations):
    assert kernels.available() and compilations == [4 - 1, 1]
    assert stat.S_IMODE(kept(anew).stat().st_mode) == 0o600
    library._found.clear()
    assert kernels.available() and len(compilations) == 2


@compiled
@pytest.mark.parametrize("damage", ["cut", "empty", "changed", "writable"])
def test_a_damaged_file_is_compiled_again(damage, anew, compilations):
    """A file that is cut short would end the process (SIGBUS) when it is loaded."""
    assert kernels.available()
    path = kept(anew)
    whole = path.read_bytes()
    damaged = {"cut": whole[:5000], "empty": b"", "changed": whole[:9000] + b"?" + whole[9001:], "writable": whole}
    path.unlink()  # what this process has loaded stays whole
    path.write_bytes(damaged[damage])
    path.chmod(0o600)
    if damage == "writable":
        path.chmod(0o622)
    library._found.clear()
    assert kernels.available() and len(compilations) == 4
    assert library.is_whole(path) and path.read_bytes() == whole


@compiled
def test_a_link_is_no_library(anew, compilations):
    assert kernels.available()
    path = kept(anew)
    other = path.rename(anew / "elsewhere.so")
    path.symlink_to(other)
    library._found.clear()
    assert kernels.available() and not path.is_symlink()


@compiled
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777])
def test_nothing_is_loaded_from_a_folder_that_others_may_write_to(mode, anew, compilations, caplog):
    assert kernels.available()
    (anew / "native").chmod(mode)
    library._found.clear()
    assert works_without(caplog, "other users could write to")


@compiled
def test_a_folder_below_one_that_others_may_exchange_is_refused(anew, compilations, monkeypatch, caplog):
    (anew / "open" / "home").mkdir(parents=True)
    (anew / "open").chmod(0o777)
    monkeypatch.setenv("CCE_STUDIO_HOME", str(anew / "open" / "home"))
    assert works_without(caplog, str(anew / "open"))
    (anew / "open").chmod(0o1777)  # sticky, as /tmp: only the owner may exchange the folder in it
    library._found.clear()
    assert kernels.available()


@compiled
def test_threads_that_come_while_it_is_compiled_wait_and_use_it(anew, compilations, monkeypatch):
    """Results may not depend on who came first: native and PyTorch's sums round differently."""
    load, started, go_on = library._load, threading.Event(), threading.Event()

    def slowly():
        started.set()
        assert go_on.wait(60)
        return load()

    monkeypatch.setattr(library, "_load", slowly)
    with ThreadPoolExecutor(3) as pool:
        found = [pool.submit(kernels.available) for _ in range(3)]
        assert started.wait(60) and not any(f.done() for f in found)
        go_on.set()
        assert [f.result(60) for f in found] == [True] * 3
    assert len(compilations) == 2


def test_it_can_be_turned_off(anew, monkeypatch, caplog):
    monkeypatch.setenv("CCE_STUDIO_NATIVE", "0")
    assert works_without(caplog, None)


@compiled
def test_without_a_compiler_pytorch_convolves(anew, monkeypatch, caplog):
    monkeypatch.setenv("PATH", str(anew))
    monkeypatch.delenv("CXX", raising=False)
    assert works_without(caplog, "no C++ compiler")


@compiled
def test_a_compiler_that_fails_is_no_compiler(anew, monkeypatch, caplog):
    bad = anew / "c++"
    bad.write_text("#!/bin/sh\n[ $1 = --version ] && exit 0\nexit 1\n")
    bad.chmod(0o755)
    monkeypatch.setenv("CXX", str(bad))
    assert works_without(caplog, "failed")
    assert not list((anew / "native").iterdir())


@compiled
def test_a_place_that_cannot_be_written_is_no_failure(anew, caplog):
    (anew / "native").write_text("a file where the folder should be")
    assert works_without(caplog, "File exists")


def test_a_tensor_with_gaps_is_refused_before_its_address_is_taken():
    """Native code would read what lies between."""
    with pytest.raises(ValueError, match="dense tensors"):
        seam._address(torch.rand(4, 16, 8, 8)[:, :, ::2])


@compiled
@pytest.mark.parametrize(
    ("file", "slips"),
    [
        ("winograd.cpp", {"y[step] = d + 2.f * e;": "y[step] = d + 3.f * e;"}),
        ("norm.h", {"scale[c] = static_cast<float>(by)": "scale[c] = static_cast<float>(2 * by)"}),
        ("block.cpp", {"load(three + place) + given(from + place)": "load(three + place)"}),
        ("residual.cpp", {"4.f * sum[k]": "3.f * sum[k]"}),
        # With AVX alone, and with AVX-512.
        ("common.h", {"16, 32, 64, 128)": "16, 32, 128, 64)", "maskz_mov_ps(set,": "maskz_mov_ps(set >> 1,"}),
    ],
)
def test_a_library_that_computes_something_else_is_not_used(file, slips, anew, monkeypatch, caplog):
    place = shutil.copytree(library.SOURCE, anew / "source")
    text = (place / file).read_text()
    for right, wrong in slips.items():
        assert right in text
        text = text.replace(right, wrong)
    (place / file).write_text(text)
    monkeypatch.setattr(library, "SOURCE", place)
    monkeypatch.setattr(library, "_run", run_what_is_new)
    assert works_without(caplog, "differ from PyTorch's")


@compiled
@pytest.mark.skipif(library.openmp() is None, reason="PyTorch has no OpenMP here")
def test_the_work_is_shared_by_pytorchs_own_threads_and_by_others_alike(request, monkeypatch):
    """Threads of ours would share the cores with PyTorch's, which wait awake for their next work."""
    work = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    asked = []

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    def one_thread_of_those_asked_for(function, data, threads, flags):
        asked.append(threads)
        work(function)(data)

    known, own, before = library._found, library.openmp(), torch.get_num_threads()
    request.addfinalizer(lambda: (known[0].library.cce_threads(own), torch.set_num_threads(before)))
    torch.set_num_threads(3)
    x, weight = torch.randn(7, 16, 12, 12), torch.randn(32, 16, 3, 3)
    found = []
    for threads in (own, None, ctypes.cast(one_thread_of_those_asked_for, ctypes.c_void_p).value):
        monkeypatch.setattr(library, "openmp", lambda threads=threads: threads)
        monkeypatch.setattr(library, "_found", [])
        assert kernels.available()  # loaded once more, the same file
        asked.clear()
        found.append(winograd.convolve(x, weight))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    assert asked == [3]


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """The code for vectors of 16: where the processor has AVX-512 it is what runs, else the compiler splits them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CCE_STUDIO_HOME", str(tmp_path_factory.mktemp("wide")))
        return library.load(library.compiled("c++", "-O1", "-DCCE_LANES=16"))


@compiled
@pytest.mark.slow
def test_the_code_for_wider_vectors_convolves_alike(wide, monkeypatch):
    assert kernels.agrees(wide)
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(3, 32, 9, 9, generator=generator), torch.randn(16, 32, 3, 3, generator=generator)
    weight, other = w.clone().requires_grad_(), w.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(F.conv2d(x, other, padding=1).square().sum(), other)
    monkeypatch.setattr(library, "_found", [wide])
    (found,) = torch.autograd.grad(winograd.convolve(x, weight).square().sum(), weight)
    assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max()
