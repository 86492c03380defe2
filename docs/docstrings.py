"""A Sphinx extension that reads this project's docstrings, which are plain text with a few habits.

Paragraphs; indented examples; `name: what it is` for arguments and fields, with hanging lines; `Raises ...`.
"""

import re
from collections.abc import Iterator
from typing import Any

ITEM = re.compile(r"(\w+(?:, \w+)*): ")
NEXT = re.compile(r"[.;] (?=[a-z_]+(?:, [a-z_]+)*: )")  # several arguments on one line
CODE = re.compile(r"`([^`]+)`")


def to_rst(lines: list[str]) -> list[str]:
    """A docstring in reStructuredText."""
    return [line for block in blocks(lines) for line in [*(example(block) or prose(block)), ""]]


def blocks(lines: list[str]) -> Iterator[list[str]]:
    """The lines between blank ones."""
    block: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            block.append(line.rstrip())
        elif block:
            yield block
            block = []


def example(block: list[str]) -> list[str]:
    """A block of code, or nothing where the block is none."""
    if not (block[0].lstrip().startswith(">>>") or all(line.startswith("    ") for line in block)):
        return []
    return [".. code-block:: python", "", *(f"   {line}" for line in block)]


def prose(block: list[str]) -> list[str]:
    """Sentences as paragraphs and arguments as a list."""
    parts: list[str] = []
    for line in block:
        hanging = line.startswith(" ") or not (parts and ITEM.match(parts[-1]))
        if parts and hanging and not (ITEM.match(line) or line.startswith("Raises ")):
            parts[-1] += " " + line.strip()
        else:
            parts.append(line.strip())
    out: list[str] = []
    for part in (piece for whole in parts for piece in (NEXT.split(whole) if ITEM.match(whole) else [whole])):
        item = ITEM.match(part)
        text = f"- **{item[1]}**: {inline(part[item.end() :])}" if item else inline(part)
        out += [text] if item and out and out[-1].startswith("- ") else ["", text]
    return out


def inline(text: str) -> str:
    """Backticks are code, and every other sign is itself."""
    parts = CODE.split(text)
    marked = [f"``{part}``" if index % 2 else re.sub(r"([\\*|_`])", r"\\\1", part) for index, part in enumerate(parts)]
    return "\\ ".join(part for part in marked if part) if len(parts) > 1 else marked[0]


def process(_app: Any, _what: str, _name: str, _obj: Any, _options: Any, lines: list[str]) -> None:
    lines[:] = to_rst(lines)


def shorten(_app: Any, _what: str, _name: str, _obj: Any, _options: Any, signature: str | None, returns: Any) -> Any:
    """A data class's signature without the modules of its types, and with defaults that Python can read."""
    return (re.sub(r"~(\w+\.)+", "", signature).replace("<factory>", "..."), returns) if signature else None


def setup(app: Any) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", process)
    app.connect("autodoc-process-signature", shorten)
    return {"parallel_read_safe": True}
