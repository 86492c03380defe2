"""Adapters for the families that TransformerLens lacks: it finds them, and its bridges equal Hugging Face's models."""

import copy
import subprocess
import sys
import tomllib
import warnings
from importlib import import_module
from pathlib import Path

import pytest
import torch
from reference import picture
from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES, ArchitectureAdapterFactory
from transformer_lens.model_bridge.sources import build_bridge_from_module

from gaze_lens import HookedVLM, testing
from gaze_lens.families import FAMILIES
from gaze_lens.families.adapters import ADAPTERS, PathAdapter, Paths, adapter_for

GROUP = "transformer_lens.architectures"
PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
MINE = [name for name in testing.BUILDERS if type(testing.tiny(name)[0]).__name__ in ADAPTERS]
NORMS = {
    "Qwen2-VL": {"ln1", "ln2"}, "InternVL": {"ln1", "ln2"}, "SmolVLM": {"ln1", "ln2"}, "PaliGemma": {"ln1", "ln2"},
    "PaliGemma 2": {"ln1", "ln1_post", "ln2", "ln2_post"}, "GLM-4.6V": {"ln1", "ln1_post", "ln2", "ln2_post"},
    "GLM-4V-MoE": {"ln1", "ln2"}, "AyaVision": {"ln1"}, "Cohere2Vision": {"ln1"}, "Mllama": {"ln1", "ln2"},
    "Molmo2": {"ln1", "ln2"}, "Qwen2.5-Omni": {"ln1", "ln2"}, "Qwen3-Omni": {"ln1", "ln2"},
    "GLM-OCR": {"ln1", "ln1_post", "ln2", "ln2_post"}, "PaddleOCR-VL": {"ln1", "ln2"}, "LightOnOCR": {"ln1", "ln2"},
    "Qianfan-OCR": {"ln1", "ln2"}, "VideoLLaMA 3": {"ln1", "ln2"}, "Ovis2": {"ln1", "ln2"},
    "LFM2-VL": {"ln1", "ln2"}, "MiniCPM-V 4.6": {"ln1", "ln2"}, "MiniCPM-V 4.7": {"ln1", "ln2"},
    "VipLlava": {"ln1", "ln2"}, "DeepSeek-VL": {"ln1", "ln2"},
}  # fmt: skip


def declared():
    """The entry points in pyproject.toml."""
    return tomllib.loads(PYPROJECT.read_text())["project"]["entry-points"][GROUP]


def test_the_entry_points_are_the_adapters():
    assert set(declared()) == set(ADAPTERS)
    for architecture, target in declared().items():
        module, _, name = target.partition(":")
        assert getattr(import_module(module), name) is ADAPTERS[architecture]


def test_no_adapter_of_transformer_lens_is_overridden():
    assert not set(ADAPTERS) & set(SUPPORTED_ARCHITECTURES)
    assert {name for family in FAMILIES for name in family.architectures} <= {*ADAPTERS, *SUPPORTED_ARCHITECTURES}


def test_transformer_lens_finds_them_without_gaze_lens_being_imported():
    code = (
        "import sys, warnings\nwarnings.simplefilter('error', UserWarning)\n"
        "from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory as factory\n"
        "assert 'gaze_lens' not in sys.modules\n"
        "factory.discover_entry_points()\n"
        "print(*sorted(name for name, kind in factory._adapters.items() if name in sys.argv))\n"
    )
    output = subprocess.run([sys.executable, "-c", code, *ADAPTERS], capture_output=True, text=True, check=True).stdout
    assert set(output.split()) == set(ADAPTERS)


