"""Grids and single views against Hugging Face's own numbers from image sizes; prompts without a chat template."""

import dataclasses

import pytest
import torch
from painting import Example, check_by_painting, check_counts, encoded_difference, entering, noise

from gaze_lens.errors import InputError
from gaze_lens.families import Processed

QWEN = ["Qwen2-VL", "Qwen2.5-VL", "Qwen3-VL", "Qwen3-VL-MoE", "Qwen3.5", "Qwen3.5-MoE"]
GLM = ["GLM-4V", "GLM-4.6V", "GLM-4V-MoE", "GLM-OCR"]
PLAIN = ["PaliGemma", "PaliGemma 2"]
ALL = [*QWEN, *GLM, *PLAIN, "Gemma 4", "Qwen2.5-Omni", "Qwen3-Omni", "VideoLLaMA 3", "PaddleOCR-VL"]
SIZES = [(1900, 11), (30, 700), (70, 9), (601, 433), (112, 84), (97, 61), (5, 4), (448, 448), (29, 27)]


@pytest.fixture(params=ALL)
def example(request):
    return Example.of(request.param)


def two_rows(example, answers=None):
    from gaze_lens.inputs.preparation import prepare

    rows = [[noise(112, 60)], [noise(56, 130, seed=1), noise(90, 90, seed=2)]]
    prompts = ["a much longer prompt " * 4, "short"]
    return prepare(example.processor, example.family, rows, prompts, config=example.hf_model.config, answers=answers)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_an_image_has_the_number_of_tokens_that_the_processor_computes_from_its_size(example, size):
    width, height = size
    (tokens,) = example.prepare([[noise(width, height)]], "look").image_tokens
    if example.family.name == "PaddleOCR-VL":  # its processor computes patches only
        foretold = example.processor.image_processor.get_number_of_image_patches(height, width) // 4
    else:
        (foretold,) = example.processor._get_num_multimodal_tokens(image_sizes=[(height, width)])["num_image_tokens"]
    assert len(tokens) == foretold


@pytest.mark.parametrize("name", GLM)
@pytest.mark.parametrize("size", [(10, 20), (27, 300), (2000, 1500)], ids=str)
def test_glm_enlarges_small_images_and_counts_each_as_two_frames(name, size):
    example = Example.of(name)
    inputs = example.prepare([[noise(*size)]], "look")
    rows, columns = inputs.image_tokens[0].grid
    assert 2 * rows * columns * 28 * 28 <= example.processor.image_processor.size["longest_edge"]
    assert (columns / rows > 1) == (size[0] > size[1])
    assert inputs.image_tokens[0].bounds(inputs.image_tokens[0].positions.tolist()).x1 == size[0]


def test_each_encoded_image_has_the_features_of_its_own_image(example):
    """Two images in the other order give other logits, so that a difference of zero elsewhere proves something."""
    inputs = example.prepare([[noise(96, 96), noise(96, 96, seed=1)]], "compare")
    parts = example.family.encode(example.hf_model, inputs.tensors, inputs.maps, [0, 1])
    rest = {name: tensor for name, tensor in inputs.tensors.items() if name not in example.family.pixel_names}
    with torch.no_grad():
        right = example.hf_model(**rest, **example.family.to_forward_kwargs(parts)).logits
        wrong = example.hf_model(**rest, **example.family.to_forward_kwargs(parts[::-1])).logits
        pixels = example.hf_model(**inputs.tensors).logits
    assert torch.equal(right, pixels)
    assert (wrong - pixels).abs().max() > 0.1


def test_one_image_of_a_batch_is_encoded_without_the_others(example):
    inputs = two_rows(example)
    together = example.family.encode(example.hf_model, inputs.tensors, inputs.maps, [0, 1, 2])
    (alone,) = example.family.encode(example.hf_model, inputs.tensors, inputs.maps, [1])
    torch.testing.assert_close(alone["tokens"], together[1]["tokens"], rtol=0, atol=1e-5)
    assert len(alone["tokens"]) == len(inputs.image_tokens[1])


