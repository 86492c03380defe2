"""Token maps of the LLaVA families, Pixtral and Mistral3: painting, counts, encoding, and Hugging Face's own call."""

import copy

import numpy as np
import pytest
import torch
from painting import SIZES, Example, check_by_painting, check_counts, encoded_difference, entering, noise
from PIL import Image

from gaze_lens.errors import ImageError, ModelError, RegionError

REACH = {  # for `check_by_painting`; LLaVA-OneVision interpolates the features of large images
    "Pixtral": {"side": 16}, "Mistral3": {"side": 28}, "LightOnOCR": {"side": 28}, "LLaVA": {"side": 14},
    "LLaVA padded": {"side": 14}, "LLaVA-NeXT": {"side": 14}, "LLaVA-OneVision": {"side": 14, "leak": 1},
    "VipLlava": {"side": 14}, "DeepSeek-VL": {"side": 8},
}  # fmt: skip
SIZES = {**SIZES, "very wide": (900, 31), "wide": (300, 110)}  # Pixtral has no token for 1900 x 11
ROWS = [[noise(112, 60)], [noise(56, 130, seed=1), noise(90, 90, seed=2)]]
PROMPTS = ["a much longer prompt " * 4, "short"]


@pytest.fixture(scope="module", params=REACH)
def name(request):
    return request.param


def one_image(name, *size):
    example = Example.of(name)
    inputs = example.prepare([[noise(*size)]], ["look"])
    return example, inputs, inputs.image_tokens[0]


def covered(tokens, view):
    """[height, width]: the number of a view's boxes that contain a pixel's centre."""
    width, height = tokens.size
    x, y = np.arange(width) + 0.5, np.arange(height) + 0.5
    count = np.zeros((height, width), dtype=int)
    for x0, y0, x1, y1 in tokens.boxes[tokens.view == view].double().tolist():
        count += ((x0 <= x) & (x < x1))[None, :] & ((y0 <= y) & (y < y1))[:, None]  # a NaN box contains nothing
    return count


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_painting_a_tokens_box_changes_that_token_most_and_far_tokens_never(name, size):
    check_by_painting(Example.of(name), [[noise(*size)]], ["look"], **REACH[name])


@pytest.mark.parametrize("image", [0, 1])
def test_painting_one_of_two_images_in_a_prompt(name, image):
    rows = [[noise(112, 60), noise(56, 130, seed=1)]]
    check_by_painting(Example.of(name), rows, ["compare"], (0, image), **REACH[name])


@pytest.mark.parametrize("at", [(0, 0), (1, 0), (1, 1)])
def test_painting_in_a_left_padded_batch(name, at):
    check_by_painting(Example.of(name), ROWS, PROMPTS, at, **REACH[name])


@pytest.mark.parametrize("rows", [[[ROWS[0][0]]], [ROWS[1]], ROWS, [ROWS[1], [ROWS[1][0]]]], ids=len)
def test_encoded_images_equal_their_pixels_and_tokens_are_at_the_placeholders(name, rows):
    example = Example.of(name)
    inputs = example.prepare(rows, PROMPTS[: len(rows)])
    check_counts(example, inputs)
    assert encoded_difference(example, inputs) == 0
    assert encoded_difference(example, inputs, apart=True) < 1e-4


@pytest.mark.parametrize("rows", [[[ROWS[0][0]]], [ROWS[1]], ROWS], ids=len)
def test_the_language_models_inputs_equal_those_of_hugging_faces_own_call(name, rows):
    example = Example.of(name)
    pictures = [[Image.fromarray(array) for array in row] for row in rows]
    conversations = [
        [{"role": "user", "content": [*({"type": "image", "image": image} for image in row), text]}]
        for row, text in zip(pictures, [{"type": "text", "text": prompt} for prompt in PROMPTS], strict=False)
    ]
    expected = example.processor.apply_chat_template(
        conversations, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left"},
    )  # fmt: skip
    tensors = example.prepare(rows, PROMPTS[: len(rows)]).tensors
    assert set(tensors) == set(expected)
    for key, tensor in expected.items():
        assert torch.equal(tensors[key], tensor), key


def test_a_row_without_images_among_rows_with_images(name):
    example = Example.of(name)
    for rows in ([[], [ROWS[0][0]]], [[ROWS[0][0]], []]):
        inputs = example.prepare(rows, PROMPTS)
        assert [tokens.row for tokens in inputs.image_tokens] == [rows.index([ROWS[0][0]])]
        assert len(inputs.image_tokens[0]) == int((inputs.input_ids == example.hf_model.config.image_token_id).sum())
    assert example.prepare([[]], ["no picture"]).image_tokens == ()


