"""The wheel holds what the package needs, and works outside the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import gaze_lens

ROOT = Path(__file__).parents[2]
DATA = (
    "py.typed",
    "serve/page/page.html",
    "serve/page/page.js",
    "show/interactive/viewer.css",
    "show/interactive/viewer.js",
    "tiny/checkpoint/model.safetensors",
    "tiny/checkpoint/tokenizer.json",
)


def pip(*arguments):
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    subprocess.run(list(map(str, command)), check=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from the checkout; no network is asked."""
    out = tmp_path_factory.mktemp("wheel")
    pip("wheel", ROOT, "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", out)
    (path,) = out.iterdir()
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder in which the wheel is installed."""
    folder = tmp_path_factory.mktemp("installed")
    pip("install", wheel, "--no-deps", "--no-index", "--target", folder)
    return folder


def gaze_lens_command(installed, cwd, *arguments):
    """Run the installed console script with the installed package before any other."""
    command = [sys.executable, installed / "bin" / "gaze-lens", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_the_whole_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    package = ROOT / "gaze_lens"
    files = {path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert names == {str(path.relative_to(ROOT)) for path in files}
    assert {f"gaze_lens/{name}" for name in DATA} <= names


def test_the_installed_command_tells_its_version(installed, tmp_path):
    text = gaze_lens_command(installed, tmp_path, "--version")
    assert text == f"gaze-lens {gaze_lens.__version__} from {installed / 'gaze_lens'}\n"


@pytest.mark.slow
def test_the_installed_command_runs_the_demo(installed, tmp_path):
    gaze_lens_command(installed, tmp_path, "demo", "--out", "demo")
    written = {path.name for path in (tmp_path / "demo").iterdir()}
    assert {"report.html", "attention.html", "heads.json", "scores.safetensors", "scores.csv"} <= written
