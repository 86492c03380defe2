"""Labels on panels."""

import numpy as np
import pytest
from PIL import Image

from gaze_lens import comics
from gaze_lens.errors import InputError


@pytest.fixture
def strip():
    return comics.strip([Image.new("RGB", (64, 64), (40 * k, 0, 0)) for k in range(6)], captions=list("abcdef"))


def test_every_panel_has_a_letter_of_its_own(strip):
    picture = comics.labelled(strip, seed=3)
    letters = list(picture.captions.values())
    assert list(picture.captions) == list(strip.regions)
    assert len(set(letters)) == 6
    assert set(letters) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    before, after = np.asarray(strip.image), np.asarray(picture.image)
    changed = (before != after).any(-1)
    for box in strip.regions.values():
        part = changed[:, int(box.x0) : int(box.x1)]
        assert part[:128, :128].sum() > 200, "in the upper left corner"
        assert not part[128:].any()
        pixels = after[:, int(box.x0) : int(box.x1)][part]
        assert (pixels == 255).all(-1).any(), "a white ground"
        assert (pixels < 60).all(-1).any(), "a black letter"
    assert comics.labelled(strip, seed=3).captions == picture.captions
    assert comics.labelled(strip, seed=4).captions != picture.captions
    assert list(strip.captions.values()) == list("abcdef"), "the strip itself is as it was"


def test_the_same_label_is_the_same_drawing_and_another_is_another(strip):
    one = comics.labelled(strip, seed=0, labels=list("KLMNOP"))
    by_letter = {}
    for name, box in one.regions.items():
        part = np.asarray(one.image)[4:100, int(box.x0) + 8 : int(box.x0) + 100]
        by_letter[one.captions[name]] = part.min(-1) > 128
    other = comics.labelled(strip, seed=5, labels=list("KLMNOP"))
    for name, box in other.regions.items():
        part = np.asarray(other.image)[4:100, int(box.x0) + 8 : int(box.x0) + 100]
        assert ((part.min(-1) > 128) == by_letter[other.captions[name]]).mean() > 0.99
    assert (by_letter["K"] != by_letter["O"]).any()


def test_labels_that_cannot_be_drawn_are_refused(strip):
    for labels in ("ABCDE", "AABCDEF", ["A", "B", "C", "D", "E", ""]):
        with pytest.raises(InputError, match="were given for 6 regions; give at least as many different texts"):
            comics.labelled(strip, seed=0, labels=labels)
    with pytest.raises(InputError, match="does not fit on a region of 256 x 256 pixels"):
        comics.labelled(strip, seed=0, labels=[f"a very long label {k}" for k in range(6)], size=0.5)


def test_the_questions_end_in_a_colon():
    assert comics.letter(2).endswith("Which letter is on the third panel? Letter:")
    assert comics.letter_reversed(0).endswith(comics.letter(0))
    assert "reverse" in comics.letter_reversed(0)
    with pytest.raises(InputError, match="no ready question about panel index 8"):
        comics.letter(8)
