"""Models spread over several places, and in few bits: as Hugging Face runs them, with biases and captures."""

import pytest
import torch
from reference import at_real, full, padded
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

import gaze_lens as gl
from gaze_lens import AttentionBias, HeadSet, HookedVLM, Positions, RowReader, testing
from gaze_lens.errors import HookError
from gaze_lens.model.weights_digest import weights_digest

FAMILIES = ["Qwen3-VL", "LLaVA", "GLM-4V", "Gemma 4", "Mllama", "Qwen3.5"]
UNPACKED = ["model.visual", "model.vision_tower", "model.multi_modal_projector", "lm_head"]


def spread(model):
    """A device map that keeps every other layer of the language model on the disk, all the rest on the CPU."""
    decoder = next(name for name, module in model.named_modules() if module is model.get_decoder())
    places = {f"{decoder}.layers.{index}": "disk" for index in range(1, len(model.get_decoder().layers), 2)}
    for name, part in model.named_modules():
        children = [*part.named_children(), *part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]
        if f"{decoder}.layers".startswith(name) or not name:
            for child in (f"{name}.{child}".strip(".") for child, _ in children):
                if not f"{decoder}.layers".startswith(child):
                    places.setdefault(child, "cpu")
    return places


def layouts(family, folder, **text):
    """The tiny model in a folder; the untouched model."""
    untouched, processor = testing.tiny(family, **text)
    untouched.save_pretrained(folder)
    processor.save_pretrained(folder)
    return untouched


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_layers_kept_on_the_disk_run_as_if_they_were_here(family, tmp_path):
    untouched = layouts(family, tmp_path / "model")
    device_map = spread(untouched)
    model = HookedVLM.from_pretrained(
        str(tmp_path / "model"), device_map=device_map, offload_folder=tmp_path / "off", dtype="float32"
    )
    away = [name for name, weight in model.original_model.named_parameters() if weight.device.type == "meta"]
    assert len(away) > 10
    assert weights_digest(model) == weights_digest(HookedVLM.from_pretrained(str(tmp_path / "model"), dtype="float32"))
    inputs = padded(model)
    assert {tensor.device.type for tensor in inputs.tensors.values()} == {"cpu"}
    expected = at_real(untouched(**inputs.tensors).logits, inputs)
    assert torch.equal(at_real(model(inputs), inputs), expected)
    live = model.capabilities((96, 64)).live
    untouched.set_attn_implementation({"text_config": "eager"})
    exact = at_real(untouched(**inputs.tensors).logits, inputs)
    assert torch.equal(at_real(model.run_with_hooks(inputs, fwd_hooks=full(live)), inputs), exact)
    _, cache = model.run_with_cache(inputs)
    assert all(activation.device.type == "cpu" for activation in cache.values())
    for switch in ("attn_result", "split_qkv_input"):
        getattr(model, f"set_use_{switch}")(True)
        torch.testing.assert_close(at_real(model(inputs), inputs), expected, atol=3e-5, rtol=0)
        getattr(model, f"set_use_{switch}")(False)
    generated = model.generate(inputs, fwd_hooks=full(live), max_new_tokens=4).sequences
    assert torch.equal(generated, untouched.generate(**inputs.tensors, max_new_tokens=4, do_sample=False))


@torch.no_grad()
def test_a_bias_and_a_reader_work_in_layers_on_the_disk(tmp_path):
    untouched = layouts("Qwen3-VL", tmp_path / "model")
    model = HookedVLM.from_pretrained(
        str(tmp_path / "model"), device_map=spread(untouched), offload_folder=tmp_path / "off", dtype="float32"
    )
    inputs, rows = padded(model), []
    bias = AttentionBias(HeadSet(["L1H2"]), Positions.since(45), Positions.of([40, 41]), 50.0)
    reader = RowReader(Positions.since(45), lambda weights, *_: rows.append(weights))
    model.run_with_hooks(inputs, fwd_hooks=[*bias.hooks(), ("blocks.1.attn.hook_pattern", reader)])
    mass = rows[0][1, :, :, 40:42].sum(-1)
    assert mass[2].min() > 0.999
    assert mass[[0, 1, 3]].max() < 0.9


