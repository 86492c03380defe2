"""Families that cut an image into tiles or crops: token maps, numbers of tokens, and encoding against pixels."""

import copy

import numpy as np
import pytest
import torch
from painting import SIZES, Example, check_by_painting, check_counts, encoded_difference, noise, painted
from PIL import Image

from gaze_lens.errors import ImageError, InputError, ModelError

PAINTED = {  # a token's side in the resized picture, and the reach of the resamplers in pixels
    "InternVL": {"side": 16, "taps": 2},
    "Qianfan-OCR": {"side": 16, "taps": 2},
    "AyaVision": {"side": 14, "taps": 2},
    "Cohere2Vision": {"side": 16, "taps": 2},
    "Gemma 3": {"side": 8, "taps": 1},
    "Gemma 3 pan and scan": {"side": 8, "taps": 1},
    "Idefics3": {"side": 16, "taps": 9},  # resized twice, the view of the whole three times, by Lanczos
    "SmolVLM": {"side": 16, "taps": 9},
    "Llama 4": {"side": 14, "taps": 1},
    "Ovis2": {"side": 16, "taps": 2},
    "LFM2-VL": {"side": 16, "taps": 1},  # its views, and MiniCPM-V's, have grids of different shapes
    "MiniCPM-V 4.6": {"side": 16, "taps": 2},
    "MiniCPM-V 4.7": {"side": 16, "taps": 2},
}
PAINTED_SIZES = {**SIZES, "very wide": (1900, 41), "very tall": (43, 700), "tiny": (31, 29)}
BATCH = [[(112, 60)], [(56, 130), (90, 90)]]
PROMPTS = ["a much longer prompt " * 4, "short"]


def square(side):
    return {"height": side, "width": side}


def longest(edge):
    return {"longest_edge": edge}


SOFT = "<start_of_image>" + "<image_soft_token>" * 256 + "<end_of_image>"
CHECKPOINTS = {  # settings as in published checkpoints: of the image processor, the processor, the config, its vision
    "InternVL": ({"size": square(448), "max_patches": 12}, {"image_seq_length": 256}, {}, {"patch_size": (14, 14)}),
    "Qianfan-OCR": ({"size": square(448), "max_patches": 12}, {"image_seq_length": 256}, {}, {"patch_size": (14, 14)}),
    "AyaVision": (
        {"size": square(364), "max_patches": 12}, {"patch_size": 28, "img_size": 364}, {}, {"patch_size": 14},
    ),
    "Cohere2Vision": (
        {"size": square(512), "max_patches": 12, "patch_size": 16}, {"patch_size": 16}, {}, {"patch_size": 16},
    ),
    "Gemma 3": (
        {"size": square(896)}, {"full_image_sequence": SOFT}, {"mm_tokens_per_image": 256}, {"patch_size": 14},
    ),
    "Gemma 3 pan and scan": (
        {"size": square(896), "pan_and_scan_min_crop_size": 256}, {"full_image_sequence": SOFT},
        {"mm_tokens_per_image": 256}, {"patch_size": 14},
    ),
    "Idefics3": (
        {"size": longest(1456), "max_image_size": longest(364)}, {"image_seq_len": 169}, {}, {"patch_size": 14},
    ),
    "SmolVLM": (
        {"size": longest(1536), "max_image_size": longest(384)}, {"image_seq_len": 81}, {"scale_factor": 3},
        {"patch_size": 14},
    ),
    "Llama 4": (
        {"size": square(336), "max_patches": 16, "do_normalize": True}, {"patch_size": 14}, {}, {"patch_size": 14},
    ),
    "Ovis2": (
        {"size": square(448), "max_patches": 9}, {"image_seq_length": 256}, {}, {"patch_size": 14, "hidden_stride": 2},
    ),
}  # fmt: skip
TOKEN = {  # pixels of a tile to a token's side, there
    "InternVL": 28, "AyaVision": 28, "Cohere2Vision": 32, "Gemma 3": 56, "Gemma 3 pan and scan": 56, "Idefics3": 28,
    "SmolVLM": 42, "Llama 4": 28, "Qianfan-OCR": 28, "Ovis2": 28,
}  # fmt: skip
ODD_SIZES = [
    (1499, 61), (67, 901), (23, 31), (448, 448), (336, 336), (364, 728), (1000, 500), (500, 1300), (333, 999),
    (1200, 1201), (641, 479), (479, 641), (1024, 337), (337, 1024), (800, 800), (701, 233), (97, 1001), (1344, 896),
    (150, 149), (905, 907),
]  # fmt: skip


