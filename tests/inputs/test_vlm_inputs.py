"""`model.prepare` against direct calls of Hugging Face's processor, and the positions in `VLMInputs`."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from gaze_lens.errors import ImageError, InputError, RegionError
from gaze_lens.inputs.preparation import prepare
from gaze_lens.inputs.vlm_inputs import pixel_keys
from gaze_lens.regions.picture import Picture, panels
from gaze_lens.regions.shapes import Box, Mask, Polygon

NAMES = ["Qwen2.5-VL", "Qwen3-VL", "Qwen3-VL-MoE"]
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def chat(model, text, n_images):
    """The text of a question by the chat template, written out; Qwen2.5-VL's has a system turn of its own."""
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n" if model.family.name == "Qwen2.5-VL" else ""
    return f"{system}<|im_start|>user\n{IMAGE * n_images}{text}<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(params=NAMES)
def model(request, shelf):
    return shelf.get(request.param)[0]


def by_hand(model, texts, nested):
    """Hugging Face's processor, called as in its documentation."""
    images = nested if any(nested) else None
    return model.processor(text=texts, images=images, padding=True, padding_side="left", return_tensors="pt")


def assert_same_tensors(inputs, expected):
    assert set(inputs.tensors) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(inputs.tensors[name], tensor), name


def test_one_image_equals_the_processor(model):
    image = noise(96, 70)
    expected = by_hand(model, [chat(model, "What is this?", 1)], [[image]])
    assert_same_tensors(model.prepare(image, "What is this?"), expected)
    assert_same_tensors(model.prepare(np.asarray(image), "What is this?"), expected)
    assert_same_tensors(model.prepare(Picture(image), "What is this?"), expected)
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}]
    assert_same_tensors(model.prepare(image, messages), expected)
    assert_same_tensors(model.prepare([image], [messages]), expected)
    brought = [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": messages[0]
                ["content"][1]["text"]}]}]  # fmt: skip
    assert_same_tensors(model.prepare(None, brought), expected)


def test_text_alone_equals_the_processor(model):
    inputs = model.prepare(None, "Hello")
    assert_same_tensors(inputs, by_hand(model, [chat(model, "Hello", 0)], [[]]))
    assert inputs.image_tokens == ()
    assert inputs.text_positions == (tuple(range(inputs.shape[1])),)


def test_batches_equal_the_processor(model):
    a, b = noise(96, 70), noise(60, 130, seed=1)
    cases = [
        (model.prepare(a, ["Short", "A longer question"]), ["Short", "A longer question"], [[a], [a]]),
        (model.prepare([a, b], "Same"), ["Same", "Same"], [[a], [b]]),
        (model.prepare([a, b], ["One", "Another"]), ["One", "Another"], [[a], [b]]),
        (model.prepare((a, b), ("One", "Another")), ["One", "Another"], [[a], [b]]),
        (model.prepare([[a, b]], "Compare"), ["Compare"], [[a, b]]),
        (model.prepare([[a, b], [b]], ["Compare", "Look"]), ["Compare", "Look"], [[a, b], [b]]),
        (model.prepare([a, None], ["Look", "Just text"]), ["Look", "Just text"], [[a], []]),
    ]
    for inputs, questions, nested in cases:
        texts = [chat(model, question, len(row)) for question, row in zip(questions, nested, strict=True)]
        assert_same_tensors(inputs, by_hand(model, texts, nested))
        assert [(t.row, t.image) for t in inputs.image_tokens] == [
            (r, i) for r, n in enumerate(nested) for i in range(len(n))
        ]
        assert [t.size for t in inputs.image_tokens] == [image.size for row in nested for image in row]


def test_several_turns_keep_their_images_in_place(qwen):
    a, b = noise(64, 64), noise(96, 64, seed=1)
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "First:"}, {"type": "image"}]},
        {"role": "assistant", "content": "Fine."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "And this?"}]},
    ]
    text = (
        f"<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user\nFirst:{IMAGE}<|im_end|>\n<|im_start|>assistant\n"
        f"Fine.<|im_end|>\n<|im_start|>user\n{IMAGE}And this?<|im_end|>\n<|im_start|>assistant\n"
    )
    inputs = qwen.prepare([[a, b]], messages)
    assert_same_tensors(inputs, by_hand(qwen, [text], [[a, b]]))
    assert [len(tokens) for tokens in inputs.image_tokens] == [4, 6]


