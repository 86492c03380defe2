"""Passages of text in prompts: where they stand, beside pictures or alone, and what is refused."""

from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from painting import noise
from PIL import Image

import gaze_lens as gl
from gaze_lens.errors import InputError, RegionError
from gaze_lens.inputs.concatenation import concatenated
from gaze_lens.inputs.segment_positions import with_segments
from gaze_lens.tiny import smollm2

TEXTS = ["Anna lives in Paris.", "Ben lives in Rome, é中.", "Cy"]
PICTURE = gl.Picture(Image.fromarray(noise(96, 64)), gl.panels(3, 96, 64))
QUESTION = "What is said in segment 2?"


@pytest.fixture(scope="module")
def three():
    return gl.passages(TEXTS)


@pytest.fixture(scope="module")
def llama():
    return gl.HookedVLM.wrap(*gl.testing.tiny("LlamaForCausalLM"))


def texts_of(inputs, name):
    """The text of a region's tokens, row by row; tokens are bytes."""
    positions = inputs.region(name).positions
    return [inputs.tokenizer.decode(inputs.input_ids[row, list(at)]) for row, at in enumerate(positions)]


def test_segments_are_their_passages_tokens(llama, three):
    longer = gl.passages(["Nothing at all is said here.", "Dora", "Ed"], labels=["(a)", "", "(c)"], separator=" | ")
    inputs = llama.prepare([three, longer, three], [QUESTION, "Why?", "And?"], answers=["That.", "This one.", "It."])
    assert not inputs.tensors["attention_mask"].all(), "no row is padded"
    for k, name in enumerate(three.names):
        assert texts_of(inputs, name) == [TEXTS[k], longer.texts[k], TEXTS[k]]
    region = inputs.region("segment 2")
    one, other = inputs.region("segment 1"), inputs.region("segment 3")
    assert region.others == (one | other).positions
    assert inputs.region(["segment 1", "segment 2", "segment 3"]).positions == (
        one.positions[0], region.positions[1], other.positions[2],
    )  # fmt: skip
    assert not {*region.rest_of_text[0]} & {*region.surroundings[0]}


def test_passages_stand_before_the_question(llama, three):
    inputs = llama.prepare(three, QUESTION)
    lines = "".join(f"Segment {k}: {text}\n" for k, text in enumerate(TEXTS, 1))
    assert torch.equal(inputs.input_ids, llama.prepare(None, lines + QUESTION).input_ids)
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    inputs = llama.prepare(three, [*chat, {"role": "user", "content": QUESTION}])
    asked = llama.prepare(None, [*chat, {"role": "user", "content": lines + QUESTION}])
    assert torch.equal(inputs.input_ids, asked.input_ids)
    assert texts_of(inputs, "segment 3") == ["Cy"]


@pytest.mark.parametrize("family", ["Qwen3-VL", "Gemma 3", "Idefics3", "PaliGemma", "Mllama", "LLaVA-NeXT"])
def test_segments_beside_a_picture_and_alone(shelf, family, three):
    model = shelf.get(family)[0]
    rows = [[PICTURE, three], [three, PICTURE]] + [[three]] * (family != "PaliGemma")
    for sources in ([row] for row in rows):
        inputs = model.prepare(sources, QUESTION, answers="That.")
        for name, text in three.regions.items():
            assert texts_of(inputs, name) == [text]
    both = model.prepare(rows[:2], [QUESTION, "Why is that so, if it is?"])
    assert both.region("panel 1").around is None
    assert texts_of(both, "segment 1") == [TEXTS[0]] * 2


@pytest.mark.slow
@pytest.mark.skipif(None in map(find_spec, smollm2.PACKAGES), reason=f"SmolLM2 is not installed: {smollm2.INSTALL}")
def test_segments_of_a_real_tokenizer():
    model = gl.load_smollm2()
    inputs = model.prepare(gl.passages(TEXTS), QUESTION)
    for name, text in zip(["segment 1", "segment 2", "segment 3"], TEXTS, strict=True):
        assert texts_of(inputs, name)[0].strip() == text
        assert inputs.region(name).positions == inputs.span(text).rows


def test_a_row_without_passages_has_no_segments(model, three):
    inputs = model.prepare([[three], [PICTURE]], QUESTION)
    with pytest.raises(RegionError, match=r"No picture of row 1 has a region 'segment 1'"):
        inputs.region("segment 1")
    with pytest.raises(RegionError, match="segments of text in some rows and regions of images in others"):
        inputs.region(["segment 1", "panel 1"])
    with pytest.raises(RegionError, match=r"Row 0 has no image, and no segment 'panel 1'; it has \['segment 1'"):
        inputs.region("panel 1")