def settled(name, images=(), processor=(), config=(), vision=()):
    """A copy of a tiny family's processor and config with other settings; there is no model that fits them."""
    example = Example.of(name)
    changed, changed_config = copy.deepcopy((example.processor, example.hf_model.config))
    settings = getattr(changed, "images_kwargs", {})  # overrides the image processor's own settings
    changed.images_kwargs = {**settings, **{key: value for key, value in dict(images).items() if key in settings}}
    for thing, settings in (
        (changed.image_processor, images), (changed, processor), (changed_config, config),
        (changed_config.vision_config, vision),
    ):  # fmt: skip
        for key, value in dict(settings).items():
            setattr(thing, key, value)
    return changed, changed_config, example.family


def ramps(width, height):
    """A picture whose colours give the place: red grows to the right, green downwards; blue is 255."""
    pixels = np.full((height, width, 3), 255, dtype=np.uint8)
    pixels[..., 0] = np.round(255 * (np.arange(width) + 0.5) / width)
    pixels[..., 1] = np.round(255 * (np.arange(height)[:, None] + 0.5) / height)
    return Image.fromarray(pixels)


def colours(processor, pixels, token):
    """[token, channel], 0 to 1: the mean colour of each token's own pixels, view by view, from `pixel_values`."""
    images = processor.image_processor
    pixels = pixels.reshape(-1, *pixels.shape[-3:]).float()
    if images.do_normalize:
        mean, std = torch.tensor(images.image_mean)[:, None, None], torch.tensor(images.image_std)[:, None, None]
        pixels = pixels * std + mean
    return torch.nn.functional.avg_pool2d(pixels, token).permute(0, 2, 3, 1).reshape(-1, 3)


def check_by_ramps(processor, config, family, size, token):
    """Check that every token's box lies where the colours of its pixels say; returns the tokens."""
    from gaze_lens.inputs.preparation import prepare

    inputs = prepare(processor, family, ramps(*size), "look", config=config)
    (tokens,) = inputs.image_tokens
    assert len(tokens) == int((inputs.input_ids == config.image_token_id).sum())
    red, green, blue = colours(processor, inputs.tensors["pixel_values"], token).T
    assert len(red) == len(tokens)
    boxed = ~tokens.boxes[:, 0].isnan()
    assert torch.equal(boxed, blue > 0.5 / token**2)  # black is padding
    boxes, ends = tokens.boxes[boxed], torch.tensor(size)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    measured = torch.stack([red / blue, green / blue], dim=-1)[boxed] * ends
    assert (
        (centres - measured).abs() < 1.5 / 255 * ends + 0.3
    ).all()  # colours have 256 steps, and resampling mixes borders
    partly = blue[boxed] < 0.98
    assert (boxes[partly, 2:] > ends - 0.01).any(-1).all(), "a token that is partly padding ends where the image does"
    return tokens


@pytest.mark.parametrize("size", PAINTED_SIZES.values(), ids=PAINTED_SIZES)
@pytest.mark.parametrize("name", PAINTED)
def test_painting_a_tokens_box_changes_that_token_most_and_far_tokens_never(name, size):
    check_by_painting(Example.of(name), [[noise(*size)]], ["look"], **PAINTED[name])


@pytest.mark.parametrize("at", [(0, 0), (1, 0), (1, 1)])
@pytest.mark.parametrize("name", PAINTED)
def test_painting_in_a_left_padded_batch_where_one_prompt_has_two_images(name, at):
    rows = [[noise(*size, seed=size[0]) for size in row] for row in BATCH]
    check_by_painting(Example.of(name), rows, PROMPTS, at, **PAINTED[name])