def test_the_vision_model_type_distinguishes_pixtral_and_llava():
    assert Example.of("Pixtral").family.name == "Pixtral"
    assert Example.of("LLaVA").family.name == Example.of("LLaVA padded").family.name == "LLaVA"
    assert type(Example.of("Pixtral").hf_model) is type(Example.of("LLaVA").hf_model)


def test_cropped_llava_sees_only_the_middle():
    example, inputs, tokens = one_image("LLaVA", 300, 100)
    assert covered(tokens, 0)[:, 100:200].min() == covered(tokens, 0).max() == 1
    assert covered(tokens, 0)[:, :100].max() == covered(tokens, 0)[:, 200:].max() == 0
    for point in [(50, 50), (250, 50)]:
        with pytest.raises(RegionError, match="holds no image token"):
            tokens.at(*point)
    before = entering(example.unmixed, inputs)
    pixels = noise(300, 100)
    pixels[:, :96], pixels[:, 204:] = 0, 0  # 4 pixels: the resampler's reach
    assert torch.equal(entering(example.unmixed, example.prepare([[pixels]], ["look"])), before)


@pytest.mark.parametrize(("name", "leading"), [("LLaVA", 0), ("LLaVA padded", 1)])
def test_a_class_token_that_the_strategy_keeps_comes_first_and_covers_nothing(name, leading):
    _, _, tokens = one_image(name, 97, 97)
    assert tokens.boxes.isnan().all(1).nonzero()[:, 0].tolist() == list(range(leading))
    assert tokens.grid == (5, 5)
    assert (covered(tokens, 0) == 1).all()


@pytest.mark.parametrize("size", [(300, 100), (100, 300)])
def test_padded_llava_has_tokens_without_a_box_in_the_padding_and_sees_the_whole_image(size):
    _, _, tokens = one_image("LLaVA padded", *size)
    assert (covered(tokens, 0) == 1).all()
    padding = tokens.boxes.isnan().all(1) & (tokens.cells[:, 0] >= 0)
    along = int(size[0] > size[1])  # the padding lies above and below, or left and right
    assert sorted(set(tokens.cells[padding][:, 1 - along].tolist())) == [0, 4]
    assert int(padding.sum()) == 10


@pytest.mark.parametrize("name", ["LLaVA-NeXT", "LLaVA-OneVision"])
@pytest.mark.parametrize("size", [(97, 61), (61, 97), (300, 110), (601, 433), (30, 700), (1900, 11)])
def test_newlines_are_the_models_newline_and_all_others_are_not(name, size):
    example, inputs, tokens = one_image(name, *size)
    entered = entering(example.hf_model, inputs)[0, tokens.positions]
    newline = (entered == example.hf_model.model.image_newline).all(-1)
    assert torch.equal(newline, tokens.cells[:, 0] < 0)
    assert tokens.boxes[newline].isnan().all()
    assert newline.any() == (size != (1900, 11))  # here all rows of tiles count as padding


def test_a_padded_view_of_several_ends_in_one_newline():
    example = Example.of("LLaVA-OneVision")
    inputs = example.prepare([[noise(97, 61), noise(50, 130)]], ["compare"])
    for tokens in inputs.image_tokens:
        assert len(tokens) == 4 * 4 + 1
        assert torch.equal(tokens.cells[-1], torch.tensor([-1, -1]))
        entered = entering(example.hf_model, inputs)[0, tokens.positions]
        assert (entered == example.hf_model.model.image_newline).all(-1).nonzero()[:, 0].tolist() == [16]


def test_an_image_alone_and_the_same_image_beside_another_have_different_encodings():
    from gaze_lens.inputs.vlm_inputs import pixel_keys

    example = Example.of("LLaVA-OneVision")
    first, second = noise(97, 61), noise(50, 130)
    keys = pixel_keys(example.prepare([[first, second], [first], [first]], ["x"] * 3))
    assert keys[2] == keys[3]
    assert len(set(keys)) == 3


def test_strips_that_no_patch_sees_belong_to_no_token():
    """A tile of 60 pixels has four patches of 14, and 4 more pixels; the image is not resized."""
    example, inputs, tokens = one_image("LLaVA-OneVision", 120, 120)
    visible = np.arange(120) % 60 < 56
    assert np.array_equal(covered(tokens, 1), (visible[:, None] & visible[None, :]).astype(int))
    (position,) = tokens.at(58, 20).tolist()
    assert tokens.view[tokens.positions == position].tolist() == [0]
    pixels = noise(120, 120)
    pixels[:, 57:60] = 255
    change = (
        entering(example.unmixed, example.prepare([[pixels]], ["look"])) - entering(example.unmixed, inputs)
    ).norm(dim=-1)
    change = change[0, tokens.positions]
    assert change[tokens.view == 1].max() == 0 < change[tokens.view == 0].max()