def test_images_fill_the_placeholders_that_carry_none(qwen):
    red, blue, green = (Image.new("RGB", (32 * n, 64), colour) for n, colour in ((2, "red"), (3, "blue"), (4, "green")))
    own, other = {"type": "image", "image": red}, {"type": "image"}
    text = {"type": "text", "text": "and"}

    def sizes(images, *content):
        return qwen.prepare(images, [{"role": "user", "content": [*content]}]).layout.sizes

    for images, content, expected in (
        (blue, [own, text, other], [red, blue]),
        (blue, [other, text, own], [blue, red]),
        ([[blue, green]], [other, own, text, other], [blue, red, green]),
        (None, [text, own], [red]),
    ):
        assert sizes(images, *content) == (tuple(image.size for image in expected),)
    for images in ([[blue, green]], None):
        with pytest.raises(InputError, match="2 image placeholders, and [13] images were given"):
            sizes(images, own, other)


def test_a_span_has_all_tokens_of_its_characters(qwen):
    inputs = qwen.prepare(Image.new("RGB", (64, 64)), "Was ist das? café 😀 漢字 end")
    for text in ("😀", "é", "café", "漢字", "字", "é 😀", "Was"):
        (row,) = inputs.span(text).rows
        ids = inputs.input_ids[0, list(row)]
        assert qwen.processor.tokenizer.decode(ids).strip() == text, text
        assert list(row) == list(range(row[0], row[-1] + 1))


def test_a_sideways_photo_is_turned_once(qwen, tmp_path):
    upright = noise(64, 96)
    sideways = Image.fromarray(np.rot90(np.asarray(upright)))
    exif = sideways.getexif()
    exif[0x0112] = 6  # "turn by 90 degrees, clockwise, to see it"
    sideways.save(tmp_path / "photo.png", exif=exif)
    expected = by_hand(qwen, [chat(qwen, "x", 1)], [[upright]])
    for source in (tmp_path / "photo.png", str(tmp_path / "photo.png"), Image.open(tmp_path / "photo.png")):
        inputs = qwen.prepare(source, "x")
        assert_same_tensors(inputs, expected)
        assert inputs.image_tokens[0].size == (64, 96)
    with pytest.raises(ImageError, match=r"EXIF orientation that was not applied.*read_image\(path\)"):
        qwen.prepare(Picture(Image.open(tmp_path / "photo.png"), {"cat": Box(0, 0, 40, 40)}), "x")


def test_positions_of_images_text_and_padding(model):
    a, b = noise(96, 70), noise(60, 130, seed=1)
    inputs = model.prepare([[a, b], [b]], ["Compare these two", "Look"])
    ids, pad = inputs.input_ids, model.processor.tokenizer.pad_token_id
    assert inputs.shape == ids.shape
    assert len(inputs) == inputs.n_rows == 2
    assert inputs.last_position == ids.shape[1] - 1
    for row in range(2):
        images = [p for p in range(ids.shape[1]) if ids[row, p] == model.config.image_token_id]
        padding = [p for p in range(ids.shape[1]) if ids[row, p] == pad]
        assert list(inputs.layout.images[row]) == images
        assert sorted(images + padding + list(inputs.text_positions[row])) == list(range(ids.shape[1]))
        mine = [p for tokens in inputs.image_tokens if tokens.row == row for p in tokens.positions.tolist()]
        assert mine == images
    assert padding, "the second row should be padded"
    assert padding[0] == 0


def test_answers_are_at_the_end_and_answer_positions_predict_them(model):
    image, answers = noise(64, 64), ["red dog", "a cat, sitting."]
    inputs = model.prepare(image, ["What?", "And what is this one?"], answers=answers)
    plain = model.prepare(image, ["What?", "And what is this one?"])
    for row, answer in enumerate(answers):
        positions = inputs.answer_positions[row]
        following = inputs.input_ids[row, [p + 1 for p in positions]]
        assert inputs.tokenizer.decode(following) == answer
        assert positions[-1] == inputs.last_position - 1
        prompt = plain.input_ids[row][plain.tensors["attention_mask"][row].bool()]
        start = inputs.shape[1] - len(following) - len(prompt)
        assert torch.equal(inputs.input_ids[row, start : inputs.answers[row]], prompt)
    assert plain.answer_positions == ((), ())
    same = model.prepare(image, ["What?", "Which?"], answers="red dog")
    assert [len(positions) for positions in same.answer_positions] == [7, 7]


