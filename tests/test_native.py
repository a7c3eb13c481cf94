import ctypes
import os
import shutil

import pytest
import torch
import torch.nn.functional as F

from cce import native, winograd
from cce.config import ModelConfig
from cce.models import ConvNorm, Convolution, Ensemble, SearchCopy

compiled = pytest.mark.skipif(native.library() is None, reason="no AVX, or no C++ compiler, here")


@pytest.fixture
def anew(monkeypatch, tmp_path):
    """Looks for the library again, in an empty place."""
    monkeypatch.setenv("CCE_STUDIO_HOME", str(tmp_path))
    monkeypatch.setattr(native, "_FLAGS", (*native._FLAGS, "-O1"))
    monkeypatch.setattr(native, "_known", [])
    return tmp_path


def works_without():
    conv = Convolution(16, 16, 3, padding=1)
    x = torch.rand(1, 16, 8, 8)
    return torch.equal(conv(x), F.conv2d(x, conv.weight, conv.bias, padding=1)) and native.library() is None


@pytest.mark.skipif("AVX" not in torch.backends.cpu.get_cpu_capability(), reason="no AVX here")
@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler here")
@pytest.mark.skipif(os.environ.get("CCE_STUDIO_NATIVE") == "0", reason="turned off")
def test_where_it_can_be_compiled_it_is_used():
    """What is wrong with it makes PyTorch compute, and would skip every other test of it."""
    assert native.library() is not None


@compiled
def test_it_is_compiled_once_and_kept(anew, monkeypatch):
    assert native.library() is not None
    (kept,) = (anew / "native").iterdir()
    assert kept.name.startswith("cce-") and kept.suffix == ".so"
    native._known.clear()
    monkeypatch.setattr(native, "_run", lambda *commands: pytest.fail("compiled again"))
    assert native.library() is not None


@compiled
def test_a_thread_that_looks_hides_nothing_that_is_known():
    with native._lock:
        assert native.library() is not None


def test_while_another_thread_compiles_pytorch_computes(anew):
    with native._lock:
        assert works_without()


def test_it_can_be_turned_off(anew, monkeypatch):
    monkeypatch.setenv("CCE_STUDIO_NATIVE", "0")
    assert works_without()


def test_without_a_compiler_pytorch_convolves(anew, monkeypatch):
    monkeypatch.setenv("PATH", str(anew))
    monkeypatch.delenv("CXX", raising=False)
    assert works_without()


def test_a_compiler_that_fails_is_no_compiler(anew, monkeypatch):
    bad = anew / "c++"
    bad.write_text("#!/bin/sh\nexit 1\n")
    bad.chmod(0o755)
    monkeypatch.setenv("CXX", str(bad))
    assert works_without()


def test_a_place_that_cannot_be_written_is_no_failure(anew, monkeypatch):
    (anew / "native").write_text("a file where the folder should be")
    assert works_without()


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
def test_a_library_that_computes_something_else_is_not_used(file, slips, anew, monkeypatch):
    place = shutil.copytree(native._PLACE, anew / "source")
    text = (place / file).read_text()
    for right, wrong in slips.items():
        assert right in text
        text = text.replace(right, wrong)
    (place / file).write_text(text)
    monkeypatch.setattr(native, "_PLACE", place)
    assert works_without()


@compiled
@pytest.mark.skipif(native.openmp() is None, reason="PyTorch has no OpenMP here")
def test_the_work_is_shared_by_pytorchs_own_threads_and_by_others_alike(request, monkeypatch):
    """Threads of ours would share the cores with PyTorch's, which wait awake for their next work."""
    work = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    asked = []

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    def one_thread_of_those_asked_for(function, data, threads, flags):
        asked.append(threads)
        work(function)(data)

    known, own, before = native._known, native.openmp(), torch.get_num_threads()
    request.addfinalizer(lambda: (known[0].cce_threads(own), torch.set_num_threads(before)))
    torch.set_num_threads(3)
    x, weight = torch.randn(7, 16, 12, 12), torch.randn(32, 16, 3, 3)
    found = []
    for threads in (own, None, ctypes.cast(one_thread_of_those_asked_for, ctypes.c_void_p).value):
        monkeypatch.setattr(native, "openmp", lambda threads=threads: threads)
        monkeypatch.setattr(native, "_known", [])
        assert native.library() is not None  # loaded once more, the same file
        asked.clear()
        found.append(winograd.convolve(x, weight))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])
    assert asked == [3]


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """The code for vectors of 16: where the processor has AVX-512 it is what runs, else the compiler splits them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CCE_STUDIO_HOME", str(tmp_path_factory.mktemp("wide")))
        return native.declared(ctypes.CDLL(str(native.compiled("c++", "-O1", "-DCCE_LANES=16"))))


@compiled
@pytest.mark.slow
def test_the_code_for_wider_vectors_convolves_alike(wide, monkeypatch):
    assert native.agrees(wide)
    generator = torch.Generator().manual_seed(0)
    x, w = torch.randn(3, 32, 9, 9, generator=generator), torch.randn(16, 32, 3, 3, generator=generator)
    weight, other = w.clone().requires_grad_(), w.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(F.conv2d(x, other, padding=1).square().sum(), other)
    monkeypatch.setattr(native, "_known", [wide])
    (found,) = torch.autograd.grad(winograd.convolve(x, weight).square().sum(), weight)
    assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max()


@compiled
@pytest.mark.slow
def test_the_code_for_wider_vectors_computes_networks_and_norms_alike(wide, monkeypatch):
    torch.manual_seed(0)
    model, x = Ensemble(ModelConfig("resnet8", 1, 10, (3, 16, 16))).eval(), torch.rand(3, 3, 16, 16)
    search, pair = SearchCopy(model, torch.float32), ConvNorm(16, 32)
    y = torch.randn(2, 16, 8, 8).contiguous(memory_format=torch.channels_last).requires_grad_()

    def results():
        search.refresh()
        leaf = x.clone().requires_grad_()
        logits = search.model(leaf)
        out = pair.train()(y, relu=True)
        return [
            logits,
            *torch.autograd.grad(logits[:, 0].sum(), leaf),
            out,
            *torch.autograd.grad(out.square().sum(), y),
        ]

    monkeypatch.setattr(native, "_known", [wide])
    found = results()
    with native.turned_off():
        wanted = results()
    for one, two in zip(found, wanted, strict=True):
        assert (one - two).abs().max() <= 1e-4 * two.abs().max()
