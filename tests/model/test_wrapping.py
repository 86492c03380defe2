"""What cannot be wrapped is refused, with what to give; models with PEFT's adapters are right or refused."""

import copy
from types import SimpleNamespace

import pytest
import torch
from reference import at_real, full, padded
from torch import nn

import gaze_lens as gl
from gaze_lens import testing
from gaze_lens.errors import ModelError

ADAPTED = ("q_proj", "o_proj", "down_proj")


class LoraLinear(nn.Module):
    """What PEFT puts in the place of a linear layer."""

    def __init__(self, base_layer):
        super().__init__()
        self.base_layer, self.merged = base_layer, False
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features
        self.lora_A, self.lora_B = nn.Linear(self.in_features, 2, False), nn.Linear(2, self.out_features, False)

    @property
    def weight(self):
        return self.base_layer.weight

    @property
    def bias(self):
        return self.base_layer.bias

    def forward(self, x):
        return self.base_layer(x) + (0 if self.merged else self.lora_B(self.lora_A(x)))

    @torch.no_grad()
    def merge(self):
        if not self.merged:
            self.base_layer.weight += self.lora_B.weight @ self.lora_A.weight
            self.merged = True


class PeftLike(nn.Module):
    """What is PEFT's model to us; its attributes are the model's in it, as there."""

    def __init__(self, hf_model):
        super().__init__()
        self.base_model = SimpleNamespace(model=hf_model)
        self.peft_config = {"default": None}
        for module in list(hf_model.model.language_model.modules()):
            for child in set(ADAPTED) & set(module._modules):
                setattr(module, child, LoraLinear(getattr(module, child)))

    def get_base_model(self):
        return self.base_model.model

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.base_model.model, name)


def lookalike(hf_model):
    torch.manual_seed(0)
    return PeftLike(hf_model)


def real(hf_model):
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(hf_model, peft.LoraConfig(r=2, target_modules=list(ADAPTED)))
    generator = torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.2, generator=generator)
    return model.eval()


@pytest.fixture(params=[lookalike, real])
def adapted(request):
    """A model with adapters, the same model without, and the processor."""
    hf_model, processor = testing.tiny("Qwen3-VL", num_hidden_layers=2)
    return request.param(copy.deepcopy(hf_model)), hf_model, processor


def test_a_model_around_a_model_is_refused(adapted):
    peft_model, _, processor = adapted
    with pytest.raises(ModelError, match=r"Peft.* was given.*model.merge_and_unload\(\).*or model.base_model.model"):
        gl.HookedVLM.wrap(peft_model, processor)
    gl.HookedVLM.wrap(peft_model.base_model.model, processor)  # nothing was changed


@torch.no_grad()
def test_a_model_with_adapters_runs_and_is_saved_with_them_merged(adapted, tmp_path):
    peft_model, plain, processor = adapted
    inputs = gl.HookedVLM.wrap(copy.deepcopy(plain), processor)
    inputs = padded(inputs)
    expected = peft_model.get_base_model()(**inputs.tensors).logits
    assert (expected - plain(**inputs.tensors).logits).abs().max() > 0.1
    model = gl.HookedVLM.wrap(peft_model.base_model.model, processor)
    assert torch.equal(model(inputs), expected)
    hooked = model.run_with_hooks(inputs, fwd_hooks=full(range(2)))
    torch.testing.assert_close(at_real(hooked, inputs), at_real(expected, inputs), atol=2e-5, rtol=0)
    model.save_pretrained(tmp_path)
    again = gl.HookedVLM.from_pretrained(str(tmp_path))
    torch.testing.assert_close(again(inputs), expected, atol=2e-5, rtol=0)
    assert torch.equal(model(inputs), expected), "saving changed nothing"


@torch.no_grad()
def test_what_is_made_from_weights_alone_is_refused(adapted):
    peft_model, _, processor = adapted
    model = gl.HookedVLM.wrap(peft_model.base_model.model, processor)
    _, cache = model.run_with_cache(padded(model))
    for use in (
        lambda: model.W_O, lambda: model.W_out, lambda: model.set_use_attn_result(True),
        lambda: model.set_use_split_qkv_input(True), cache.stack_head_results, cache.get_full_resid_decomposition,
        lambda: cache.get_neuron_results(0), model.enable_compatibility_mode,
    ):  # fmt: skip
        with pytest.raises(ModelError, match=r"made from weights.*lack what its adapter.*merge_and_unload\(\)"):
            use()
    stack = cache.decompose_resid(pos_slice=-1)
    logits = cache.logit_attrs(stack, torch.tensor([65, 66]), pos_slice=-1).sum(0)
    torch.testing.assert_close(logits, model(padded(model))[[0, 1], -1, [65, 66]], atol=2e-5, rtol=0)


def test_weights_that_cannot_be_found_are_not_left_out_of_a_folder(tmp_path):
    hf_model, processor = testing.tiny("Qwen3-VL", num_hidden_layers=2)
    projection = hf_model.model.language_model.layers[1].self_attn.v_proj
    projection.inner = nn.Linear(projection.in_features, projection.out_features)
    projection.forward = projection.inner.forward
    del projection._parameters["weight"]
    projection.weight = projection.inner.weight.detach()
    model = gl.HookedVLM.wrap(hf_model, processor)
    with pytest.raises(ModelError, match=r"1 weights of Qwen3VL.*the first: model.language_model.layers.1.*v_proj"):
        model.save_pretrained(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


@pytest.mark.parametrize("family", [name for name in testing.BUILDERS if name != "Llama 4"])  # it has no such part
def test_a_model_without_a_head_is_refused(family):
    hf_model, processor = testing.tiny(family)
    with pytest.raises(ModelError, match=f"{type(hf_model.model).__name__} was given, which has no head that makes"):
        gl.HookedVLM.wrap(hf_model.model, processor)
    assert gl.HookedVLM.wrap(hf_model, processor).cfg.n_layers


@pytest.mark.parametrize(
    ("part", "lacking"),
    [
        ("tokenizer", "image_processor"),
        ("image_processor", "tokenizer and no image_processor"),
        (None, "tokenizer and no image_processor"),
    ],
)
def test_a_part_of_a_processor_is_refused(part, lacking):
    hf_model, processor = testing.tiny("Qwen3-VL", num_hidden_layers=1)
    given = None if part is None else getattr(processor, part)
    with pytest.raises(ModelError, match=rf"{type(given).__name__} was.*no {lacking}; give.*AutoProcessor"):
        gl.HookedVLM.wrap(hf_model, given)