@pytest.fixture
def merging(qwen):
    """A processor whose tokenizer has tokens across words: a newline merges with an X, and X with Y."""
    alphabet = {symbol: index for index, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary = {**alphabet, "ĊX": len(alphabet), "XY": len(alphabet) + 1}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[("Ċ", "X"), ("X", "Y")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    special = qwen.processor.tokenizer.all_special_tokens
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    old = qwen.processor
    return type(old)(old.image_processor, tokenizer, old.video_processor, chat_template=old.chat_template)


def test_an_answer_that_merges_with_the_prompt_is_refused(qwen, merging):
    config = SimpleNamespace(image_token_id=merging.image_token_id)
    with pytest.raises(InputError, match=r"answer 'XY' begins in the middle of a token.*white space"):
        prepare(merging, qwen.family, noise(64, 64), "look", config=config, answers="XY")
    inputs = prepare(merging, qwen.family, noise(64, 64), "look", config=config, answers="aXY")
    (positions,) = inputs.answer_positions
    following = inputs.input_ids[0, [p + 1 for p in positions]].tolist()
    assert merging.tokenizer.convert_ids_to_tokens(following) == ["a", "XY"]


def strip(n=3, side=32, **captions):
    return Picture(noise(n * side, side * 2), panels(n, n * side, side * 2), captions)


def cells(inputs, region, row=0, image=0):
    """(row, column) of a region's tokens in the grid."""
    tokens = next(t for t in inputs.image_tokens if (t.row, t.image) == (row, image))
    selected = [p in region.positions[row] for p in tokens.positions.tolist()]
    return {tuple(cell) for cell in tokens.cells[selected].tolist()}


def test_regions_by_name_box_point_mask_and_polygon(qwen):
    inputs = qwen.prepare(strip(), "look")  # 96 x 64 pixels, tokens of 32 x 32
    mask = np.zeros((64, 96), bool)
    mask[32:, 64:] = True
    assert cells(inputs, inputs.region("panel 2")) == {(0, 1), (1, 1)}
    assert cells(inputs, inputs.region((0, 0, 64, 32))) == {(0, 0), (0, 1)}
    assert cells(inputs, inputs.region([0, 0, 64, 32])) == {(0, 0), (0, 1)}
    assert cells(inputs, inputs.region(Box(10, 10, 60, 20), rule="overlap")) == {(0, 0), (0, 1)}
    assert cells(inputs, inputs.region((70, 40))) == {(1, 2)}
    assert cells(inputs, inputs.region(mask)) == cells(inputs, inputs.region(Mask(mask))) == {(1, 2)}
    assert cells(inputs, inputs.region(Polygon([(0, 0), (96, 0), (0, 40)]))) == {(0, 0), (0, 1)}
    assert inputs.region("panel 2").name == "panel 2"
    assert inputs.region((0, 0, 64, 32)).name == "box 0 0 64 32"
    assert set(inputs.positions_of("panel 2")) == set(inputs.region("panel 2").positions[0])
    inputs.region("panel 2").check(inputs.layout)


def test_a_region_for_each_row(qwen):
    inputs = qwen.prepare([strip(), strip(4)], ["a short one", "x"])
    region = inputs.region(["panel 1", "panel 4"])
    assert cells(inputs, region, row=0) == {(0, 0), (1, 0)}
    assert cells(inputs, region, row=1) == {(0, 3), (1, 3)}
    assert region.name == "panel 1, panel 4"
    boxes = inputs.region([(0, 0, 32, 32), (96, 32, 128, 64)])
    assert cells(inputs, boxes, row=0) == {(0, 0)}
    assert cells(inputs, boxes, row=1) == {(1, 3)}
    assert cells(inputs, inputs.region("panel 3"), row=1) == {(0, 2), (1, 2)}
    with pytest.raises(RegionError, match="3 regions were given for 2 rows; give one, or one per row"):
        inputs.region(["panel 1"] * 3)


def test_two_images_with_the_same_names(qwen):
    inputs = qwen.prepare(
        [[strip(), Picture(noise(64, 64), {"cat": Box(0, 0, 32, 32), "panel 1": Box(32, 0, 64, 32)})]], "x"
    )
    assert cells(inputs, inputs.region("cat"), image=1) == {(0, 0)}
    assert cells(inputs, inputs.region("panel 1", image=1), image=1) == {(0, 1)}
    assert cells(inputs, inputs.region((0, 0, 32, 32), image=0)) == {(0, 0)}
    with pytest.raises(
        RegionError, match="Row 0 has 2 images, and 'panel 1' may be in 2 of them; say which with image=0"
    ):
        inputs.region("panel 1")
    with pytest.raises(RegionError, match=r"\(0, 0, 32, 32\) may be in 2 of them"):
        inputs.region((0, 0, 32, 32))
    with pytest.raises(RegionError, match="Row 0 has no image 2; give image=0 to image=1"):
        inputs.region("cat", image=2)
    with pytest.raises(RegionError, match=r"has a region 'cat'; it has \['panel 1', 'panel 2', 'panel 3'\]"):
        inputs.region("cat", image=0)


def test_a_region_is_bound_to_its_layout(qwen):
    first, other = qwen.prepare(strip(), "look"), qwen.prepare(strip(), "look here")
    with pytest.raises(RegionError, match=r"made for Layout of 1 rows x \d+ positions.*inputs.region"):
        first.region("panel 1").check(other.layout)
    with pytest.raises(RegionError, match="made for"):
        first.region("panel 1") | other.region("panel 2")


def test_tokens_as_text(qwen):
    inputs = qwen.prepare([[strip(), noise(64, 64)], [noise(64, 64)]], ["A?", "Longer question?"])
    for row, sizes in enumerate([(6, 4), (4,)]):
        ids = inputs.input_ids[row][inputs.tensors["attention_mask"][row].bool()].tolist()
        question = ["A?", "Longer question?"][row]
        texts = [inputs.tokenizer.decode([token]) for token in ids]
        assert inputs.str_tokens(row) == ["<|endoftext|>"] * (inputs.shape[1] - len(ids)) + texts
        images = "".join(f"<|vision_start|><image: {size} tokens><|vision_end|>" for size in sizes)
        expected = f"<|im_start|>user\n{images}{question}<|im_end|>\n<|im_start|>assistant\n"
        assert "".join(inputs.str_tokens(row, collapse=True)) == expected
        assert inputs.str_tokens(row, collapse=True).count(f"<image: {sizes[0]} tokens>") == 1
    assert "".join(qwen.prepare(None, "Hi").str_tokens()).startswith("<|im_start|>user\nHi<|im_end|>")
    with pytest.raises(InputError, match="There is no row 2; these inputs have rows 0 to 1"):
        inputs.str_tokens(2)


def test_heatmaps_lie_where_the_tokens_are(qwen):
    inputs = qwen.prepare([[noise(64, 64), strip()]], "look")
    values = torch.zeros(inputs.shape[1] + 3)  # as in a decode step, with more positions than the prompt has
    values[list(inputs.region("panel 3", image=1).positions[0])] = 0.5
    values[inputs.image_tokens[0].positions[0]] = 0.25
    expected = np.zeros((64, 96), np.float32)
    expected[:, 64:] = 0.5
    assert np.array_equal(inputs.heatmap(values, image=1).numpy(), expected)
    assert inputs.heatmap(values)[:32, :32].eq(0.25).all()
    assert inputs.heatmap(values).sum() == pytest.approx(0.25 * 32 * 32)
    with pytest.raises(InputError, match="There is no image 2 in row 0; row 0 has 2 images"):
        inputs.heatmap(values, image=2)
    with pytest.raises(InputError, match=r"3 values were given for \d+ positions.*image_tokens\[i\].heatmap"):
        inputs.heatmap(values[:3])
    with pytest.raises(InputError, match="There is no row 1"):
        inputs.heatmap(values, row=1)


def test_a_prompt_longer_than_the_context_is_refused(shelf):
    model, _ = shelf.get("Qwen3-VL", max_position_embeddings=40)
    fits = model.prepare(noise(64, 64), "x" * 15)
    assert fits.shape[1] == 40
    with pytest.raises(
        InputError, match="The prompt has 41 tokens, and the model's context holds 40; shorten the text"
    ):
        model.prepare(noise(64, 64), "x" * 16)


def test_equal_pixels_have_equal_keys(qwen):
    a, b = noise(64, 96), noise(96, 64)
    keys = pixel_keys(qwen.prepare([a, b, a.copy()], "x"))
    assert keys[0] == keys[2] != keys[1]
    assert a.tobytes() == b.tobytes(), "the same bytes in another shape are another image"


def test_encoded_inputs_move_to_another_device(shelf):
    model, _ = shelf.get("Qwen3-VL")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8))
    encoded = model.encode(model.prepare(picture, "What?")).to("meta")
    assert encoded.device.type == "meta"
    held = [held for part in encoded.features.images for held in (part["tokens"], *part["levels"])]
    assert {part.device.type for level in held for part in (level if isinstance(level, tuple) else [level])} == {"meta"}
