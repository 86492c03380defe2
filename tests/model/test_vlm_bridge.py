"""What `TransformerBridge` promises holds on vision-language models, or is refused."""

import copy

import pytest
import torch
from reference import padded

import gaze_lens as gl
from gaze_lens import testing
from gaze_lens.errors import InputError, ModelError


@pytest.fixture
def fresh():
    """A wrapped model of this test alone, and an unwrapped copy."""
    hf_model, processor = testing.tiny("Qwen3-VL", num_hidden_layers=2)
    return gl.HookedVLM.wrap(copy.deepcopy(hf_model), processor), hf_model


# Weights


@pytest.mark.parametrize("family", list(testing.BUILDERS))
@torch.no_grad()
def test_the_state_dict_is_whole(family):
    hf_model, processor = testing.tiny(family)
    own = {name for name, _ in hf_model.named_parameters()}
    model = gl.HookedVLM.wrap(hf_model, processor)
    inputs = padded(model)
    before, state = model(inputs), {name: weight.clone() for name, weight in model.state_dict().items()}
    held = {weight.data_ptr() for weight in model.state_dict().values()}
    assert {weight.data_ptr() for weight in hf_model.parameters()} <= held
    assert "blocks.3.attn.q.weight" in state
    for weight in hf_model.parameters():
        weight.add_(0.1)
    assert (model(inputs) - before).abs().max() > 0.01
    model.load_state_dict(state)
    assert torch.equal(model(inputs), before)
    vision = [name for name in state if name in own and "vis" in name]
    assert vision, "under Hugging Face's names"
    for name in (vision[0], vision[-1], "blocks.3.attn.q.weight"):
        with pytest.raises(RuntimeError, match="Missing key"):
            model.load_state_dict({other: weight for other, weight in state.items() if other != name})


@torch.no_grad()
def test_a_state_dict_goes_through_a_file(fresh, tmp_path):
    model, hf_model = fresh
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    other = gl.HookedVLM.wrap(*testing.tiny("Qwen3-VL", num_hidden_layers=2, seed=1))
    inputs = padded(model)
    assert not torch.equal(other(inputs), model(inputs))
    other.load_state_dict(torch.load(tmp_path / "weights.pt"))
    assert torch.equal(other(inputs), model(inputs))
    for weight in other.original_model.parameters():
        weight.zero_()
    outcome = other.load_state_dict(hf_model.state_dict(), strict=False)
    assert outcome.missing_keys == ["lm_head._original_component.bias"], "zeros, which TransformerLens adds"
    assert torch.equal(other(inputs), model(inputs))


# Precision


@pytest.mark.parametrize(
    ("convert", "dtype"),
    [
        (lambda model: model.half(), torch.float16),
        (lambda model: model.bfloat16(), torch.bfloat16),
        (lambda model: model.double(), torch.float64),
        (lambda model: model.half().float(), torch.float32),
        (lambda model: model.type(torch.float64), torch.float64),
        (lambda model: model.to(torch.bfloat16), torch.bfloat16),
        (lambda model: model.to("cpu", dtype=torch.float64), torch.float64),
        (lambda model: model.to(torch.zeros(1, dtype=torch.float64)), torch.float64),
    ],
)
@torch.no_grad()
def test_the_config_follows_the_weights(fresh, convert, dtype):
    model, hf_model = fresh
    assert convert(model) is model
    assert model.cfg.dtype is dtype
    assert {weight.dtype for weight in model.original_model.parameters()} == {dtype}
    inputs = padded(model)
    assert inputs.tensors["pixel_values"].dtype is dtype
    expected = convert(hf_model)(input_ids=inputs.input_ids, **inputs.arguments()).logits
    assert torch.equal(model(inputs), expected)


@pytest.mark.parametrize("dtype", ["float8", "int8", torch.int8, "float8_e4m3fn", torch.float8_e4m3fn, "quick"])
def test_a_dtype_in_which_no_model_runs_is_refused(dtype):
    with pytest.raises(ModelError, match=r"dtype=.*runs in float32, bfloat16.*quantization_config"):
        gl.HookedVLM.from_pretrained("a/model", dtype=dtype)


# What is refused


def test_booting_is_refused():
    for boot in (gl.HookedVLM.boot_transformers, gl.HookedVLM.boot_native, gl.HookedVLM.boot_tl_legacy):
        with pytest.raises(ModelError, match=r"HookedVLM.from_pretrained\(name\) loads"):
            boot("Qwen/Qwen3-VL-2B-Instruct", device="cpu")


def test_attention_weights_are_not_returned_empty(fresh):
    model, _ = fresh
    inputs = padded(model)
    arguments = {"input_ids": inputs.input_ids, **inputs.arguments()}
    for run in (model.original_model, model.original_model.generate):
        with pytest.raises(InputError, match="output_attentions is not served"):
            run(**arguments, output_attentions=True)
    assert model.original_model(**arguments, output_attentions=False).logits.shape[:2] == inputs.shape


def test_a_config_that_asks_for_attention_weights_is_refused(fresh):
    _, hf_model = fresh
    hf_model.set_attn_implementation("eager")
    hf_model.config.text_config.output_attentions = True
    model = gl.HookedVLM.wrap(hf_model, testing.tiny("Qwen3-VL", num_hidden_layers=1)[1])
    with pytest.raises(InputError, match="output_attentions is not served"):
        model(padded(model))
