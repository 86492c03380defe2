"""The documentation site: `make docs` writes docs/_build/html."""

import importlib.metadata
import sys
from pathlib import Path

import jupytext

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

project = "gaze_lens"
author = "the gaze_lens contributors"
release = importlib.metadata.version("gaze-lens")
extensions = ["myst_parser", "sphinx.ext.autodoc", "docstrings"]
# Tables that belong into a page.
exclude_patterns = ["_build", "zoo/table.md", "paper/table.md", "study/results.md", "text_heads/tables.md"]
html_theme = "furo"
html_title = "gaze_lens"
html_copy_source = False
html_show_copyright = False
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
add_module_names = False
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80


def write_tutorials() -> None:
    """The tutorials as pages, into docs/tutorials: text as it is, code as code, and no outputs."""
    pages = HERE / "tutorials"
    pages.mkdir(exist_ok=True)
    for path in sorted((HERE.parent / "tutorials").glob("*.py")):
        cells = jupytext.read(path).cells
        parts = [cell.source if cell.cell_type == "markdown" else f"```python\n{cell.source}\n```" for cell in cells]
        note = f"*This page is `tutorials/{path.name}`, which opens as a notebook through jupytext.*"
        text = "\n\n".join([parts[0], note, *parts[1:]]) + "\n"
        page = pages / f"{path.stem}.md"
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


write_tutorials()
