"""Every tutorial runs as a notebook, prints the figures that it tells, and needs nothing but gaze_lens."""

import ast
import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TUTORIALS = sorted((ROOT / "tutorials").glob("*.py"))
LONG = ("4_patch_heads", "7_a_real_language_model")  # take more than 20 s of the processor
WAIT = 240  # seconds for a cell: others may have the machine
MOST = 180  # seconds of one processor for a whole tutorial: a minute is what it should take, machines differ
NUMBER = r"(?<![\w.])-?\d+\.\d+"


def is_printed(figure, printed):
    """Whether a decimal number is among the printed ones, up to one in its last digit: processors round differently."""
    places = len(figure.partition(".")[2])
    printed_figures = [float(one) for one in re.findall(r"-?\d+\.\d+", printed) if len(one.partition(".")[2]) == places]
    return any(round(abs(one - float(figure)) * 10**places) <= 1 for one in printed_figures)


def figures(text):
    """The decimal numbers that a text tells; code and links are no telling."""
    return re.findall(NUMBER, re.sub(r"```.*?```|`[^`]*`|\[[^]]*\]\([^)]*\)", "", text, flags=re.DOTALL))


@pytest.fixture(scope="module")
def kernel(tmp_path_factory):
    """One kernel of the running interpreter for all tutorials, whatever kernels the user has installed."""
    from ipykernel.kernelspec import write_kernel_spec
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from jupyter_core.utils import run_sync

    folder = tmp_path_factory.mktemp("kernels")
    write_kernel_spec(folder / "this")
    specs = KernelSpecManager(kernel_dirs=[str(folder)], ensure_native_kernel=False)
    manager = AsyncKernelManager(kernel_name="this", kernel_spec_manager=specs)
    yield manager
    run_sync(manager.shutdown_kernel)(now=True)


BEGIN = """
%reset -f
import os, time
os.chdir({folder!r})
os.environ["BEGAN"] = str(time.process_time())
"""
END = """
import os, time
print(time.process_time() - float(os.environ["BEGAN"]))
"""


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[pytest.mark.slow] if path.stem in LONG else []) for path in TUTORIALS],
    ids=lambda path: path.stem,
)
def test_a_tutorial_runs_as_a_notebook(path, kernel, tmp_path):
    import jupytext  # here, as it is slow, and every process that collects tests imports this file
    from nbclient import NotebookClient
    from nbformat.v4 import new_code_cell

    from gaze_lens.tiny import smollm2

    if "load_smollm2" in path.read_text(encoding="utf-8") and None in map(find_spec, smollm2.PACKAGES):
        pytest.skip(f"SmolLM2 is not installed: {smollm2.INSTALL}")
    notebook = jupytext.read(path)
    begin = new_code_cell(BEGIN.format(folder=str(tmp_path)))  # nothing of the tutorials before is left but imports
    notebook.cells = [begin, *notebook.cells, new_code_cell(END)]
    client = NotebookClient(notebook, km=kernel, timeout=WAIT)
    found = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    # One thread: the model is so small that more of them mostly wait for one another on a busy machine.
    client.execute(env={**os.environ, "PYTHONPATH": found, "OMP_NUM_THREADS": "1"})  # raises where a cell does
    assert 1 < float(notebook.cells.pop().outputs[0].text) < MOST
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    printed = "".join(output.text for output in outputs if output.get("name") == "stdout")
    told = [figure for cell in notebook.cells if cell.cell_type == "markdown" for figure in figures(cell.source)]
    assert not [figure for figure in told if not is_printed(figure, printed)]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    warnings = [output.text for output in outputs if output.get("name") == "stderr"]
    assert not [text for text in warnings if "Warning" in text]


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_imports_only_gaze_lens_what_it_is_a_plugin_of_and_the_standard_library(path):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {name.name.split(".")[0] for name in node.names}
        if isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    assert "gaze_lens" in imported
    assert imported - {"gaze_lens", "transformer_lens"} <= sys.stdlib_module_names


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_tutorial_is_kept_without_outputs_and_explains_itself(path):
    import jupytext

    notebook = jupytext.read(path)
    assert path.read_text(encoding="utf-8").count("# %%") == len(notebook.cells)
    kinds = [cell.cell_type for cell in notebook.cells]
    assert kinds[0] == "markdown"
    assert kinds.count("markdown") >= kinds.count("code") / 3


def test_there_is_a_tutorial():
    assert TUTORIALS


def test_figures_are_told_from_code_and_links():
    text = (
        "From -9.89 to 9.81 (`gl.steer(3.0)`), see [arXiv 2606.14703](https://x/1.5).\n```python\nx = 0.5\n```\n0.63."
    )
    assert figures(text) == ["-9.89", "9.81", "0.63"]


def test_a_figure_that_no_code_prints_is_found():
    assert is_printed("-9.89", "on average -9.88, rows")
    assert not is_printed("-9.89", "9.89 or -9.86 or -9.9")
