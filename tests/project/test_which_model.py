"""docs/which_model.md lists every family, with what is measured; the script that writes it measures it rightly."""

import os
import sys
from pathlib import Path

import pytest

from gaze_lens.families import FAMILIES

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "which_model.md").read_text()
NAMES = [family.name for family in FAMILIES if not family.text_only]
AGAIN = "run GAZE_LENS_CHECKPOINTS=FOLDER python docs/make_which_model.py, with ids in docs/which_model_facts.py"


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(DOCS))
    import make_which_model

    yield make_which_model
    sys.path.remove(str(DOCS))


def tables():
    """The rows of both tables, without their heads."""
    first, second = PAGE.split("## Loading, and memory")
    lines = (
        [line.strip("| ").split(" | ") for line in part.splitlines() if line[:2] == "| "] for part in (first, second)
    )
    return [part[2:] for part in lines]


def test_every_family_is_on_the_page():
    measured, loading = tables()
    assert list(dict.fromkeys(line[0] for line in measured)) == NAMES, AGAIN
    assert list(dict.fromkeys(line[0] for line in loading)) == NAMES, AGAIN
    without = [line[0] for line in loading if "from_pretrained" not in line[1]]
    assert not without, AGAIN


def test_facts_are_of_families_and_stand_on_the_page(script):
    assert set(script.PUBLISHED) <= set(NAMES)
    assert {name for pair in script.SAME_PICTURES.items() for name in pair} <= set(NAMES)
    for known in script.PUBLISHED.values():
        for one in known:
            assert f'`gl.HookedVLM.from_pretrained("{one.id}")` | {one.billions:g} B |' in PAGE, AGAIN


@pytest.mark.parametrize(
    ("family", "writer"),
    [
        ("LLaVA", "`<s>`: the tokenizer"), ("Pixtral", "`<s>`: the template and the tokenizer"),
        ("PaliGemma", "`<bos>`: the processor"), ("Idefics3", "`<|begin_of_text|>`: the template and the tokenizer"),
        ("Molmo2", "`<|im_end|>`: the processor"), ("Qwen3-VL", "none"), ("GLM-4V", "none"),
    ],
)  # fmt: skip
def test_the_begin_token_is_measured(script, shelf, family, writer):
    assert script.begin(shelf.get(family)[0]) == writer


def test_what_is_cut_and_live_is_measured(script, shelf):
    llava, qwen = shelf.get("LLaVA")[0], shelf.get("Qwen3.5")[0]
    *_, cut, live, _begin, name = script.row(llava, "a checkpoint")
    assert (cut, live, name) == ('17% is seen; 100% with `fit="whole"`', "full: 13", "a checkpoint")
    assert script.cut(qwen, qwen.capabilities(script.STRIP)) == "no"
    assert script.live(qwen.capabilities()) == "linear: none, full: 13"
    assert script.row_of_tiny("Qwen3.5-MoE", [])[1:4] == ["not measured"] * 3


@pytest.mark.slow
@pytest.mark.skipif("GAZE_LENS_CHECKPOINTS" not in os.environ, reason="no metadata of published checkpoints")
def test_the_page_is_what_the_script_writes(script):
    assert script.document(script.rows()) == PAGE, AGAIN
