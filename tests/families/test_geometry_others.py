"""Mllama and Molmo2: token maps by painting, counts, and encoding against pixels."""

import copy

import numpy as np
import pytest
import torch
from painting import Example, check_by_painting, check_counts, encoded_difference, entering, noise
from PIL import Image

from gaze_lens.errors import InputError
from gaze_lens.families import Processed
from gaze_lens.inputs.collation import Text, collate

# A token's side in the resized picture, and the resampler's reach. Molmo2 resizes without smoothing.
PAINTED = {"Mllama": {"side": 14, "taps": 1}, "Molmo2": {"side": 16, "taps": 1}}
SIZES = {
    "very wide": (1900, 41),
    "very tall": (43, 700),
    "small": (31, 29),
    "larger than the limit": (601, 433),
    "exact multiple": (112, 112),
    "odd": (97, 61),
    "one tile": (56, 40),
}


@pytest.fixture(params=PAINTED)
def name(request):
    return request.param


@pytest.fixture
def example(name):
    return Example.of(name)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_painting_a_tokens_box_changes_that_token_most(name, example, size):
    check_by_painting(example, [[noise(*size)]], "look", **PAINTED[name])


@pytest.mark.parametrize("image", [0, 1])
def test_painting_one_of_two_images_in_a_prompt(name, example, image):
    check_by_painting(example, [[noise(112, 60), noise(56, 130, seed=1)]], "compare", at=(0, image), **PAINTED[name])