@pytest.mark.parametrize("name", PLAIN)
def test_a_processor_that_writes_another_number_of_placeholders_raises_with_both_counts(name, monkeypatch):
    example = Example.of(name)
    monkeypatch.setattr(example.processor, "image_seq_length", 16)
    with pytest.raises(InputError, match=r"Row 0 has 16 image tokens in its text, but its 1 images make 36"):
        example.prepare([[noise(60, 60)]], "look")


def test_a_grid_that_the_placeholders_do_not_fit_raises_with_both_counts():
    """The processors of Qwen and GLM write placeholders by `merge_size`; token maps use the same grid."""
    example = Example.of("GLM-4V")
    inputs = example.prepare([[noise(112, 56)]], "look")
    family = dataclasses.replace(example.family, token_maps=lambda _: [_cut(m) for m in inputs.maps])
    with pytest.raises(InputError, match=r"Row 0 has 8 image tokens in its text, but its 1 images make 6"):
        dataclasses.replace(example, family=family).prepare([[noise(112, 56)]], "look")


def _cut(token_map):
    return dataclasses.replace(token_map, boxes=token_map.boxes[:6], cells=token_map.cells[:6], view=token_map.view[:6])


def test_an_image_size_that_patches_do_not_divide_is_refused(monkeypatch):
    example = Example.of("PaliGemma")
    monkeypatch.setattr(example.processor.image_processor, "size", {"height": 84, "width": 90})
    with pytest.raises(
        InputError, match="images of 90 x 84 pixels: expected multiples of the vision tower's patch, 14"
    ):
        example.prepare([[noise(60, 60)]], "look")


def test_text_alone_has_no_maps(example):
    assert example.family.token_maps(Processed(((),), {}, example.processor, example.hf_model.config)) == []
    if not example.family.no_chat_template:
        assert example.prepare([[]], "no picture").image_tokens == ()


@pytest.mark.parametrize("name", PLAIN)
def test_a_prompt_without_chat_template_equals_the_processors_text(name):
    example = Example.of(name)
    inputs = example.prepare([[noise(60, 60)]], "what is it")
    theirs = example.processor(text="<image>what is it", images=[noise(60, 60)], return_tensors="pt")
    assert torch.equal(inputs.input_ids, theirs["input_ids"])
    assert torch.equal(inputs.tensors["token_type_ids"], theirs["token_type_ids"])
    assert "labels" not in inputs.tensors
    assert inputs.str_tokens(collapse=True)[:3] == ["<image: 36 tokens>", "<bos>", "w"]
    assert inputs.str_tokens()[-1] == "\n"


@pytest.mark.parametrize("name", PLAIN)
def test_an_answer_without_chat_template_is_the_suffix_without_its_end_token(name):
    example = Example.of(name)
    inputs = two_rows(example, answers=["a cat", "two dogs"])
    tokenizer = example.processor.tokenizer
    assert [tokenizer.decode(row[start:]) for row, start in zip(inputs.input_ids, inputs.answers, strict=True)] == [
        "a cat", "two dogs",
    ]  # fmt: skip
    for row, start in enumerate(inputs.answers):
        assert inputs.tensors["token_type_ids"][row, start:].all()
        assert not inputs.tensors["token_type_ids"][row, :start].any()
    assert all(tensor.shape == inputs.shape for name, tensor in inputs.tensors.items() if name != "pixel_values")
    check_counts(example, inputs)
    assert encoded_difference(example, inputs) == 0


@pytest.mark.parametrize("name", PLAIN)
def test_an_answer_without_chat_template_has_the_logits_of_step_by_step_decoding(name):
    example = Example.of(name)
    from gaze_lens.inputs.preparation import prepare

    image, config = noise(60, 60), example.hf_model.config
    prompt = example.prepare([[image]], "what")
    with torch.no_grad():
        grown = example.hf_model.generate(**prompt.tensors, max_new_tokens=4, do_sample=False, eos_token_id=None)
        answer = example.processor.tokenizer.decode(grown[0, prompt.layout.length :])
        forced = prepare(example.processor, example.family, image, "what", config=config, answers=answer)
        assert torch.equal(forced.input_ids, grown)
        logits = example.hf_model(**forced.tensors).logits[0]
    assert logits[list(forced.answer_positions[0])].argmax(-1).tolist() == grown[0, prompt.layout.length :].tolist()