@pytest.mark.parametrize("name", ["LLaVA-NeXT", "LLaVA-OneVision"])
@pytest.mark.parametrize("size", [(601, 433), (97, 61), (61, 97), (300, 110)])
def test_views_show_the_image_without_overlap(name, size):
    _, _, tokens = one_image(name, *size)
    strips = name == "LLaVA-OneVision"
    for view in (0, 1):
        count = covered(tokens, view)
        assert count.max() == 1
        assert count.mean() > (0.75 if strips else 0.85)  # rounding to tokens may remove the image's edges


def test_large_images_are_shrunk_to_the_limit_of_onevision():
    _, _, tokens = one_image("LLaVA-OneVision", 601, 433)
    cells = tokens.cells[(tokens.view == 1) & (tokens.cells[:, 0] >= 0)]
    rows, columns = (cells.max(0).values + 1).tolist()
    assert (rows, columns) == (6, 9)  # of 8 x 12, to at most 4 x 4 x 4
    full = tokens.boxes[tokens.view == 1][:columns]
    assert full[0, 0] == 0
    assert full[-1, 2] == pytest.approx(601 * 176 / 180, abs=1)  # to the strip of the last tile


def test_tiles_that_are_resized_after_cutting_are_refused():
    from gaze_lens import testing
    from gaze_lens.families import Processed, family_of

    model, processor = testing.tiny("LLaVA-NeXT")
    processor.image_processor.size = {"shortest_edge": 70}
    with pytest.raises(ModelError, match="'shortest_edge': 70.*an image size of 56.*processor of this checkpoint"):
        family_of(model.config).token_maps(Processed((((97, 61),),), {}, processor, model.config))


def test_a_picture_that_pixtral_shrinks_to_nothing_is_refused():
    with pytest.raises(ImageError, match="refused the images .1900 x 11 pixels"):
        Example.of("Pixtral").prepare([[noise(1900, 11)]], ["look"])


# At the sizes of checkpoints: only the processors, no model.

ODD = [
    (1, 1), (13, 700), (1900, 31), (336, 336), (337, 335), (384, 384), (640, 480), (480, 640), (1024, 768), (767, 1025),
    (2304, 2304), (2305, 2303), (1152, 384), (385, 1151), (1540, 1541), (999, 3), (3, 999), (672, 1008), (50, 49),
    (1333, 333),
]  # fmt: skip


def processor_of(name):
    """A family's processor and config with the settings of its checkpoints that token maps need."""
    import transformers as hf

    from gaze_lens.testing.parts import byte_tokenizer

    tokenizer = byte_tokenizer(("<image>", "<video>", "[IMG]", "[IMG_BREAK]", "[IMG_END]", "<|im_end|>"))
    clip = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
    options = {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    if name == "LLaVA-NeXT":
        config = hf.LlavaNextConfig()
        image_processor = hf.LlavaNextImageProcessor(**clip, image_grid_pinpoints=config.image_grid_pinpoints)
        return hf.LlavaNextProcessor(image_processor, tokenizer, **options), config
    if name == "LLaVA-OneVision":
        more = {"num_image_tokens": 729, "vision_feature_select_strategy": "full"}
        videos = hf.LlavaOnevisionVideoProcessor()
        image_processor = hf.LlavaOnevisionImageProcessor()
        return hf.LlavaOnevisionProcessor(image_processor, tokenizer, videos, **more), hf.LlavaOnevisionConfig()
    if name == "Siglip in a LLaVA":
        image_processor = hf.SiglipImageProcessor(size={"height": 384, "width": 384})
        options = {"patch_size": 14, "vision_feature_select_strategy": "full", "num_additional_image_tokens": 0}
        return hf.LlavaProcessor(image_processor, tokenizer, **options), None
    if name in ("LLaVA", "LLaVA padded"):
        kind = hf.CLIPImageProcessor if name == "LLaVA" else hf.LlavaImageProcessor
        padding = {} if name == "LLaVA" else {"do_pad": True}
        return hf.LlavaProcessor(kind(**clip, **padding), tokenizer, **options), None
    patch, merge, longest = (16, 1, 1024) if name == "Pixtral" else (14, 2, 1540)
    image_processor = hf.PixtralImageProcessor(size={"longest_edge": longest}, patch_size=patch)
    return hf.PixtralProcessor(image_processor, tokenizer, patch_size=patch, spatial_merge_size=merge), None


def family_at_scale(name):
    return Example.of("LLaVA" if name == "Siglip in a LLaVA" else name).family


@pytest.mark.parametrize("name", ["LLaVA-NeXT", "LLaVA-OneVision"])
def test_counts_at_the_sizes_of_checkpoints_equal_the_processors_own(name):
    from gaze_lens.families import Processed

    processor, config = processor_of(name)
    counts = processor._get_num_multimodal_tokens(image_sizes=[size[::-1] for size in ODD]).num_image_tokens
    tensors = {"batch_num_images": torch.ones(len(ODD), dtype=torch.long)}
    maps = family_at_scale(name).token_maps(Processed(tuple((size,) for size in ODD), tensors, processor, config))
    assert [len(token_map) for token_map in maps] == counts
    assert len(set(counts)) > 5
    for size, token_map in zip(ODD, maps, strict=True):
        whole = token_map.boxes[token_map.view == 0].double()
        visible = ((whole[:, 2] - whole[:, 0]) * (whole[:, 3] - whole[:, 1])).sum() / (size[0] * size[1])
        assert visible == pytest.approx((378 / 384) ** 2 if name == "LLaVA-OneVision" else 1, rel=1e-4)


@pytest.mark.parametrize("name", ["LLaVA", "LLaVA padded", "Siglip in a LLaVA", "Pixtral", "Mistral3"])
def test_counts_at_the_sizes_of_checkpoints_are_the_placeholders(name):
    from gaze_lens.families import Processed

    processor, config = processor_of(name)
    for size in ODD:
        if name == "Mistral3" and max(size) <= 28:
            continue  # a single token, which is refused
        token = processor.image_token
        try:
            tensors = processor(text=[token], images=[[Image.new("RGB", size)]], return_tensors="pt")
        except ValueError:
            assert name in ("Pixtral", "Mistral3")
            assert min(size) * 1024 < max(size) * 16
            continue
        (token_map,) = family_at_scale(name).token_maps(Processed(((size,),), tensors, processor, config))
        assert len(token_map) == int((tensors["input_ids"] == processor.image_token_id).sum())
        boxes = token_map.boxes.double()
        area = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).nansum()
        visible = {"LLaVA": min(size) ** 2, "Siglip in a LLaVA": size[0] * size[1] * (378 / 384) ** 2}
        assert float(area) == pytest.approx(visible.get(name, size[0] * size[1]), rel=1e-2)