@pytest.mark.parametrize("name", PAINTED)
def test_counts_and_encoding_in_a_left_padded_batch(name):
    example = Example.of(name)
    inputs = example.prepare([[noise(*size, seed=size[0]) for size in row] for row in BATCH], PROMPTS)
    check_counts(example, inputs)
    assert not inputs.tensors["attention_mask"].all(), "no row is padded"
    assert encoded_difference(example, inputs) == 0
    assert encoded_difference(example, inputs, apart=True) < 1e-5


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_at_the_scale_of_checkpoints_the_pixels_say_where_every_token_lies(name):
    processor, config, family = settled(name, *CHECKPOINTS[name])
    views = [check_by_ramps(processor, config, family, size, TOKEN[name]).view.max() for size in ODD_SIZES]
    assert len(set(map(int, views))) > 1 or name == "Gemma 3"


SETTINGS = {  # changed settings, a token's side with them, and whether they change the views of some image
    "one view without cropping": ("InternVL", {"crop_to_patches": False}, 16, True),
    "at least three tiles": ("InternVL", {"min_patches": 3}, 16, True),
    "at most one tile": ("AyaVision", {"max_patches": 1}, 14, True),
    "a lower limit that is not read": ("Cohere2Vision", {"min_patches": 3}, 16, False),
    "fewer crops": ("Gemma 3 pan and scan", {"pan_and_scan_max_num_crops": 2}, 8, True),
    "crops of long images only": ("Gemma 3 pan and scan", {"pan_and_scan_min_ratio_to_activate": 2.0}, 8, True),
    "no splitting": ("Idefics3", {"do_image_splitting": False}, 16, True),
    "no first resize": ("Idefics3", {"do_resize": False}, 16, True),
    "a first resize to a fixed size": ("SmolVLM", {"size": {"height": 60, "width": 100}}, 16, True),
    "the largest canvas": ("Llama 4", {"resize_to_max_canvas": True}, 14, True),
}


@pytest.mark.parametrize(("name", "images", "token", "matters"), SETTINGS.values(), ids=SETTINGS)
def test_geometry_follows_the_processors_settings(name, images, token, matters):
    sizes = [(97, 61), (61, 97), (150, 50), (29, 31), (60, 60), (111, 40)]
    with_it, without = (
        [check_by_ramps(*settled(name, settings), size, token).view.tolist() for size in sizes]
        for settings in (images, {})
    )
    assert (with_it != without) == matters


@pytest.mark.parametrize("name", ["Idefics3", "SmolVLM"])
def test_tiles_named_in_the_text_equal_those_computed_from_sizes(name, monkeypatch):
    from gaze_lens import testing
    from gaze_lens.families import family_of, tile_grids
    from gaze_lens.families.geometry import Processed
    from gaze_lens.inputs.preparation import prepare
    from gaze_lens.testing import tiles

    processor, config, family = settled(name, *CHECKPOINTS[name])
    for size in ODD_SIZES:
        tensors = prepare(processor, family, Image.new("RGB", size), "look", config=config).tensors
        processed = Processed(((size,),), tensors, processor, config)
        assert tile_grids.named_grids(processed) == [tile_grids.grid_by_long_side(processed, size)]
    monkeypatch.setattr(tiles, "PLACES", ())  # a tokenizer without tokens for tiles
    model, plain_processor = testing.tiny(name)
    images = [Image.new("RGB", size) for size in ((97, 61), (40, 80))]
    inputs = prepare(plain_processor, family_of(model.config), [images], "look", config=model.config)
    processed = Processed((tuple(image.size for image in images),), inputs.tensors, plain_processor, model.config)
    assert tile_grids.named_grids(processed) is None
    named = Example.of(name).prepare([[np.asarray(image) for image in images]], ["look"])
    for tokens, others in zip(inputs.image_tokens, named.image_tokens, strict=True):
        assert torch.equal(tokens.boxes, others.boxes)


def test_tokens_of_a_canvas_beyond_the_image_have_no_box_and_keep_their_place_in_the_grid():
    (tokens,) = Example.of("Llama 4").prepare([[noise(97, 30)]], ["look"]).image_tokens
    padding = tokens.boxes[:, 0].isnan()
    assert 0 < int(padding.sum()) < len(tokens)
    assert (tokens.cells >= 0).all()
    assert not padding[tokens.view == tokens.view.max()].any(), "the view of the whole is stretched"


