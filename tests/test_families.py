"""Where image tokens lie: painting the original picture inside a token's box changes that token, and no far one."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gaze_lens.errors import ModelError

NAMES = ["Qwen2.5-VL", "Qwen3-VL", "Qwen3-VL-MoE"]
SIZES = {
    "very wide": (1900, 11),
    "very tall": (30, 700),
    "tiny": (70, 9),
    "larger than the limit": (601, 433),
    "exact multiple": (112, 84) ,
    "odd": (97, 61),
    "between two roundings": (48, 80),
}  # fmt: skip


class Enough(Exception):
    """Raised to stop a forward where the language model would begin."""


def noise(width, height, seed=0):
    return np.random.default_rng(seed).integers(60, 196, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module", params=NAMES)
def eyes(request, shelf):
    """(wrapped model, a copy whose vision tower does not mix patches): a token then sees its own patches alone."""
    model, plain = shelf.get(request.param)
    blind = copy.deepcopy(plain)
    for block in blind.model.visual.blocks:
        torch.nn.init.zeros_(block.attn.proj.weight)
        torch.nn.init.zeros_(block.attn.proj.bias)
    return model, blind


@torch.no_grad()
def entering(blind, inputs):
    """What enters the language model at all image positions, DeepStack's additions too: [image token, feature]."""
    seen = {}

    def keep(_module, _args, kwargs):
        image = (inputs.input_ids == blind.config.image_token_id) & inputs.tensors["attention_mask"].bool()
        seen["features"] = [kwargs["inputs_embeds"][image], *(kwargs.get("deepstack_visual_embeds") or [])]
        raise Enough

    handle = blind.model.language_model.register_forward_pre_hook(keep, with_kwargs=True)
    with pytest.raises(Enough):
        blind(**inputs.tensors)
    handle.remove()
    return torch.cat(seen["features"], dim=-1)


def flat_index(inputs, tokens):
    """The rows of `entering` that belong to one image's tokens: by row, then by position."""
    order = [(row, position) for row, positions in enumerate(inputs.layout.images) for position in positions]
    return [order.index((tokens.row, position)) for position in tokens.positions.tolist()]


def painted(pixels, box):
    """The picture with the middle of a box turned to its opposite, and the rectangle that was painted."""
    x0, y0, x1, y1 = box
    left, right = int(np.ceil(x0 + (x1 - x0) / 5)), int(np.floor(x1 - (x1 - x0) / 5))
    top, bottom = int(np.ceil(y0 + (y1 - y0) / 5)), int(np.floor(y1 - (y1 - y0) / 5))
    assert left < right, "give a size whose tokens are larger than a pixel"
    assert top < bottom, "give a size whose tokens are larger than a pixel"
    pixels = pixels.copy()
    pixels[top:bottom, left:right] = (pixels[top:bottom, left:right].astype(int) + 128) % 256
    return pixels, (left, top, right, bottom)


def far_from(spot, tokens, token_side):
    """Tokens beyond the reach of bicubic resampling: two pixels of the coarser of the two images, and one for luck."""
    rows, columns = tokens.grid
    (width, height), boxes = tokens.size, tokens.boxes.numpy()
    reach_x = 2 * max(1, width / (columns * token_side)) + 1
    reach_y = 2 * max(1, height / (rows * token_side)) + 1
    left, top, right, bottom = spot
    beside = (boxes[:, 0] > right + reach_x) | (boxes[:, 2] < left - reach_x)
    return beside | (boxes[:, 1] > bottom + reach_y) | (boxes[:, 3] < top - reach_y)