@pytest.mark.parametrize("at", [(0, 0), (1, 0), (1, 1)])
def test_painting_in_a_padded_batch(name, example, at):
    rows = [[noise(112, 60)], [noise(56, 130, seed=1), noise(90, 90, seed=2)]]
    check_by_painting(example, rows, ["a much longer prompt " * 4, "short"], at=at, **PAINTED[name])


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_molmo2_has_a_token_for_each_placeholder(size):
    check_counts(Example.of("Molmo2"), Example.of("Molmo2").prepare([[noise(*size), noise(75, 75)]], "look"))


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_mllama_keys_are_those_of_the_cross_attention_layers(size):
    example = Example.of("Mllama")
    inputs = example.prepare([[noise(*size)], [noise(75, 75), noise(*size)]], ["a longer text", "b"])
    keys = entering(example.hf_model, inputs).shape[1]
    assert inputs.layout.cross_attention
    assert inputs.layout.n_keys == keys == 2 * 4 * 17
    assert inputs.layout.images == (tuple(range(keys // 2)), tuple(range(keys)))
    attended = inputs.tensors["attention_mask"].bool()
    assert inputs.layout.text == tuple(tuple(torch.nonzero(row)[:, 0].tolist()) for row in attended)
    stands = inputs.input_ids == example.hf_model.config.image_token_id
    assert inputs.layout.placeholders == tuple(tuple(torch.nonzero(row)[:, 0].tolist()) for row in stands)
    assert inputs.layout.after_images == tuple(row[-1] + 1 for row in inputs.layout.placeholders)


def checkpoint(name):
    """The processor and config of the tiny model, with the sizes of published checkpoints."""
    example = Example.of(name)
    processor, config = copy.deepcopy(example.processor), copy.deepcopy(example.hf_model.config)
    image_processor, pixels, patch = processor.image_processor, *{"Mllama": (560, 14), "Molmo2": (378, 14)}[name]
    image_processor.size = type(image_processor.size)(height=pixels, width=pixels)
    if name == "Molmo2":
        image_processor.patch_size, image_processor.overlap_margins, image_processor.max_crops = patch, [4, 4], 8
    config.vision_config.patch_size = patch
    return example.family, processor, config


def maps_at_scale(name, image):
    family, processor, config = checkpoint(name)
    outputs = processor(text=[processor.image_token], images=[[image]], return_tensors="pt")
    (token_map,) = family.token_maps(Processed(((image.size,),), outputs, processor, config))
    return token_map, outputs, processor.image_processor


def ramp(width, height):
    """Red grows from left to right, green from top to bottom."""
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    return Image.fromarray(np.stack([x * 255, y * 255, np.full_like(x, 255)], axis=-1).round().astype(np.uint8))


def brightness(patches, image_processor):
    """Normalised pixels [..., channel] as 0 to 1."""
    return patches * torch.tensor(image_processor.image_std) + torch.tensor(image_processor.image_mean)


AT_SCALE = [(1900, 300), (300, 1900), (2400, 2300), (560, 560), (561, 1120), (97, 61), (800, 601), (1121, 559)]


@pytest.mark.parametrize("size", AT_SCALE)
def test_a_colour_ramp_shows_where_tokens_lie_at_the_size_of_a_checkpoint(name, size):
    token_map, outputs, image_processor = maps_at_scale(name, ramp(*size))
    boxes = token_map.boxes.double()
    if name == "Mllama":  # [tile, channel, patch, pixel, patch, pixel] -> a class token and patches
        tiles = outputs["pixel_values"][0, 0]
        patches = tiles.unflatten(-1, (40, 14)).unflatten(-3, (40, 14)).permute(0, 2, 4, 3, 5, 1)
        colours = brightness(patches.flatten(3, 4), image_processor)
        inside = colours[..., 2].flatten(0, 2) > 0.99  # blue is full in the image and 0 in the padding
        assert len(boxes) == 4 * 1601
        assert boxes[::1601].isnan().all()
        boxes = boxes.unflatten(0, (4, 1601))[:, 1:].flatten(0, 1)
        has_box = inside.any(dim=-1)
        assert torch.equal(~boxes[:, 0].isnan(), has_box)
        colour_of_token = torch.stack(
            [colours.flatten(0, 2)[index][inside[index]].mean(dim=0) for index in torch.nonzero(has_box)[:, 0]]
        )
        boxes = boxes[has_box]
    else:
        pixels = outputs["pixel_values"].flatten(0, 1).unflatten(-1, (-1, 3))
        colours = brightness(pixels, image_processor).mean(dim=1)
        windows = [window[window >= 0] for window in outputs["image_token_pooling"]]
        colour_of_token = torch.stack([colours[window].mean(dim=0) for window in windows])
        assert len(boxes) == len(windows)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 / torch.tensor(size)
    assert (colour_of_token[:, :2].double() - centre).abs().max() < 2 / 255 + 1 / min(size)


@pytest.mark.parametrize("size", AT_SCALE)
def test_views_tile_the_image(name, size):
    token_map, _, _ = maps_at_scale(name, ramp(*size))
    boxes = token_map.boxes.double()
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=-1)
    views = [[0], [1]] if name == "Molmo2" else [[0, 1, 2, 3]]  # Mllama's tiles together make the image
    for view in views:
        of_view = torch.isin(token_map.view, torch.tensor(view)) & ~area.isnan()
        assert area[of_view].sum() == pytest.approx(size[0] * size[1], rel=1e-4)


@pytest.mark.parametrize("rows", [[[0]], [[0, 1]], [[0], [1]], [[0], [1, 2]], [[1, 2], [0]]], ids=str)
def test_encoding_equals_pixels(name, example, rows):
    images = [noise(112, 60), noise(56, 130, seed=1), noise(90, 90, seed=2)]
    inputs = example.prepare([[images[index] for index in row] for row in rows], ["a longer text", "b"][: len(rows)])
    assert encoded_difference(example, inputs) == 0
    assert (
        encoded_difference(example, inputs, apart=True) < 1e-5
    )  # matrices of other sizes are multiplied in another order


def test_mllama_rows_of_different_lengths_need_their_padding_encoded():
    example = Example.of("Mllama")
    rows = [[noise(112, 60)], [noise(56, 130), noise(90, 90)]]
    parts = [
        part
        for row in rows
        for image in row
        for inputs in [example.prepare([[image]], "look")]
        for part in example.family.encode(example.hf_model, inputs.tensors, inputs.maps, [0])
    ]
    with pytest.raises(InputError, match="different numbers of images.*Encode these inputs without reuse"):
        example.family.to_forward_kwargs(parts, counts=[1, 2])


def test_mllama_rows_without_an_image_beside_others_are_refused():
    with pytest.raises(InputError, match=r"Rows \[1\] have no image and others do.*on their own"):
        Example.of("Mllama").prepare([[noise(60, 60)], []], ["a", "b"])


def test_mllama_placeholders_are_counted():
    example = Example.of("Mllama")
    inputs = example.prepare([[noise(60, 60)]], "a")
    without = {**inputs.tensors, "input_ids": inputs.input_ids.clone()}
    without["input_ids"][0, inputs.layout.placeholders[0][0]] = 5
    with pytest.raises(InputError, match="Row 0 has 0 image placeholders in its text, and 1 images"):
        collate(
            without, inputs.pictures, [Text("a")], inputs.maps,
            config=example.hf_model.config, tokenizer=inputs.tokenizer, cross_attention=True,
        )  # fmt: skip


def test_molmo2_refuses_grids_that_its_settings_do_not_make():
    example = Example.of("Molmo2")
    inputs = example.prepare([[noise(97, 61)]], "a")
    for name, value, match in (("image_num_crops", 5, "made 5 crops"), ("image_grids", 5, "no number of crops")):
        wrong = {**inputs.tensors, name: torch.full_like(inputs.tensors[name], value)}
        with pytest.raises(InputError, match=match):
            example.family.token_maps(Processed((((97, 61),),), wrong, example.processor, example.hf_model.config))
