"""Gemma 3n: its token map, what its hook points mean beside several residual streams, and what is refused."""

import copy

import numpy as np
import pytest
import torch
from measurements import record
from painting import Example, check_counts, encoded_difference, noise, painted, spot_in
from reference import padded, picture
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformers.utils import is_timm_available

from gaze_lens import HookedVLM, testing
from gaze_lens.errors import HookError, InputError, ModelError
from gaze_lens.families import Processed, family_of, single_view

pytestmark = pytest.mark.skipif(not is_timm_available(), reason="the vision tower needs the package timm")
NAME = "Gemma 3n"


@torch.no_grad()
def without_mixing(hf_model):
    """A copy whose vision tower does not mix: filters see the pixels that they put together, attention adds 0, and the
    coarse features, of which one belongs to 2 x 2 tokens, count nothing."""
    copied, count = copy.deepcopy(hf_model), 0
    for name, module in copied.model.vision_tower.named_modules():
        if name.endswith(".attn"):
            count += 1
            for parameter in module.parameters():
                parameter.zero_()
        elif isinstance(module, torch.nn.Conv2d) and module.kernel_size[0] > 1:
            size, stride = module.kernel_size[0], module.stride[0]
            first = (size - stride) // 2  # of the taps that lie on the pixels themselves, under padding "same"
            outside = torch.ones(size, size, dtype=torch.bool)
            outside[first : first + stride, first : first + stride] = False
            module.weight[..., outside] = 0
    assert count, "there is no attention in the vision tower"
    tower = copied.model.vision_tower.timm_model
    tower.msfa.ffn.pw_exp.conv.weight[:, tower.feature_info[tower.msfa_indices[0]]["num_chs"] :] = 0
    return copied


@pytest.fixture(scope="module")
def example():
    hf_model, processor = testing.tiny(NAME)
    return Example(family_of(hf_model.config), processor, hf_model, without_mixing(hf_model))


@torch.no_grad()
@pytest.mark.parametrize("size", [(97, 61), (40, 140), (64, 64)], ids=str)
def test_painting_a_tokens_box_changes_that_token_most_and_far_tokens_never(example, size):
    def features(pixels):
        tensors = example.prepare([[pixels]], ["look"]).tensors
        return example.unmixed.model.get_image_features(tensors["pixel_values"], return_dict=True).pooler_output[0]

    pixels = noise(*size)
    (tokens,) = example.prepare([[pixels]], ["look"]).image_tokens
    assert tokens.grid == (4, 4)
    before = features(pixels)
    for target, box in enumerate(tokens.boxes.double().numpy()):
        change = (features(painted(pixels, spot_in(box))) - before).norm(dim=-1)
        far = change[(tokens.cells - tokens.cells[target]).abs().amax(-1) > 1]
        assert int(change.argmax()) == target
        assert far.max() < 1e-4 * change[target]
    record(NAME, painted=[f"{size[0]} x {size[1]}"])


def test_encoded_images_equal_their_pixels_and_tokens_are_at_the_placeholders(example):
    rows = [[noise(112, 60)], [noise(56, 130, seed=1), noise(90, 90, seed=2)]]
    inputs = example.prepare(rows, ["a much longer prompt " * 4, "short"])
    check_counts(example, inputs)
    assert encoded_difference(example, inputs) == 0
    assert encoded_difference(example, inputs, apart=True) < 1e-4
    for tokens in inputs.image_tokens:
        area = np.prod((tokens.boxes[:, 2:] - tokens.boxes[:, :2]).numpy(), axis=-1)
        assert area.sum() == pytest.approx(np.prod(tokens.size), rel=1e-4)
    begin = example.processor.tokenizer.bos_token_id
    assert (inputs.input_ids == begin).sum(1).tolist() == [1, 1]


def test_at_the_scale_of_checkpoints_the_grid_is_16_x_16(example):
    config = copy.deepcopy(example.hf_model.config)
    config.vision_soft_tokens_per_image = 256
    (token_map,) = single_view.counted_maps(Processed((((1600, 800),),), {}, None, config))
    assert token_map.boxes[17].tolist() == [100, 50, 200, 100]


@pytest.mark.parametrize(
    ("point", "module"),
    [("hook_attn_out", "post_attention_layernorm"), ("hook_mlp_out", "post_feedforward_layernorm")],
)
@torch.no_grad()
def test_what_attention_and_mlp_add_is_edited_as_in_hugging_faces_layer(shelf, point, module):
    model, plain = shelf.get(NAME)
    inputs, plain = padded(model), copy.deepcopy(plain)
    plain.model.language_model.layers[1].get_submodule(module).register_forward_hook(lambda *given: given[-1] * 0.3)
    edited = model.run_with_hooks(inputs, fwd_hooks=[(f"blocks.1.{point}", lambda tensor, hook: tensor * 0.3)])
    real = inputs.tensors["attention_mask"].bool()
    torch.testing.assert_close(edited[real], plain(**inputs.tensors).logits[real], atol=2e-5, rtol=0)
    assert (edited - model(inputs))[real].abs().max() > 0.01


def test_there_are_no_hook_points_on_the_streams(shelf):
    model, _ = shelf.get(NAME)
    inputs = padded(model)
    for name in ("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_in", "hook_out"):
        assert f"blocks.1.{name}" not in model.hook_dict
        with pytest.raises(HookError, match="never fires: the layer carries several residual streams"):
            model.run_with_hooks(inputs, fwd_hooks=[(f"blocks.1.{name}", lambda tensor, hook: None)])
    assert not [name for name in model.run_with_cache(inputs)[1] if "resid" in name]
    for layer in (0, 2):
        with pytest.raises(InputError, match="stop_at_layer was given"):
            model(inputs, stop_at_layer=layer)
    with pytest.raises(HookError, match=r"blocks.3.attn.hook_k never fires: the layer takes its keys and values from"):
        model.run_with_hooks(inputs, fwd_hooks=[("blocks.3.attn.hook_k", lambda tensor, hook: None)])


def test_a_bridge_by_transformer_lens_own_adapter_is_refused():
    hf_model, processor = testing.tiny(NAME)
    bridge = build_bridge_from_module(hf_model, type(hf_model).__name__, hf_config=hf_model.config, tokenizer=None)
    with pytest.raises(ModelError, match="Wrap the Hugging Face model instead"):
        HookedVLM.wrap(bridge, processor)


def test_audio_is_refused(shelf):
    model, _ = shelf.get(NAME)
    with pytest.raises(InputError, match="gaze_lens does not take audio"):
        model.prepare(picture(96, 64), [{"role": "user", "content": [{"type": "audio"}, {"type": "image"}]}])
    with pytest.raises(InputError, match="input_features was given, and gaze_lens does not take audio"):
        model(padded(model), input_features=torch.zeros(1, 8, 16))
