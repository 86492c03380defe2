"""Counterfactual pairs: equal layouts or errors that name the difference, and their effect on the embedded model."""

import pytest
import torch
from reference import picture, tower_runs

import gaze_lens as gl
from gaze_lens import changes, metrics
from gaze_lens.comics.generator import synthetic
from gaze_lens.comics.questions import ORDINALS, ask
from gaze_lens.errors import InputError, RegionError
from gaze_lens.patching import aligned_groups, check_aligned


@pytest.fixture(scope="module")
def strip():
    return synthetic(1, seed=1)[0]


@torch.no_grad()
@pytest.mark.parametrize("seed", range(4))
def test_swapping_panels_flips_the_answer(tiny_model, seed):
    (strip,) = synthetic(1, seed=seed)
    question, change = ask(3), changes.swap("panel 1", "panel 4")
    pair = gl.counterfactual(tiny_model, strip, question, change)
    assert str(tiny_model.generate(pair.clean)) == strip.captions["panel 4"]
    assert str(tiny_model.generate(pair.corrupted)) == strip.captions["panel 1"]
    first, fourth = (
        gl.counterfactual(tiny_model, strip, question, change, answers=strip.captions[name])
        for name in ("panel 1", "panel 4")
    )
    scores = [
        [float(metrics.answer_log_probability(side)(tiny_model(side))) for side in pair] for pair in (first, fourth)
    ]
    assert scores[1][0] - scores[0][0] > 5  # clean: panel 4's caption
    assert scores[0][1] - scores[1][1] > 5  # corrupted: panel 1's


def test_every_ordinal_makes_an_equal_layout(tiny_model, strip):
    for to in ORDINALS:
        if to != "fourth":
            pair = gl.counterfactual(tiny_model, strip, ask(3), changes.ordinal(to))
            assert pair.clean.layout == pair.corrupted.layout
            assert repr(pair).splitlines()[1] == f"  row 0: position 33 ' fourth' -> ' {to}'"
    with pytest.raises(InputError, match="leaves row 0 as it is"):
        gl.counterfactual(tiny_model, strip, ask(3), changes.ordinal("fourth"))
    with pytest.raises(InputError, match="holds 0 ordinals"):
        gl.counterfactual(tiny_model, strip, "What is this?", changes.ordinal("fourth"))
    with pytest.raises(InputError, match=r"ordinal\('ninth'\) was given"):
        changes.ordinal("ninth")


def test_every_row_can_have_a_change_and_an_answer_of_its_own(tiny_model, strip):
    rows = [changes.swap("panel 1", "panel 2"), changes.ordinal("sixth"), lambda one: changes.blank("panel 3")(one)]
    answers = list(strip.captions.values())[:3]
    pair = gl.counterfactual(tiny_model, strip, [ask(0), ask(1), ask(2)], rows, answers=answers)
    lines = repr(pair).splitlines()
    assert lines[1:] == [
        "  row 0: image 1 differs in panel 1, panel 2",
        "  row 1: position 33 ' second' -> ' sixth'",
        "  row 2: image 1 differs in panel 3",
    ]
    assert pair.clean.answers == pair.corrupted.answers
    with tower_runs(tiny_model) as runs:
        encoded = pair.encoded(tiny_model)
    assert len(runs) == 2  # the clean picture, then the two changed ones together
    assert encoded.corrupted.features.images[1] is encoded.clean.features.images[1]
    assert torch.equal(tiny_model(pair.corrupted), tiny_model(encoded.corrupted))


def test_in_chat_messages_the_users_last_text_is_changed_and_images_stay(tiny_model, strip):
    asked = [{"type": "image", "image": strip}, {"type": "text", "text": "the first"}, {"type": "text", "text": ask(3)}]
    messages = [
        {"role": "user", "content": asked[:2]},
        {"role": "assistant", "content": "the first"},
        {"role": "user", "content": asked[2:]},
    ]
    pair = gl.counterfactual(tiny_model, None, messages, changes.ordinal("second"))
    texts = ["".join(side.str_tokens()) for side in pair]
    assert texts[1] == texts[0].replace("fourth", "second")
    assert "fourth" in texts[0]
    assert [tokens.size for tokens in pair.corrupted.image_tokens] == [strip.image.size]


def test_unequal_texts_are_refused_by_name_or_aligned_by_region(tiny_model, strip):
    longer = changes.question("What happens in the very fourth panel from the left?")
    with pytest.raises(
        InputError, match=r"Text span 1 of row 0 has \d+ tokens .* first difference is at position 33 \(' fourth'\)"
    ):
        gl.counterfactual(tiny_model, strip, ask(3), longer)
    pair = gl.counterfactual(tiny_model, strip, ask(3), longer, align=True)
    clean, corrupted = pair
    pairs = aligned_groups(clean, corrupted, ["panel 4", "last", clean.region("panel 2")][:2])
    for ours, theirs in pairs:
        for mine, other in zip(ours.rows[0], theirs.rows[0], strict=True):
            assert clean.input_ids[0, mine] == corrupted.input_ids[0, other]
    words = aligned_groups(clean, corrupted, {"word": (clean.span("fourth"), corrupted.span("fourth"))})
    ((ours, theirs),) = words
    assert ours.name == theirs.name == "word"
    assert clean.input_ids[0, ours.rows[0][0]] == corrupted.input_ids[0, theirs.rows[0][0]]
    assert ours.rows != theirs.rows
    with pytest.raises(InputError, match=r"Group 'text' has \d+ positions in row 0 of the clean inputs and \d+ in the"):
        aligned_groups(clean, corrupted, "text")
    with pytest.raises(RegionError, match="was made for"):
        aligned_groups(clean, corrupted, clean.region("panel 2"))