def test_llama_4_in_bfloat16_takes_the_processors_own_normalised_pixels():
    example = Example.of("Llama 4")
    processor, _, family = settled("Llama 4", {"do_normalize": True})
    half = Example(family, processor, copy.deepcopy(example.hf_model).bfloat16(), example.unmixed)
    inputs = half.prepare([[noise(97, 61)]], ["look"])
    assert inputs.tensors["pixel_values"].dtype == torch.bfloat16
    assert encoded_difference(half, inputs) == 0


def test_a_processor_that_disagrees_with_the_config_is_an_error_with_both_counts():
    from gaze_lens.inputs.preparation import prepare

    processor, config, family = settled("InternVL", processor={"image_seq_length": 9})
    with pytest.raises(InputError, match="63 image tokens in its text, but its 1 images make 28"):
        prepare(processor, family, Image.new("RGB", (97, 61)), "look", config=config)


def test_without_num2words_smolvlm_says_what_to_install(monkeypatch, tmp_path):
    from transformers.models.smolvlm import processing_smolvlm

    from gaze_lens import testing
    from gaze_lens.families import family_of
    from gaze_lens.model import loading

    model, processor = testing.tiny("SmolVLM")
    processor.save_pretrained(tmp_path)
    model.config.save_pretrained(tmp_path)
    monkeypatch.setattr(processing_smolvlm, "num2words", None)
    with pytest.raises(ImportError, match="pip install num2words"):
        testing.tiny("SmolVLM")
    with pytest.raises(ModelError, match="lacks a package.*pip install num2words"):
        loading._processor(str(tmp_path), None, family_of(model.config))


SQUEEZED = {"Idefics3": [(200, 2), (2, 200), (1900, 11), (11, 1900)], "SmolVLM": [(1900, 11), (11, 1900), (2, 400)]}
NARROW = [(60, 2), (2, 60), (100, 2), (2, 100), (60, 1), (1, 60), (150, 3), (300, 7), (7, 300)]
SMALL = [(2, 2), (3, 3), (2, 3), (3, 2), (2, 5), (9, 2), (3, 1), (4, 4), (3, 7)]


@pytest.mark.parametrize("name", SQUEEZED)
def test_pictures_whose_rows_the_first_resize_merges_are_refused(name):
    """They become one pixel high or wide, and are stretched again: every token sees all of that side."""
    example = Example.of(name)
    for size in SQUEEZED[name]:
        with pytest.raises(
            ImageError, match=rf"A picture of {size[0]} x {size[1]} pixels is first resized to .*Crop or"
        ):
            example.prepare([[noise(*size)]], ["look"])


@pytest.mark.parametrize("size", NARROW + SMALL, ids=str)
@pytest.mark.parametrize(("name", "token"), [("Idefics3", 16), ("SmolVLM", 17)])
def test_narrow_and_small_pictures_change_where_they_are_painted(name, token, size):
    """In every view, the token whose pixels change most has the painted spot in its box.

    Of features this does not hold: resampling spreads a pixel over many tokens, and a feature is no measure of change.
    """
    example, pixels, random = Example.of(name), noise(*size), np.random.default_rng(0)

    def seen(picture):
        inputs = example.prepare([[picture]], ["look"])
        return inputs, colours(example.processor, inputs.tensors["pixel_values"], token).numpy()

    inputs, before = seen(pixels)
    (tokens,) = inputs.image_tokens
    boxes, view = tokens.boxes.double().numpy(), tokens.view.numpy()
    sides = [max(1, side // 12) for side in size]
    for _ in range(8):
        left, top = (int(random.integers(0, side - spot + 1)) for side, spot in zip(size, sides, strict=True))
        spot = (left, top, left + sides[0], top + sides[1])
        change = np.abs(seen(painted(pixels, spot))[1] - before).sum(axis=1)
        inside = np.minimum(boxes[:, 2:], spot[2:]) - np.maximum(boxes[:, :2], spot[:2])
        for one in np.unique(view):
            members = np.flatnonzero(view == one)
            most = members[change[members].argmax()]
            assert inside[most].min() > 0 or change[most] < change.max() / 2
