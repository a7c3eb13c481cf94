"""torchvision beside a CPU-only torch. Each case has its own process: an import happens once."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
OPERATOR = "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def run(code: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter from the repository, with an optional folder put first."""
    start = f"import sys; sys.path[:0] = {[str(p) for p in (path, REPOSITORY) if p]!r}\n"
    return subprocess.run(
        [sys.executable, "-c", start + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def fake_torchvision(folder: Path, code: str) -> Path:
    """Put a package named torchvision, with this code, into the folder."""
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "__init__.py").write_text(textwrap.dedent(code))
    return folder


def test_the_installed_torchvision_imports_with_its_datasets_and_transforms_twice():
    done = run("""
        import gc
        from cce.data.torchvision_loading import import_torchvision
        first = import_torchvision()
        gc.collect()
        assert import_torchvision() is first
        import torchvision.datasets, torchvision.transforms.v2
        assert first.datasets.CIFAR10 and first.datasets.MNIST and first.datasets.CIFAR100
        import torch
        assert torch.ops.torchvision.nms, "the declaration was collected"
        print("fine")
    """)
    assert done.returncode == 0, done.stderr
    assert "fine" in done.stdout


def test_a_plain_import_that_failed_before_does_not_spoil_it():
    done = run("""
        try:
            import torchvision
        except RuntimeError:
            pass
        from cce.data.torchvision_loading import import_torchvision
        import_torchvision().datasets.CIFAR10
        print("fine")
    """)
    assert done.returncode == 0, done.stderr


def test_where_the_library_loads_nothing_is_declared(tmp_path):
    path = fake_torchvision(
        tmp_path,
        f"""
        import torch
        library = torch.library.Library("torchvision", "DEF")
        library.define("{OPERATOR}")
        """,
    )
    done = run(
        """
        from cce.data import torchvision_loading
        module = torchvision_loading.import_torchvision()
        assert module is torchvision_loading.import_torchvision() and module.library
        assert torchvision_loading._declarations is None
        """,
        path,
    )
    assert done.returncode == 0, done.stderr


def test_the_missing_operators_are_declared_and_the_import_tried_again(tmp_path):
    path = fake_torchvision(
        tmp_path,
        """
        import torch
        torch.library.register_fake("torchvision::nms", lambda d, s, t: d)
        torch.library.register_fake("torchvision::qnms", lambda d, s, t: d)
        """,
    )
    done = run(
        """
        from cce.data import torchvision_loading
        torchvision_loading.import_torchvision()
        assert torchvision_loading._declarations is not None
        """,
        path,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("failure", ["RuntimeError('the disk is on fire')", "RuntimeError('torchvision::else')"])
def test_another_failure_is_not_hidden(tmp_path, failure):
    path = fake_torchvision(tmp_path, f"raise {failure}")
    done = run("from cce.data.torchvision_loading import import_torchvision as i; i()", path)
    assert done.returncode == 1
    assert failure.split("'")[1] in done.stderr.splitlines()[-1]