def test_layouts_that_differ_are_named(tiny_model, shelf, strip):
    clean = tiny_model.prepare([strip, strip], [ask(0), ask(1)])
    with pytest.raises(InputError, match="2 rows and the corrupted ones 1"):
        check_aligned(clean, tiny_model.prepare(strip, ask(0)))
    small = synthetic(1, seed=1, panels=5)[0]
    with pytest.raises(InputError, match=r"Image 0 of row 1 has 24 tokens \(192 x 32 pixels\) .* 20 tokens"):
        check_aligned(clean, tiny_model.prepare([strip, small], [ask(0), ask(1)]))
    with pytest.raises(InputError, match="Row 1 has 1 images .* and 2 in"):
        check_aligned(clean, tiny_model.prepare([[strip], [strip, strip]], [ask(0), ask(1)]))
    with pytest.raises(InputError, match="different models"):
        gl.Pair(clean, shelf.get("LLaVA")[0].prepare([picture(64, 64)] * 2, ["a", "What?"]), align=True)
    answered = [tiny_model.prepare(strip, ask(0), answers=text) for text in ("red ring.", "red ring above blue bar.")]
    with pytest.raises(InputError, match=r"Text span 1 of row 0 has \d+ tokens .* first difference is at position"):
        check_aligned(*answered)
    check_aligned(clean, tiny_model.prepare([small.image.resize((192, 32)), strip], [ask(4), ask(2)]))


def test_images_at_other_places_and_other_padding_are_named(tiny_model, strip):
    part = {"type": "image"}
    around = [
        [{"role": "user", "content": [{"type": "text", "text": before}, part, {"type": "text", "text": after}]}]
        for before, after in (("the left panel", "What"), ("What", "the left panel"))
    ]
    with pytest.raises(InputError, match="Text span 0 of row 0 has"):
        check_aligned(*(tiny_model.prepare(strip, messages) for messages in around))
    one = tiny_model.prepare([strip, strip], [ask(0), ask(0)])
    padded = tiny_model.prepare([strip] * 3, [ask(0), ask(0), ask(0) + " " + ask(1)])
    first = tiny_model.prepare([strip, strip], [ask(0), ask(0) + " " + ask(1)])
    assert padded.layout.length == first.layout.length != one.layout.length
    with pytest.raises(InputError, match="Text span 1 of row 1 has"):
        check_aligned(one, first)


def test_which_of_several_images_is_changed_must_be_said(tiny_model, strip):
    other = synthetic(1, seed=2)[0]
    change = changes.blank(gl.Box(0, 0, 32, 32))
    with pytest.raises(InputError, match="Row 0 has 2 images and image=None"):
        gl.counterfactual(tiny_model, [[strip, other]], "What?", change)
    pair = gl.counterfactual(tiny_model, [[strip, other]], "What?", change, image=1)
    assert repr(pair).splitlines()[1] == "  row 0: image 2 differs in panel 1"
    with pytest.raises(InputError, match="Row 0 has 0 images"):
        gl.counterfactual(tiny_model, None, "What?", change)


def test_a_value_that_is_not_a_change_is_refused(tiny_model, strip):
    with pytest.raises(InputError, match="3 changes were given for 1 rows"):
        gl.counterfactual(tiny_model, strip, "What?", [changes.blank("panel 1")] * 3)
    with pytest.raises(InputError, match="is no change; expected"):
        gl.counterfactual(tiny_model, strip, "What?", "blank")
    with pytest.raises(InputError, match="The change returned Image; expected a gl.Picture"):
        gl.counterfactual(tiny_model, strip, "What?", lambda one: one.image)
    with pytest.raises(InputError, match="Image 0 of row 0 has 24 tokens .* and 4 tokens"):
        gl.counterfactual(tiny_model, strip, "What?", lambda one: gl.Picture(one.image.crop((0, 0, 32, 32))))
    with pytest.raises(InputError, match="leaves row 0 as it is"):
        gl.counterfactual(tiny_model, strip, "What?", lambda one: one)
    with pytest.raises(InputError, match="space='tokens' was given"):
        changes.blank("panel 1", space="tokens")
    with pytest.raises(InputError, match="a region has no colour"):
        changes.blank("panel 1", colour=(0, 0, 0), space="features")
