"""Write docs/families.md from what the tests measure; nothing in its tables is typed.

python docs/make_families.py                            # runs the tests, some minutes
python docs/make_families.py --measurements FILE        # a file that a run with GAZE_LENS_MEASUREMENTS=FILE wrote
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
VARIABLE = "GAZE_LENS_MEASUREMENTS"
TESTS = ("model/test_every_family*.py", "families/test_families.py", "families/test_geometry_*.py")
HEAD = """\
# Model families

Made by `python docs/make_families.py` from what the tests measured; do not edit. Every figure comes from a tiny random
model of the family's own classes (`gl.testing.tiny(name)`), float32, on the CPU, against Hugging Face's own output for
the same weights: a padded batch of two prompts, with one image and with two. A name that is no family of its own is a
variant. [new_family.md](new_family.md) tells how to describe another.

- **layers**: the kinds of attention in the tiny model. **hooks**: how many of the {n_hooks} attention hook points fire
  and can be edited on at least one layer; what is missing, and why, is listed below.
- **eager**: the largest difference of logits from Hugging Face's eager attention, with full hooks on every layer.
- **patterns**: the same for `hook_pattern` against the weights that Hugging Face returns.
- **default**: with no hooks, and with hooks on every second layer, from the model's default attention; relative to the
  largest logit.
- **tokens**: generated greedily under full hooks, all equal to Hugging Face's.
- **encoded**: logits from images encoded once (`model.encode`) against logits from pixels.
- **scores**: `gl.score_heads` against a slow loop over full attentions. **steered**: the least attention mass that a
  steered head puts on its target, over all queries that see it.
- **shared**: whether `gl.score_heads` runs what prompts about a picture begin with once, and each question from there
  on; that is done where it is exact, and why not elsewhere is listed below.

"""
COLUMNS = {
    "family": "family", "Hugging Face class": "architecture", "layout": "layout", "layers": "layers", "hooks": "hooks",
    "eager": "full_hooks_to_eager", "patterns": "patterns_to_eager", "default": "no_hooks_to_default",
    "default, hooks": "some_hooks_to_default", "tokens": "generated_hooked", "encoded": "encoded_to_pixels",
    "scores": "scores_to_slow_loop", "steered": "least_mass_on_target", "shared": "whole",
}  # fmt: skip


def main() -> None:
    """Run the tests, or read what they measured, and write the document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measurements", type=Path, help="a file of an earlier run")
    file = parser.parse_args().measurements
    measured = json.loads(file.read_text()) if file else measure()
    rows = {name: facts for name, facts in measured.items() if set(COLUMNS.values()) - {"family"} <= set(facts)}
    (ROOT / "docs" / "families.md").write_text(document(rows, measured))


def measure() -> dict[str, dict]:
    """What the tests measure; ends the program where one fails."""
    files = [str(path) for pattern in TESTS for path in sorted((ROOT / "tests").glob(pattern))]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "measured.json"
        run = [sys.executable, "-m", "pytest", "-q", "-x", *files]
        if subprocess.run(run, cwd=ROOT, env={**os.environ, VARIABLE: str(file)}, check=False).returncode:
            sys.exit("A test failed; docs/families.md stays as it is.")
        return json.loads(file.read_text())


def document(rows: dict[str, dict], measured: dict[str, dict]) -> str:
    """The whole text. rows: the names that the table has. measured: those, and families that only painting measured."""
    n_hooks = len({hook for facts in rows.values() for hook in facts["hooks"]})
    parts = [HEAD.format(n_hooks=n_hooks), table(COLUMNS, [cells(name, facts) for name, facts in rows.items()])]
    parts += ["\n## What is not supported\n\nIn any family: ", "; ".join(common(rows)), ".\n\n"]
    for name, facts in rows.items():
        whole = [f"gl.score_heads runs every question from the start: {facts['whole']}"] if facts["whole"] else []
        parts += [f"- {name}: {line}.\n" for line in (*facts["missing"], *facts.get("cannot", []), *whole)]
    parts += [SIZES, table(["family", "width x height in pixels: image tokens", "painted"], sizes(rows, measured))]
    return "".join(parts)


SIZES = """
## Tested sizes

Tokens that the tiny model makes of a picture, as many as there are placeholders in its prompt; and the sizes at which
painting a token's box, in the original picture, changed that token most and others out of reach not at all.

"""


def common(rows: dict[str, dict]) -> list[str]:
    """What every family refuses."""
    return list(dict.fromkeys(line for facts in rows.values() for line in facts["refused"]))


def cells(name: str, facts: dict) -> list[str]:
    """A row of the first table."""
    return [name, *(shown(key, facts[key]) for key in COLUMNS.values() if key != "family")]


def shown(key: str, value: object) -> str:
    """One cell: a hook count, a figure, or text."""
    if key == "hooks":
        return str(len(value))
    if key == "least_mass_on_target":  # kept as a negative number, so that the largest is the worst
        return f"{-value:.4f}"
    if key == "whole":
        return "no" if value else "yes"
    return f"{value:.1g}" if isinstance(value, float) and value else str(value).removesuffix(".0")


def sizes(rows: dict[str, dict], measured: dict[str, dict]) -> list[list[str]]:
    """For each name, its sizes with their tokens, and where a family was painted, those sizes."""
    lines = []
    for name, facts in rows.items():
        painted = measured.get(name, {}).get("painted", [])
        lines.append([name, ", ".join(facts["sizes"]), ", ".join(painted) or f"see {facts['family']}"])
    return lines


def table(head: object, rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [list(head), ["---"] * len(list(head)), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    main()