def test_a_picture_of_a_single_token_is_refused_where_the_model_cannot_take_it():
    """Hugging Face's Mistral3 loses a dimension: its own forward fails with a RuntimeError."""
    for size in [(3, 3), (1, 1), (28, 28), (17, 5)]:
        with pytest.raises(
            ImageError, match=rf"A picture of {size[0]} x {size[1]} pixels becomes a single image token"
        ):
            one_image("Mistral3", *size)
    example, inputs, tokens = one_image("Mistral3", 60, 3)
    assert len(tokens) == 3
    assert entering(example.hf_model, inputs).isfinite().all()
    example, inputs, tokens = one_image("Pixtral", 3, 3)  # has no such fault
    assert len(tokens) == 1
    assert entering(example.hf_model, inputs).isfinite().all()


@pytest.mark.parametrize("settings", [{}, {"min_size": 64}], ids=str)
def test_deepseek_vl_at_the_scale_of_its_checkpoint_has_the_whole_picture_in_the_middle(settings):
    """Red grows to the right and green downwards: a token's pixels, without those of padding, say where it lies."""
    import transformers as hf

    from gaze_lens.families import Processed

    example, patch = Example.of("DeepSeek-VL"), 16
    config = copy.deepcopy(example.hf_model.config)
    config.vision_config.patch_size = patch
    image_processor = hf.DeepseekVLImageProcessor(do_normalize=False, **settings)
    processor = hf.DeepseekVLProcessor(image_processor, example.processor.tokenizer)
    for size in [(640, 480), (480, 640), (384, 384), (1024, 100), (97, 1001), (30, 31)]:
        ramps = np.full((size[1], size[0], 3), 255, dtype=np.uint8)
        ramps[..., 0] = 255 * (np.arange(size[0]) + 0.5) / size[0]
        ramps[..., 1] = 255 * (np.arange(size[1])[:, None] + 0.5) / size[1]
        tensors = processor(text=["<image_placeholder>"], images=[[Image.fromarray(ramps)]], return_tensors="pt")
        (token_map,) = example.family.token_maps(Processed(((size,),), tensors, processor, config))
        assert len(token_map) == int((tensors["input_ids"] == processor.image_token_id).sum()) == 576
        red, green, blue = torch.nn.functional.avg_pool2d(tensors["pixel_values"], patch).flatten(2)[0]
        shown = blue > 0.999  # the padding is grey
        boxes, ends = token_map.boxes.double(), torch.tensor(size)
        assert not boxes[shown].isnan().any()
        assert boxes[blue < 0.41].isnan().all()
        centres = ((boxes[:, :2] + boxes[:, 2:]) / 2)[shown] / ends
        assert ((centres - torch.stack([red, green], dim=-1)[shown]).abs() < 1.5 / 255 + 0.5 / min(size)).all()
        area = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).nansum()
        assert float(area) == pytest.approx(size[0] * size[1], rel=1e-2)