def test_a_name_of_both_is_refused(model):
    named = gl.passages(["Anna.", "Ben."], names=["panel 1", "other"])
    inputs = model.prepare([[PICTURE, named]], QUESTION)
    with pytest.raises(RegionError, match=r"'panel 1' is the name of a segment of text and of a region of an image"):
        inputs.region("panel 1")
    assert inputs.region("panel 1", image=0).around is None
    assert texts_of(inputs, "other") == ["Ben."]


def test_segments_of_other_prompts_are_refused(llama):
    one, other = (llama.prepare(gl.passages(texts), QUESTION) for texts in (["Anna", "Ben"], ["Ann", "Benn"]))
    assert one.layout.length == other.layout.length
    assert one.layout.text == other.layout.text
    with pytest.raises(RegionError, match="This attention edit is for a Layout"):
        llama.run_with_hooks(other, fwd_hooks=gl.steer(["L1H1"], one.region("segment 1")))


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {}, "No passage was given"),
        ("Anna", {}, "give a list of texts"),
        (["Anna", "\ud800"], {}, "expected text that UTF-8 can hold"),
        (["Anna", " "], {}, "Passage 2, ' ', is empty"),
        (["Anna", "Ben\n"], {}, "begins or ends in white space"),
        (["Anna", "Anna"], {}, "Two passages are 'Anna'"),
        (["Anna", "Ben"], {"names": ["a", "a"]}, "Two names are 'a'"),
        (["Anna", "Ben"], {"names": ["a"]}, "2 passages, 2 labels and 1 names"),
        (["Anna", "Ben"], {"labels": ["a"]}, "2 passages, 1 labels and 2 names"),
        (["Anna", "Ben"], {"separator": "\ud800"}, "was given as separator"),
    ],
)
def test_bad_passages(texts, options, message):
    with pytest.raises(InputError, match=message):
        gl.passages(texts, **options)


def test_bad_prompts(llama, three):
    with pytest.raises(InputError, match=r"The passages hold <\|im_end\|>, which the model reads as a special token"):
        llama.prepare(gl.passages(["Anna<|im_end|>", "Ben"]), QUESTION)
    with pytest.raises(InputError, match="the model's context holds"):
        llama.prepare(gl.passages(["Anna " * 1000 + "!", "Ben"]), QUESTION)
    with pytest.raises(InputError, match="2 Passages were given for one prompt"):
        llama.prepare([[three, gl.passages(["Anna"])]], QUESTION)
    with pytest.raises(InputError, match="in the prompt more than once"):
        llama.prepare(gl.passages(["Anna"], labels=""), "Who is Anna?")
    with pytest.raises(InputError, match="have no text of a user"):
        llama.prepare(three, [{"role": "system", "content": "Be brief."}])


def test_merged_tokens_are_refused(llama, three):
    """A token with characters of two passages belongs to neither; and tokens that are not there are not guessed."""

    class Merging:
        is_fast = True

        def __call__(self, text, **_options):
            at = text.index("AnnaBen")
            return {"input_ids": [1, 2, 3], "offset_mapping": [(0, at), (at, at + 5), (at + 5, len(text))]}

    glued = gl.passages(["Anna", "Ben"], labels="", separator="")
    inputs = llama.prepare(None, "AnnaBen?")
    with pytest.raises(InputError, match="'segment 2' shares a token with the one before it"):
        with_segments(replace(inputs, tokenizer=Merging()), [glued], list(inputs.prompts))
    other = llama.prepare(None, "Something else.")
    with pytest.raises(InputError, match="are 0 times in the prompt that the model's processor makes"):
        with_segments(other, [glued], list(inputs.prompts))
    Merging.is_fast = False
    with pytest.raises(InputError, match="does not say where its tokens stand"):
        with_segments(replace(inputs, tokenizer=Merging()), [three], list(inputs.prompts))


def test_rows_are_concatenated(shelf, three):
    """Inputs of one row each, encoded, become the batch that `prepare` makes of all."""
    model = shelf.get("Qwen3-VL")[0]
    rows, questions = [[PICTURE, three], [PICTURE]], [QUESTION, "Why?"]
    parts = [model.encode(model.prepare([row], question)) for row, question in zip(rows, questions, strict=True)]
    batch, expected = concatenated(parts), model.prepare(rows, questions)
    assert batch.layout == expected.layout
    assert batch.passages == expected.passages == (three, None)
    assert concatenated(parts[1:]).passages == ()


def test_a_question_is_changed_and_the_passages_stay(llama, three):
    pair = gl.counterfactual(llama, three, "the first one", gl.changes.ordinal("third"))
    assert pair.clean.layout == pair.corrupted.layout
    assert pair.corrupted.passages == (three,)
    with pytest.raises(InputError, match="Row 0 has 0 images"):
        gl.counterfactual(llama, three, QUESTION, gl.changes.swap("segment 1", "segment 2"))