def check_by_painting(eyes, pictures, prompts, image=0):
    """Paint a few tokens of one image of the prepared batch and look what changes in the whole batch."""
    model, blind = eyes

    def prepare(changed):
        nested = [[Image.fromarray(changed[index]) for index in row] for row in pictures["rows"]]
        return model.prepare(nested, prompts)

    arrays = list(pictures["arrays"])
    inputs = prepare(arrays)
    before = entering(blind, inputs)
    side = model.processor.image_processor.patch_size * model.processor.image_processor.merge_size
    place = next((r, row.index(image)) for r, row in enumerate(pictures["rows"]) if image in row)
    tokens = next(tokens for tokens in inputs.image_tokens if (tokens.row, tokens.image) == place)
    mine = flat_index(inputs, tokens)
    n_far = 0
    for chosen in sorted({0, len(tokens) - 1, len(tokens) // 2, len(tokens) // 3}):
        changed_pixels, spot = painted(arrays[image], tokens.boxes[chosen].tolist())
        after = entering(blind, prepare([*arrays[:image], changed_pixels, *arrays[image + 1 :]]))
        change = (after - before).norm(dim=-1)
        assert int(change.argmax()) == mine[chosen]
        untouched = torch.ones(len(change), dtype=torch.bool)
        untouched[mine] = torch.from_numpy(far_from(spot, tokens, side))
        assert (change[untouched] < 1e-4 * change.max()).all()
        n_far += int(untouched.sum())
    assert n_far > 0


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_painting_a_tokens_box_changes_that_token_most_and_far_tokens_never(eyes, size):
    check_by_painting(eyes, {"arrays": [noise(*size)], "rows": [[0]]}, "look")


@pytest.mark.parametrize("image", [0, 1])
def test_painting_one_of_two_images_in_a_prompt(eyes, image):
    check_by_painting(eyes, {"arrays": [noise(112, 60), noise(56, 130, seed=1)], "rows": [[0, 1]]}, "compare", image)


@pytest.mark.parametrize("image", [0, 1, 2])
def test_painting_in_a_left_padded_batch(eyes, image):
    arrays = [noise(112, 60), noise(56, 130, seed=1), noise(90, 90, seed=2)]
    check_by_painting(eyes, {"arrays": arrays, "rows": [[0], [1, 2]]}, ["a much longer prompt " * 4, "short"], image)


@settings(max_examples=25, deadline=None)
@given(width=st.integers(1, 700), height=st.integers(1, 700), second=st.integers(1, 200), data=st.data())
def test_tokens_are_as_many_as_placeholders_and_their_boxes_tile_the_image(shelf, width, height, second, data):
    if not 1 / 200 < width / height < 200:
        return
    model, _ = shelf.get(data.draw(st.sampled_from(NAMES)))
    pictures = [Image.new("RGB", (width, height)), Image.new("RGB", (second, second))]
    inputs = model.prepare([pictures], "look")
    placeholders = torch.nonzero(inputs.input_ids[0] == model.config.image_token_id)[:, 0]
    assert torch.equal(torch.cat([tokens.positions for tokens in inputs.image_tokens]), placeholders)
    merged = model.processor.image_processor.merge_size**2
    for tokens, grid in zip(inputs.image_tokens, inputs.tensors["image_grid_thw"], strict=True):
        assert len(tokens) == int(grid.prod()) // merged
        boxes = tokens.boxes.double()
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        assert area.sum() == pytest.approx(tokens.size[0] * tokens.size[1], rel=1e-4)
        rows, columns = tokens.grid
        for _ in range(3):  # every point lies in one box; on the line between two cells, float32 decides which
            row, column = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))
            x = (column + data.draw(st.floats(0.001, 0.999))) * tokens.size[0] / columns
            y = (row + data.draw(st.floats(0.001, 0.999))) * tokens.size[1] / rows
            holds = (boxes[:, 0] <= x) & (x < boxes[:, 2]) & (boxes[:, 1] <= y) & (y < boxes[:, 3])
            assert holds.sum() == 1
            assert tokens.cells[holds][0].tolist() == [row, column]


def test_a_model_built_in_memory_has_a_family_and_a_text_only_one_has_none():
    from transformers import LlamaConfig, Qwen3VLConfig, Qwen3VLMoeConfig

    from gaze_lens.families import family_of

    assert family_of(Qwen3VLConfig()).name == "Qwen3-VL"
    assert family_of(Qwen3VLMoeConfig()).name == "Qwen3-VL-MoE"
    with pytest.raises(ModelError, match="LlamaForCausalLM is a text-only model.*works with.*Qwen3VLFor"):
        family_of(LlamaConfig(architectures=["LlamaForCausalLM"]))
    strange = Qwen3VLConfig(architectures=["NewVLForConditionalGeneration"])
    with pytest.raises(ModelError, match="NewVLForConditionalGeneration is an unknown family.*works with"):
        family_of(strange)


def test_testing_tiny_knows_its_families():
    from gaze_lens import testing
    from gaze_lens.families import FAMILIES

    assert {family.name for family in FAMILIES} == set(testing.BUILDERS)
    with pytest.raises(ModelError, match="no tiny model of 'GPT'; there are Qwen2.5-VL"):
        testing.tiny("GPT")