def test_inputs_go_where_the_embedding_runs_though_the_first_weights_are_away(tmp_path):
    untouched = layouts("Qwen3-VL", tmp_path / "model")
    device_map = {**spread(untouched), "model.visual": "disk", "lm_head": "disk"}
    model = HookedVLM.from_pretrained(
        str(tmp_path / "model"), device_map=device_map, offload_folder=tmp_path / "off", dtype="float32"
    )
    assert next(model.original_model.parameters()).device.type == "meta"
    inputs = padded(model)
    assert inputs.input_ids.device.type == "cpu"
    with torch.no_grad():
        expected = at_real(untouched(**inputs.tensors).logits, inputs)
        cached = at_real(model.run_with_cache(inputs)[0], inputs)
        torch.testing.assert_close(cached, expected, atol=1e-5, rtol=0)
        assert torch.equal(at_real(model(inputs), inputs), expected)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("family", ["Qwen3-VL", "LLaVA", "GLM-4V"])
@torch.no_grad()
def test_weights_in_few_bits_run_as_in_hugging_face(family, bits, tmp_path):
    layouts(family, tmp_path, intermediate_size=128)  # a multiple of 64, the block of 4-bit weights
    packing = BitsAndBytesConfig(load_in_8bit=bits == 8, load_in_4bit=bits == 4, llm_int8_skip_modules=UNPACKED)
    options = {"quantization_config": packing, "device_map": "cpu", "dtype": torch.float32}
    model = HookedVLM.from_pretrained(str(tmp_path), **options)
    assert not model.blocks[1].attn.q.original_component.weight.is_floating_point()
    reference = AutoModelForImageTextToText.from_pretrained(tmp_path, **options).eval()
    inputs = padded(model)
    expected = at_real(reference(**inputs.tensors).logits, inputs)
    assert torch.equal(at_real(model(inputs), inputs), expected)
    edit = [("blocks.1.attn.hook_pattern", lambda pattern, hook: pattern * 0)]
    assert (at_real(model.run_with_hooks(inputs, fwd_hooks=edit), inputs) - expected).abs().max() > 0.01
    reference.set_attn_implementation({"text_config": "eager"})
    exact = at_real(reference(**inputs.tensors).logits, inputs)
    assert torch.equal(at_real(model.run_with_hooks(inputs, fwd_hooks=full()), inputs), exact)
    for switch in ("attn_result", "split_qkv_input", "attn_in"):
        with pytest.raises(HookError, match=f"set_use_{switch}.*packed in few bits; load it without"):
            getattr(model, f"set_use_{switch}")(True)
    assert not model.cfg.use_attn_result


def steered(model, reference):
    """What Hugging Face's own generate writes under a bias, a mass and a condition; it is not what it writes alone."""
    inputs = padded(model)
    region = inputs.region([(0, 0, 32, 64)] * 2, image=0)
    options = {**inputs.arguments(), "input_ids": inputs.input_ids, "max_new_tokens": 5, "do_sample": False}
    plain = reference.generate(**options)
    with gl.steering(model, gl.steer(["L1H2", "L2H0"], region)):
        assert not torch.equal(model.original_model.generate(**options), plain)
    masses, reader = [], RowReader(Positions.since(45), lambda weights, *_: masses.append(weights))
    hooks = gl.steer(["L1H2", "L2H0"], region, mass=0.9, when=lambda logits: True)
    with gl.steering(model, [*hooks, ("blocks.1.attn.hook_pattern", reader)]):
        model.original_model.generate(**options)
    assert len(masses) == 5
    for weights in masses:
        for row, positions in enumerate(region.positions):
            mass = weights[row, 2, -1, list(positions)].sum()
            torch.testing.assert_close(mass, torch.tensor(0.9), atol=1e-5, rtol=0)
    assert torch.equal(model.original_model.generate(**options), plain)


@pytest.mark.parametrize("bits", [8, 4])
@torch.no_grad()
def test_steering_hugging_faces_generate_with_weights_in_few_bits(bits, tmp_path):
    layouts("Qwen3-VL", tmp_path, intermediate_size=128)
    packing = BitsAndBytesConfig(load_in_8bit=bits == 8, load_in_4bit=bits == 4, llm_int8_skip_modules=UNPACKED)
    options = {"quantization_config": packing, "device_map": "cpu", "dtype": torch.float32}
    reference = AutoModelForImageTextToText.from_pretrained(tmp_path, **options).eval()
    steered(HookedVLM.from_pretrained(str(tmp_path), **options), reference)


@torch.no_grad()
def test_steering_hugging_faces_generate_with_layers_on_the_disk(tmp_path):
    untouched = layouts("Qwen3-VL", tmp_path / "model")
    options = {"device_map": spread(untouched), "offload_folder": tmp_path / "off", "dtype": "float32"}
    steered(HookedVLM.from_pretrained(str(tmp_path / "model"), **options), untouched)