@pytest.mark.parametrize("family", MINE)
@torch.no_grad()
def test_transformer_lens_builds_a_bridge_that_equals_hugging_faces_model(family, shelf):
    wrapped, untouched = shelf.get(family)
    hf_model = copy.deepcopy(untouched)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*did not resolve.*")
        bridge = build_bridge_from_module(hf_model, type(hf_model).__name__, hf_config=hf_model.config, tokenizer=None)
    inputs = wrapped.prepare(picture(96, 64), "What?")
    reference = copy.deepcopy(untouched)
    if bridge.cfg.attn_implementation == "eager":  # set by TransformerLens's own adapters
        reference.set_attn_implementation("eager")
    expected = reference(**inputs.tensors).logits
    logits, cache = bridge.run_with_cache(inputs.input_ids, **inputs.arguments())
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    for layer, block in enumerate(bridge.blocks):
        assert {name for name in block._modules if name.startswith("ln")} == NORMS[family]
        assert cache["resid_post", layer].shape == (1, inputs.layout.length, bridge.cfg.d_model)
        assert cache["mlp_out", layer].shape == cache["resid_post", layer].shape
        if "attn" not in block._modules:  # linear attention, a convolution
            continue
        assert cache["attn_out", layer].shape == cache["mlp_out", layer].shape
        expected = (1, inputs.layout.length, bridge.cfg.n_heads, bridge.cfg.d_head)
        gated = getattr(bridge.cfg, "gated_q_proj", False)  # queries and gates come out of one projection
        assert cache["q", layer].shape == (*expected[:2], expected[2] * (1 + gated), expected[3])
        assert cache["z", layer].shape == expected
    assert {"embed", "ln_final", "unembed", "vision_encoder", "vision_projector"} <= set(bridge._modules)
    assert torch.equal(cache["ln_final.hook_out"], bridge.ln_final.original_component(cache["resid_post", layer]))


@pytest.mark.parametrize("family", MINE)
@torch.no_grad()
def test_compatibility_mode_keeps_the_models_predictions(family, shelf):
    """Folded norms and centred weights shift logits by a constant per position at most."""
    untouched = copy.deepcopy(shelf.get(family)[1])
    for parameter in untouched.parameters():
        if parameter.ndim == 1:
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.manual_seed(len(parameter))))
    model = HookedVLM.wrap(untouched, shelf.get(family)[0].processor)
    inputs = model.prepare(picture(96, 64), "What?")
    before = model(inputs).log_softmax(-1)
    model.enable_compatibility_mode()
    torch.testing.assert_close(model(inputs).log_softmax(-1), before, atol=2e-4, rtol=0)


def test_dense_layers_among_experts_have_neurons(shelf):
    model, _ = shelf.get("GLM-4V-MoE")
    names = [
        {name.split(".")[3] for name in model.hook_dict if name.startswith(f"blocks.{layer}.mlp.")} for layer in (0, 3)
    ]
    assert {"dense_gate", "dense_in", "dense_out"} <= names[0]
    assert "gate" in names[1]
    assert not {"dense_gate", "dense_in", "dense_out"} & names[1]


def test_pixtral_is_built_by_the_adapter_that_fits_its_tower(shelf):
    config = shelf.get("Pixtral")[0].config
    assert adapter_for("LlavaForConditionalGeneration", config) == "Mistral3ForConditionalGeneration"
    plain = shelf.get("LLaVA")[0].config
    assert adapter_for("LlavaForConditionalGeneration", plain) == "LlavaForConditionalGeneration"
    assert shelf.get("Pixtral")[0].cfg.architecture == "LlavaForConditionalGeneration"
    assert (
        ArchitectureAdapterFactory._adapters["LlavaForConditionalGeneration"]
        is SUPPORTED_ARCHITECTURES["LlavaForConditionalGeneration"]
    )


@torch.no_grad()
def test_an_adapter_of_your_own_needs_only_the_paths_that_differ(shelf):
    """The same model under another name, with its modules at other paths."""

    class Stranger(PathAdapter):
        paths = Paths(text="inside.model.language_model", vision="inside.model.vision_tower",
                      projector="inside.model.multi_modal_projector", head="inside.lm_head")  # fmt: skip

    class Outside(torch.nn.Module):
        def __init__(self, inside):
            super().__init__()
            self.inside, self.config = inside, inside.config

        def forward(self, input_ids, **tensors):
            return self.inside(input_ids=input_ids, **tensors)

    wrapped, untouched = shelf.get("InternVL")
    inputs = wrapped.prepare(picture(96, 64), "What?")
    ArchitectureAdapterFactory.register_adapter("StrangerForConditionalGeneration", Stranger)
    try:
        outside = Outside(copy.deepcopy(untouched))
        bridge = build_bridge_from_module(outside, "StrangerForConditionalGeneration", hf_config=outside.config)
    finally:
        del ArchitectureAdapterFactory._adapters["StrangerForConditionalGeneration"]
    logits = bridge(inputs.input_ids, **inputs.arguments())
    torch.testing.assert_close(logits, untouched(**inputs.tensors).logits, atol=1e-5, rtol=0)
