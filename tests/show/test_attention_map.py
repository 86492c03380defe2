"""Maps of attention: from words, to several images, and to text; the numbers against whole patterns."""

import matplotlib
import numpy as np
import pytest
import torch

from gaze_lens import HeadSet, HookedVLM, passages, show, testing
from gaze_lens.comics.generator import scenes
from gaze_lens.errors import InputError, RegionError
from gaze_lens.show.tinted_text import MAX_LINES, TintedText

HEADS = [(1, 1), (0, 0)]
PEOPLE = ["Anna bakes bread.", "Ben flies to Rome.\nAnd back."]


@pytest.fixture(scope="module")
def llama():
    return HookedVLM.wrap(*testing.tiny("LlamaForCausalLM"))


def rows_of(model, inputs, queries, row=0):
    """[head, key] of whole patterns, mean over queries."""
    _, cache = model.run_with_cache(inputs, names_filter=lambda name: name.endswith("attn.hook_pattern"))
    patterns = [cache[f"blocks.{layer}.attn.hook_pattern"][row, head, list(queries)] for layer, head in HEADS]
    return torch.stack(patterns).mean(1).numpy()


def written(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def texts(inputs, positions, row=0):
    return inputs.tokenizer.decode(inputs.input_ids[row, list(positions)])


# --- words --------------------------------------------------------------------------------------------------------


def test_a_word_of_an_answer_is_looked_from_where_it_is_predicted(model, strip):
    told = model.prepare(strip, "Is there a dog?", answers=["A dog, a hotdog and a dog."])
    plot = show.attention_map(model, told, HEADS, word="dog")
    assert len(plot.data["positions"]) == 2, "the dog of the question, and of hotdog, is none"
    for queries, rows in zip(plot.data["positions"], plot.data["by_occurrence"], strict=True):
        assert texts(told, [query + 1 for query in queries]).strip() == "dog"
        assert min(queries) >= told.answers[0] - 1
        np.testing.assert_allclose(rows, rows_of(model, told, queries), atol=1e-5)
    np.testing.assert_allclose(plot.data["attention"], plot.data["by_occurrence"].mean(0), atol=1e-6)
    assert "“dog” (2 times" in str(plot)
    assert {"1st of 2, mean of heads", "2nd of 2, mean of heads"} <= {
        text.split(":")[0] for text in written(plot.figure)
    }
    last = show.attention_map(model, told, HEADS, word="dog", occurrence=-1)
    assert last.data["positions"] == plot.data["positions"][1:]
    np.testing.assert_allclose(last.data["attention"], plot.data["by_occurrence"][1], atol=1e-6)


def test_a_span_and_a_word_of_the_prompt_look_from_their_own_tokens(model, strip):
    inputs = model.prepare([strip, strip], ["Is there a dog?", "Is there now a dog?"])
    for row in (0, 1):
        span = inputs.span("a dog")
        plot = show.attention_map(model, inputs, HEADS, word=span, row=row)
        assert plot.data["positions"] == (span.rows[row],)
        np.testing.assert_allclose(plot.data["attention"], rows_of(model, inputs, span.rows[row], row), atol=1e-5)
        same = show.attention_map(model, inputs, HEADS, word="a dog", row=row)
        np.testing.assert_array_equal(same.data["attention"], plot.data["attention"])
    told = model.prepare(strip, "Is there a dog?", answers=["No cat."])
    (queries,) = show.attention_map(model, told, HEADS, word=told.span("cat")).data["positions"]
    assert texts(told, [query + 1 for query in queries]).strip() == "cat"


def test_words_that_are_not_there_are_refused(model, strip):
    told = model.prepare(strip, "Is there a dog?", answers=["No cat."])
    with pytest.raises(RegionError, match="'dog' is not in the text, which reads"):
        show.attention_map(model, told, HEADS, word="dog")
    with pytest.raises(RegionError, match="'ca' is not in the text"):
        show.attention_map(model, told, HEADS, word="ca")
    with pytest.raises(RegionError, match="not blank"):
        show.attention_map(model, told, HEADS, word=" ")
    with pytest.raises(InputError, match="'cat' is 1 times in the text; there is no occurrence=1"):
        show.attention_map(model, told, HEADS, word="cat", occurrence=1)
    with pytest.raises(InputError, match="both given"):
        show.attention_map(model, told, HEADS, word="cat", position=-1)
    with pytest.raises(InputError, match="without word="):
        show.attention_map(model, told, HEADS, occurrence=1)
    with pytest.raises(InputError, match="says itself which"):
        show.attention_map(model, told, HEADS, word=told.span("cat"), occurrence=0)
    other = model.prepare(strip, "Is there a dog, or a cat?")
    with pytest.raises(RegionError, match="was made for"):
        show.attention_map(model, told, HEADS, word=other.span("cat"))


def test_one_of_several_images(model, strip):
    scene = scenes(1, seed=0)[0]
    inputs = model.prepare([[strip, scene]], ["What?"])
    both = show.attention_map(model, inputs, HEADS)
    second = show.attention_map(model, inputs, HEADS, image=1)
    np.testing.assert_array_equal(second.data["attention"], both.data["attention"])
    assert second.data["regions"] == tuple(scene.regions)
    n = len(strip.regions)
    np.testing.assert_allclose(second.data["on_regions"], both.data["on_regions"][:, n:], atol=1e-6)
    positions = inputs.image_tokens[1].positions.tolist()
    np.testing.assert_allclose(second.data["on_image"], both.data["attention"][:, positions].sum(1), atol=1e-6)
    for image in (2, -1):
        with pytest.raises(InputError, match=f"no image {image}: expected 0 to 1"):
            show.attention_map(model, inputs, HEADS, image=image)


# --- text ---------------------------------------------------------------------------------------------------------


def test_passages_are_tinted_and_have_their_shares(llama):
    inputs = llama.prepare([passages(PEOPLE), passages(["Cleo paints."])], ["What is said?", "Who?"])
    for row, names in enumerate((("segment 1", "segment 2"), ("segment 1",))):
        plot = show.attention_map(llama, inputs, HEADS, row=row)
        true = rows_of(llama, inputs, [inputs.last_position], row)
        np.testing.assert_allclose(plot.data["attention"], true, atol=1e-5)
        assert plot.data["regions"] == names
        shares = [true[:, list(inputs.positions_of(name, row=row))].sum(1) for name in names]
        np.testing.assert_allclose(plot.data["on_regions"].T, shares, atol=1e-5)
        assert f"mean of 2: {sum(shares).mean():.2f} on the segments" in written(plot.figure)
        assert f"segment 1 {shares[0].mean():.2f}" in written(plot.figure)
        assert f"(segment 1 {shares[0][0]:.2f}" in str(plot)
        assert "image" not in str(plot)


def test_a_plain_prompt_is_tinted(llama):
    inputs = llama.prepare(None, "The red car is fast.", answers=["Red!"])
    plot = show.attention_map(llama, inputs, HEADS, word="Red")
    assert plot.data["on_regions"].shape == (2, 0)
    (queries,) = plot.data["positions"]
    np.testing.assert_allclose(plot.data["attention"], rows_of(llama, inputs, queries), atol=1e-5)
    assert plot.render()[:4] == b"\x89PNG"


def test_pictures_and_passages_of_one_prompt(model, strip):
    inputs = model.prepare([[strip, passages(PEOPLE)]], ["What?"])
    plot = show.attention_map(model, inputs, HEADS)
    assert plot.data["regions"] == (*strip.regions, "segment 1", "segment 2")
    for k, name in enumerate(plot.data["regions"]):
        expected = plot.data["attention"][:, list(inputs.region(name).positions[0])].sum(1)
        np.testing.assert_allclose(plot.data["on_regions"][:, k], expected, atol=1e-6)
    labels = written(plot.figure)
    assert {
        "attention mass on an image token, 0-1 (numbers: on a region)",
        "attention mass on a token of text, 0-1",
    } <= {*labels}


def test_text_beside_an_image_reached_by_cross_attention(shelf, strip):
    model = shelf.get("Mllama")[0]
    crossing = next(layer for layer in range(model.cfg.n_layers) if model.blocks[layer].attn.is_cross_attention)
    inputs = model.prepare([[strip, passages(PEOPLE)]], ["What?"])
    plot = show.attention_map(model, inputs, HeadSet([(crossing, 1), (0, 0)]))
    n = len(strip.regions)
    assert plot.data["on_regions"][0, :n].sum() > 0.01
    assert (plot.data["on_regions"][0, n:] == 0).all()
    assert (plot.data["on_regions"][1, :n] == 0).all()
    _, cache = model.run_with_cache(inputs, names_filter="blocks.0.attn.hook_pattern")
    row = cache["blocks.0.attn.hook_pattern"][0, 0, -1]
    for k, name in enumerate(("segment 1", "segment 2")):
        mass = float(row[list(inputs.region(name).positions[0])].sum())
        assert plot.data["on_regions"][1, n + k] == pytest.approx(mass, abs=1e-5)


def test_text_is_broken_into_lines_with_every_word_once():
    words = tuple(f" word{i}" + "\n" * (i % 7 == 0) for i in range(60))
    block = TintedText(words, {"segment 1": (3, 4)})
    lines = block.lines(3.0)
    shown = [(index, text) for line in lines for index, text, *_ in line]
    assert [index for index, text in shown if text != "↵"] == list(range(60))
    assert [index for index, text in shown if text == "↵"] == list(range(0, 60, 7))
    long = TintedText(words * 30, {"segment 1": (900,)})
    shortened = long.lines(3.0)
    assert len(shortened) <= MAX_LINES
    indices = {index for line in shortened for index, *_ in line}
    assert {900, 1799} <= indices
