"""Families whose views have grids of different shapes: their settings. `test_geometry_tiles.py` paints them."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from painting import Example, check_by_painting, encoded_difference, noise

from gaze_lens.errors import ImageError, ModelError

TAPS = {"LFM2-VL": 1, "MiniCPM-V 4.6": 2, "MiniCPM-V 4.7": 2}  # the reach of their resamplers


def views_of(example, sizes=((112, 84), (128, 64), (60, 60), (30, 250))):
    """For each size, the number of tokens of every view."""
    maps = [example.prepare([[noise(*size)]], ["look"]).image_tokens[0] for size in sizes]
    return [torch.bincount(tokens.view).tolist() for tokens in maps]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("LFM2-VL", {"do_image_splitting": False}),
        ("LFM2-VL", {"use_thumbnail": False}),
        ("LFM2-VL", {"max_tiles": 3}),
        ("LFM2-VL", {"min_tiles": 4}),
        ("LFM2-VL", {"max_image_tokens": 24}),
        ("LFM2-VL", {"max_pixels_tolerance": 2.0}),
        ("LFM2-VL", {"tile_size": 48}),
        ("MiniCPM-V 4.6", {"max_slice_nums": 3}),
        ("MiniCPM-V 4.6", {"scale_resolution": 64}),
    ],
    ids=str,
)
def test_geometry_follows_the_processors_settings(name, settings):
    """The number of tokens is checked against the prompt's placeholders in `prepare`, the places by painting."""
    example = Example.of(name)
    before = {key: getattr(example.processor.image_processor, key) for key in settings}
    default = views_of(example)
    try:
        for key, value in settings.items():
            setattr(example.processor.image_processor, key, value)
        assert views_of(example) != default
        check_by_painting(example, [[noise(112, 84)]], ["look"], side=16, taps=TAPS[name])
    finally:
        for key, value in before.items():
            setattr(example.processor.image_processor, key, value)


@pytest.mark.parametrize("name", ["MiniCPM-V 4.6", "MiniCPM-V 4.7"])
def test_minicpm_with_four_times_the_tokens(name):
    example = copy.deepcopy(Example.of(name))
    example.processor.image_processor.downsample_mode = "4x"
    example.hf_model.config.downsample_mode = example.unmixed.config.downsample_mode = "4x"
    for more, fewer in zip(views_of(example), views_of(Example.of(name)), strict=True):
        assert 3 * sum(fewer) < sum(more) < 5 * sum(fewer)  # sides are rounded to a token's
    check_by_painting(example, [[noise(112, 84)]], ["look"], side=8)
    inputs = example.prepare([[noise(112, 84)]], ["look"])
    assert encoded_difference(example, inputs) == 0


def test_lfm2_vl_names_its_tiles_in_the_text_as_the_map_has_them():
    example = Example.of("LFM2-VL")
    for size in ((112, 84), (500, 30), (43, 700), (97, 61)):
        inputs = example.prepare([[noise(*size)]], ["look"])
        (tokens,) = inputs.image_tokens
        for position, box in zip(tokens.positions.tolist(), tokens.boxes.tolist(), strict=True):
            name = example.processor.tokenizer.convert_ids_to_tokens(int(inputs.input_ids[0, position - 1]))
            if name.startswith("<|img_row_"):  # the first token of a tile
                row, column = (int(part) for part in name.strip("<|>").split("_")[2::2])
                tile = tokens.boxes[tokens.view == tokens.view[list(tokens.positions).index(position)]]
                width, height = (tile[:, 2:].amax(0) - tile[:, :2].amin(0)).tolist()
                np.testing.assert_allclose(box[:2], [(column - 1) * width, (row - 1) * height], atol=1e-3)


def test_a_picture_whose_views_do_not_fit_together_is_an_error_that_names_its_size():
    with pytest.raises(ImageError, match="refused the images .3000 x 12 pixels.*Crop, pad or resize"):
        Example.of("LFM2-VL").prepare([[noise(3000, 12)]], ["look"])


def test_a_tensor_by_view_that_a_description_forgets_is_an_error(shelf, monkeypatch):
    """It would be taken for one with a value for each row."""
    model, _ = shelf.get("MiniCPM-V 4.7")
    inputs = model.prepare(noise(112, 84), "look")
    monkeypatch.setattr(model, "family", dataclasses.replace(model.family, pixel_names=("pixel_values",)))
    with pytest.raises(ModelError, match="target_sizes has 7 rows for 1 prompts.*pixel_names.*to_forward_kwargs"):
        model.encode(inputs)
