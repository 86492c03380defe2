"""The documentation site builds without a warning, names all that is public, and loads nothing from anywhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import gaze_lens as gl
from gaze_lens import show

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow  # the build takes more than 20 s of the processor


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "docs"]
    done = subprocess.run([*command, "-d", out / "trees", out / "html"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return out / "html"


def test_every_public_name_is_in_the_reference(site):
    anchors = set()
    for page in (site / "reference").glob("*.html"):
        anchors |= {name.split(".")[-1] for name in re.findall(r'id="(gaze_lens[\w.]*)"', page.read_text())}
    names = {name for name in gl.__all__ if callable(getattr(gl, name))} | set(show.__all__)
    assert names - anchors == set()


def test_shapes_and_errors_are_in_the_reference(site):
    text = re.sub(r"<[^>]+>", "", (site / "reference" / "heads.html").read_text()).replace("&#39;", "'")
    assert "strip layer head asked attended" in text
    assert "Raises HeadError" in text
    assert "~jaxtyping" not in text


def test_every_tutorial_and_page_is_on_the_start_page(site):
    start = (site / "index.html").read_text()
    for path in (ROOT / "tutorials").glob("*.py"):
        assert f'href="tutorials/{path.stem}.html"' in start
    for path in [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "howto").glob("*.md")]:
        if path.stem != "index":
            assert f'{path.relative_to(ROOT / "docs").with_suffix("")}.html"' in start


def test_no_page_loads_anything_from_another_host(site):
    for page in site.rglob("*.html"):
        text = page.read_text()
        assert not re.search(r'<(script|img|iframe)[^>]*\ssrc="(https?:)?//', text), page.name
        assert not re.search(r'<link[^>]*rel="stylesheet"[^>]*href="(https?:)?//', text), page.name
