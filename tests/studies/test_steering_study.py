"""The study of steering by mass: its page holds what its file holds, and its measures are what they say."""

import json
from pathlib import Path

import pytest

from gaze_lens import comics
from studies.steering.measuring import SENTENCE
from studies.steering.report import figure, page

FOLDER = Path(__file__).parents[2] / "docs" / "steering_study"


@pytest.fixture(scope="module")
def figures():
    return json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))


def test_the_page_is_made_of_the_file(figures):
    assert page(figures) == (FOLDER.parent / "steering_study.md").read_text(encoding="utf-8")


def test_masses_are_what_was_set_and_sources_add_up(figures):
    for row in figures["conditions"]:
        if "exposure" in row:
            exposure = {name: estimate["value"] for name, estimate in row["exposure"].items()}
            gains = sum(exposure[f"from_{name}"] for name in ("others", "prompt", "generated", "sink"))
            assert gains == pytest.approx(exposure["mass"] - exposure["mass_without"], abs=1e-4)
            if row["mass"] and not row["keep"]:
                assert exposure["mass"] == pytest.approx(row["mass"], abs=1e-4)


def test_captions_are_sentences_and_others_are_not(figures, tmp_path):
    captions = [caption for strip in comics.synthetic(20, seed=3) for caption in strip.captions.values()]
    assert all(SENTENCE.fullmatch(caption) for caption in captions)
    for text in ("pink circle above", "circle pink above yellow triangle. red", "", "pink pink pink pink pink pink."):
        assert not SENTENCE.fullmatch(text)
    figure(figures, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5_000
