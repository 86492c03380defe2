"""Token maps: painting inside a token's box in the original picture changes that token, and no distant one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from painting import SIZES, Example, check_by_painting, check_counts, encoded_difference, noise
from transformers.utils import is_timm_available

from gaze_lens.errors import ModelError

SIDES = {  # of a token, in pixels of the resized picture
    "Qwen2-VL": 28, "Qwen2.5-VL": 28, "Qwen3-VL": 32, "Qwen3-VL-MoE": 32, "Qwen3.5": 32, "Qwen3.5-MoE": 32,
    "GLM-4V": 28, "GLM-4.6V": 28, "GLM-4V-MoE": 28, "PaliGemma": 14, "PaliGemma 2": 14, "Gemma 4": 24,
    "Qwen2.5-Omni": 28, "Qwen3-Omni": 32, "GLM-OCR": 28, "PaddleOCR-VL": 28, "VideoLLaMA 3": 14,
}  # fmt: skip
NAMES = list(SIDES)


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_painting_a_tokens_box_changes_that_token_most_and_far_tokens_never(name, size):
    check_by_painting(Example.of(name), [[noise(*size)]], "look", side=SIDES[name])


@pytest.mark.parametrize("image", [0, 1])
def test_painting_one_of_two_images_in_a_prompt(name, image):
    rows = [[noise(112, 60), noise(56, 130, seed=1)]]
    check_by_painting(Example.of(name), rows, "compare", (0, image), side=SIDES[name])


@pytest.mark.parametrize("at", [(0, 0), (1, 0), (1, 1)])
def test_painting_in_a_left_padded_batch(name, at):
    rows = [[noise(112, 60)], [noise(56, 130, seed=1), noise(90, 90, seed=2)]]
    check_by_painting(Example.of(name), rows, ["a much longer prompt " * 4, "short"], at, side=SIDES[name])


def test_encoded_images_equal_their_pixels_and_tokens_are_at_the_placeholders(name):
    example = Example.of(name)
    rows = [[noise(112, 60)], [noise(56, 130, seed=1), noise(90, 90, seed=2)]]
    inputs = example.prepare(rows, ["a much longer prompt " * 4, "short"])
    check_counts(example, inputs)
    assert encoded_difference(example, inputs) == 0
    assert encoded_difference(example, inputs, apart=True) < 1e-4


@settings(max_examples=25, deadline=None)
@given(width=st.integers(1, 700), height=st.integers(1, 700), second=st.integers(1, 200), data=st.data())
def test_there_is_a_token_for_each_placeholder_and_boxes_tile_the_image(width, height, second, data):
    if not 1 / 200 < width / height < 200:
        return
    example = Example.of(data.draw(st.sampled_from(NAMES)))
    inputs = example.prepare([[noise(width, height), noise(second, second)]], "look")
    check_counts(example, inputs)
    for tokens in inputs.image_tokens:
        boxes = tokens.boxes.double()
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        assert area.sum() == pytest.approx(tokens.size[0] * tokens.size[1], rel=1e-4)
        rows, columns = tokens.grid
        for _ in range(3):  # every point lies in one box; float32 rounding decides at the border of two
            row, column = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))
            x = (column + data.draw(st.floats(0.001, 0.999))) * tokens.size[0] / columns
            y = (row + data.draw(st.floats(0.001, 0.999))) * tokens.size[1] / rows
            holds = (boxes[:, 0] <= x) & (x < boxes[:, 2]) & (boxes[:, 1] <= y) & (y < boxes[:, 3])
            assert holds.sum() == 1
            assert tokens.cells[holds][0].tolist() == [row, column]


def test_a_model_built_in_memory_has_a_family_and_an_unknown_one_has_none():
    from transformers import LlamaConfig, Qwen3VLConfig, Qwen3VLMoeConfig

    from gaze_lens.families import family_of

    assert family_of(Qwen3VLConfig()).name == "Qwen3-VL"
    assert family_of(Qwen3VLMoeConfig()).name == "Qwen3-VL-MoE"
    assert family_of(LlamaConfig(architectures=["LlamaForCausalLM"])).text_only
    with pytest.raises(ModelError, match="OtherForCausalLM is a language model.*works with.*Qwen3-VL,"):
        family_of(LlamaConfig(architectures=["OtherForCausalLM"]))
    unknown = Qwen3VLConfig(architectures=["NewVLForConditionalGeneration"])
    with pytest.raises(ModelError, match="NewVLForConditionalGeneration is an unknown family.*works with"):
        family_of(unknown)


def test_testing_tiny_knows_its_families():
    from gaze_lens import testing
    from gaze_lens.families import FAMILIES

    without_timm = set() if is_timm_available() else {"Gemma 3n"}
    assert {family.name for family in FAMILIES} <= {*testing.BUILDERS, *without_timm}
    with pytest.raises(ModelError, match="no tiny model of 'GPT'; there are Qwen2-VL, Qwen2.5-VL"):
        testing.tiny("GPT")