def test_families_without_chat_template_refuse_conversations_and_prompts_without_an_image():
    from gaze_lens.inputs.preparation import prepare

    example, image = Example.of("PaliGemma"), noise(60, 60)
    text, placed = {"type": "text", "text": "x"}, {"type": "image"}
    conversations = [
        [{"role": "user", "content": [text, placed]}],
        [{"role": "system", "content": "x"}, {"role": "user", "content": [placed, text]}],
    ]
    for conversation in conversations:
        with pytest.raises(InputError, match="PaliGemma models take images and then one text, no conversation"):
            prepare(example.processor, example.family, image, conversation, config=example.hf_model.config)
    with pytest.raises(InputError, match="its images before its text"):
        prepare(example.processor, example.family, None, "x", config=example.hf_model.config)
    with pytest.raises(InputError, match="its images before its text"):  # one row of the batch
        prepare(example.processor, example.family, [[image], []], ["x", "y"], config=example.hf_model.config)


def test_a_processor_without_a_chat_template_saves_and_loads(tmp_path):
    from gaze_lens.model import loading

    example = Example.of("PaliGemma")
    example.hf_model.save_pretrained(tmp_path)
    example.processor.save_pretrained(tmp_path)
    model, processor = loading.load(str(tmp_path), device=None, dtype="auto", device_map=None, revision=None)
    loaded = dataclasses.replace(example, hf_model=model, processor=processor)
    inputs = example.prepare([[noise(60, 60)]], "look")
    with torch.no_grad():
        ours = model(**loaded.prepare([[noise(60, 60)]], "look").tensors).logits
        assert torch.equal(ours, example.hf_model(**inputs.tensors).logits)


@pytest.mark.parametrize("changes", [{}, {"attention_k_eq_v": True, "num_kv_shared_layers": 0}], ids=["shared", "k=v"])
def test_token_types_make_images_bidirectional_in_sliding_layers_of_gemma_4(changes):
    """The model must get the token types: without them, an image's first token does not attend to its last."""
    example = Example.of("Gemma 4", **changes)
    inputs = example.prepare([[noise(90, 60)]], "look")
    assert encoded_difference(example, inputs) == 0
    untyped = {name: tensor for name, tensor in inputs.tensors.items() if name != "mm_token_type_ids"}
    with torch.no_grad():
        change = (example.hf_model(**inputs.tensors).logits - example.hf_model(**untyped).logits).abs().amax(-1)[0]
    assert change[inputs.image_tokens[0].positions[0]] > 1e-3


def test_the_language_models_inputs_are_the_encoded_images():
    """`entering` records the features of `encode` at the positions of the images' tokens."""
    example = Example.of("Gemma 4")
    inputs = two_rows(example)
    parts = example.family.encode(example.unmixed, inputs.tensors, inputs.maps, [0, 1, 2])
    states = entering(example.unmixed, inputs)
    for tokens, part in zip(inputs.image_tokens, parts, strict=True):
        assert torch.equal(states[tokens.row, tokens.positions], part["tokens"])


def _mirrored(boxes, width):
    return torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], dim=-1)


@pytest.mark.parametrize(
    "wrong",
    [_mirrored, lambda boxes, _: boxes.flip(0), lambda boxes, _: boxes.roll(1, 0), lambda boxes, _: boxes.roll(-1, 0)],
    ids=["mirrored", "backwards", "a token late", "a token early"],
)
def test_painting_detects_wrong_maps(wrong):
    example = Example.of("Qwen3-VL")

    def maps(processed):
        right = example.family.token_maps(processed)
        return [dataclasses.replace(one, boxes=wrong(one.boxes, 301)) for one in right]

    misled = dataclasses.replace(example, family=dataclasses.replace(example.family, token_maps=maps))
    check_by_painting(example, [[noise(301, 233)]], "look", side=32)
    with pytest.raises(AssertionError):
        check_by_painting(misled, [[noise(301, 233)]], "look", side=32)
