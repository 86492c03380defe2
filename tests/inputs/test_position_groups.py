"""Groups of positions against the tokens of a prompt, and spans against a search of all runs of tokens."""

import pytest
import torch
from every_family import NAMES, Case
from reference import padded, picture

import gaze_lens as gl
from gaze_lens.errors import InputError, RegionError
from gaze_lens.patching import group, groups
from gaze_lens.regions.picture import Picture, panels


@pytest.fixture
def two_rows(qwen):
    """Two pictures of two panels; the first row is padded on the left."""
    shown = [Picture(picture(128, 64, seed), panels(2, 128, 64)) for seed in (0, 1)]
    return qwen.prepare(shown, ["What is in the fourth panel?", "Tell me, what is in the second panel there?"])


@pytest.fixture(params=NAMES)
def case(request, shelf):
    return Case.of(request.param, shelf)


def by_hand(inputs, image_token):
    """[(every, image, text) of each row] from ids and mask."""
    rows = []
    for ids, mask in zip(inputs.input_ids.tolist(), inputs.tensors["attention_mask"].tolist(), strict=True):
        every = tuple(p for p, attended in enumerate(mask) if attended)
        image = tuple(p for p in every if ids[p] == image_token)
        rows.append((every, image, tuple(p for p in every if p not in image)))
    return rows


def test_the_kinds_agree_with_ids_and_mask(case):
    inputs = case.inputs
    expected = by_hand(inputs, case.model.config.image_token_id)
    every, image, text, last = groups(inputs, ["every", "image", "text", "last"])
    assert every.rows == tuple(row[0] for row in expected)
    assert last.rows == ((inputs.shape[1] - 1,),) * 2
    if inputs.layout.cross_attention:  # image keys have their own indices
        assert image.cross_attention
        assert image.rows == inputs.layout.images
        assert text.rows == every.rows
    else:
        assert image.rows == tuple(row[1] for row in expected)
        assert text.rows == tuple(row[2] for row in expected)


def test_regions_and_answers(qwen, two_rows):
    assert group(two_rows, "panel 2").rows == two_rows.region("panel 2").positions
    assert group(two_rows, two_rows.region("panel 2")) == group(two_rows, "panel 2")
    answered = qwen.prepare(two_rows.pictures[0][0], "What?", answers="a red barn")
    assert group(answered, "answer").rows == answered.answer_positions
    with pytest.raises(RegionError, match="'answer' is empty in batch row 0"):
        group(two_rows, "answer")


def test_a_mapping_names_its_groups(two_rows):
    named = groups(two_rows, {"target": "panel 1", "end": "last"})
    assert [one.name for one in named] == ["target", "end"]
    assert named[0].rows == two_rows.region("panel 1").positions
    assert repr(named[1]) == "Group 'end': 2 positions in 2 rows"


def test_a_region_of_cross_attention_is_keys(shelf):
    model = shelf.get("Mllama")[0]
    shown = Picture(picture(96, 64), panels(2, 96, 64))
    region = group(model.prepare(shown, "What?"), "panel 1")
    assert region.cross_attention
    assert "image keys" in repr(region)


def search(inputs, row, text):
    """The smallest run of text tokens whose text contains another text, by trying all."""
    positions = inputs.text_positions[row]
    decode = inputs.tokenizer.decode
    runs = [(b - a, a, b) for a in range(len(positions)) for b in range(a + 1, min(a + 25, len(positions)) + 1)]
    for _, a, b in sorted(runs):
        if text in decode(inputs.input_ids[row, list(positions[a:b])]):
            return positions[a:b]
    return None


@pytest.mark.parametrize("text", ["longer", "er quest", "a longer question"])
def test_a_span_is_the_smallest_run_of_tokens_that_contains_it(case, text):
    expected = search(case.inputs, 1, text)
    one_row = case.model.prepare([[*case.inputs.pictures[1]]], ["a longer question"])
    positions = one_row.span(text).rows[0]
    shift = case.inputs.shape[1] - one_row.shape[1]
    assert [position + shift for position in positions] == list(expected)


def test_spans_row_by_row(two_rows):
    span = two_rows.span(["fourth", "second"])
    assert span.name == "fourth, second"
    for row, word in enumerate(["fourth", "second"]):
        assert two_rows.tokenizer.decode(two_rows.input_ids[row, list(span.rows[row])]).strip() == word
    assert span.rows[0] != span.rows[1]


def test_a_repeated_text_needs_its_occurrence(qwen):
    inputs = qwen.prepare(picture(64, 64), "red and green and blue and white")
    with pytest.raises(RegionError, match="'and' is 3 times in the prompt; say which with occurrence=0 to 2"):
        inputs.span("and")
    first, second, last = (inputs.span("and", occurrence=n).rows[0] for n in (0, 1, -1))
    assert first < second < last
    after = inputs.tokenizer.decode(inputs.input_ids[0, second[-1] + 1 :])
    assert after.strip().startswith("blue")
    with pytest.raises(RegionError, match="there is no occurrence=3"):
        inputs.span("and", occurrence=3)


@pytest.mark.parametrize(
    ("text", "message"), [("sixth", "'sixth' is not in the prompt, which reads"), ("", "no charac")]
)
def test_a_span_that_is_not_there(two_rows, text, message):
    with pytest.raises(RegionError, match=message):
        two_rows.span(text)


def test_texts_for_other_rows(two_rows):
    with pytest.raises(RegionError, match="3 texts were given for 2 rows"):
        two_rows.span(["a", "b", "c"])


@pytest.mark.parametrize("which", ["panel 9", "somewhere"])
def test_unknown_names(two_rows, which):
    with pytest.raises(RegionError, match=f"no.* region '{which}'|region '{which}'"):
        group(two_rows, which)


def test_bad_positions(qwen, two_rows):
    with pytest.raises(InputError, match="'every', 'image', 'text', 'last', 'answer', the name of a region"):
        group(two_rows, 3)
    with pytest.raises(InputError, match="every name once"):
        groups(two_rows, ["last", "last"])
    with pytest.raises(InputError, match="named nothing"):
        groups(two_rows, [])
    with pytest.raises(RegionError, match="is used on"):
        group(padded(qwen), group(two_rows, "last"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (((1,),), "positions for 1 rows, its layout has 2"),
        (((1,), ()), "is empty in batch row 1"),
        (((1,), (10_000,)), "positions 10000 to 10000 in batch row 1"),
        (((-1,), (1,)), "positions -1 to -1 in batch row 0"),
    ],
)
def test_groups_that_cannot_be(two_rows, rows, message):
    with pytest.raises(RegionError, match=message):
        gl.Group("some", rows, two_rows.layout)


def test_groups_are_sorted_and_count(two_rows):
    some = gl.Group("some", ((5, 3, 5), (4,)), two_rows.layout)
    assert some.rows == ((3, 5), (4,))
    assert len(some) == 3
    assert torch.tensor(some.rows[0]).tolist() == [3, 5]
