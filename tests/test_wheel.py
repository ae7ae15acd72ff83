"""What is built is the library, all of it and nothing else, and works where the checkout is not."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("build")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]

NETWORK = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, input_shape, outputs):
        super().__init__(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, outputs))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # setuptools leaves a build folder behind, and takes up what it finds in one
    for name in subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines():
        if name.startswith(("mireg/", "models/", "pyproject", "README", "LICENSE")) and (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(source)]
    built = subprocess.run(command, capture_output=True, text=True)
    if built.returncode and "Could not find a version" in built.stdout + built.stderr:
        pytest.skip("setuptools cannot be fetched")
    assert built.returncode == 0, built.stdout + built.stderr
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that has the wheel, and of this one no more than the packages it depends on."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # A path file is not read for path files in turn: an editable install of the checkout stays out of sight.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "python"


def test_contents(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"mireg"}
    missing = {str(path.relative_to(ROOT)) for path in (ROOT / "mireg").rglob("*.py")} - names
    assert not missing
    networks = {f"mireg/models/{path.name}" for path in (ROOT / "models").glob("*.py")}
    assert networks <= names
    assert {"mireg/py.typed", "mireg/ablation/report/report.html.j2"} <= names


def test_a_study_runs_without_the_checkout(python: Path, tmp_path: Path) -> None:
    (tmp_path / "lab.py").write_text(NETWORK)
    code = "import sys, mireg; print(mireg.__file__); from mireg.ablation.command import main; sys.exit(main())"
    words = ["--model", "lab:Net", "--steps", "5", "--seeds", "1", "--workers", "1", "--out", "out"]
    outside = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([python, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True, env=outside)
    assert done.returncode == 0, done.stderr
    assert str(python.parents[1]) in done.stdout.splitlines()[0]
    assert (tmp_path / "out" / "report.html").exists()


def test_the_demo_runs_without_the_checkout(python: Path, tmp_path: Path) -> None:
    code = "import sys; from mireg.ablation.command import main; sys.exit(main())"
    words = ["--steps", "5", "--seeds", "1", "--workers", "2", "--arms", "none", "mi", "mi-binning"]
    outside = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run([python, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True, env=outside)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "demo" / "report.html").exists()
