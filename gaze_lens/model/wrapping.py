"""From a loaded Hugging Face model to a TransformerLens bridge, without changing how the model computes attention."""

from copy import deepcopy
from functools import partial
from typing import Any

from torch import nn
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.generalized_components import JointGateUpMLPBridge, LinearBridge
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformers import PreTrainedTokenizerBase

from gaze_lens.attention.backend import kernel_of
from gaze_lens.errors import ModelError
from gaze_lens.families import Family, family_of
from gaze_lens.families.adapters import adapter_for
from gaze_lens.inputs.text_processor import TextProcessor
from gaze_lens.model.checkpoint_checks import check_parts
from gaze_lens.model.peft_layers import is_peft_model


def bridge_of(model: Any, processor: Any, name: str | None) -> TransformerBridge:
    """The bridge of a Hugging Face model, or the bridge itself where one is given; ModelError, with nothing changed,
    for models that cannot be wrapped."""
    if is_peft_model(model):
        raise ModelError(
            f"A {type(model).__name__} was given; wrap takes the Hugging Face model in it. Give "
            "model.merge_and_unload(), whose weights hold the adapter's, or model.base_model.model, to hook a model "
            "whose adapter is still apart."
        )
    if not isinstance(model, nn.Module) or not hasattr(getattr(model, "original_model", model), "config"):
        raise ModelError(
            f"A {type(model).__name__} was given; wrap takes a vision-language model as Hugging Face loads it, or a "
            "TransformerBridge of one. HookedVLM.from_pretrained(name) loads and wraps."
        )
    is_bridge = isinstance(model, TransformerBridge)
    hf_model: Any = model.original_model if is_bridge else model
    bridged = any(hasattr(module, "original_component") for module in hf_model.modules())
    if hasattr(model, "attention_backend") or (bridged and not is_bridge):
        raise ModelError(
            "This model is wrapped already. Use the object that wrapped it (a TransformerBridge goes into "
            "HookedVLM.wrap itself, as it is), or load the model again."
        )
    family = family_of(hf_model.config)
    _check_parts(hf_model, processor, family)
    if not family.text_only:
        check_parts(name or type(hf_model).__name__, hf_model.config, processor)
    kernel_of(hf_model.get_decoder())
    return model if isinstance(model, TransformerBridge) else _build(hf_model, processor, name)


def processor_of(config: Any, processor: Any) -> Any:
    """The processor of a model; of a language model, whose tokenizer may be given for it, one that uses that."""
    is_tokenizer = family_of(config).text_only and isinstance(processor, PreTrainedTokenizerBase)
    return TextProcessor(processor) if is_tokenizer else processor


def _check_parts(hf_model: Any, processor: Any, family: Family) -> None:
    """ModelError for a model without the head that makes logits, and for what is not the model's whole processor."""
    if hf_model.get_output_embeddings() is None:
        loader, example = "AutoModelForImageTextToText", family.architectures[0]
        if family.text_only:
            loader, example = "AutoModelForCausalLM", "language model with its head"
        raise ModelError(
            f"A {type(hf_model).__name__} was given, which has no head that makes logits; give the whole model, a "
            f"{example} ({loader}.from_pretrained loads it)."
        )
    parts = ("tokenizer",) if family.text_only else ("tokenizer", "image_processor")
    lacking = [name for name in parts if getattr(processor, name, None) is None]
    if lacking:
        raise ModelError(
            f"A {type(processor).__name__} was given as the processor, which has no {' and no '.join(lacking)}; give "
            "the model's own, as AutoProcessor.from_pretrained(name) loads it."
        )


def _build(hf_model: Any, processor: Any, name: str | None) -> TransformerBridge:
    """TransformerLens' bridge, with its own adapter for the family or ours."""
    config = hf_model.config
    architecture = (config.architectures or [type(hf_model).__name__])[0]
    bridge = build_bridge_from_module(
        hf_model,
        adapter_for(architecture, config),
        hf_config=config,
        tokenizer=_tokenizer(processor),
        model_name=name or getattr(config, "_name_or_path", "") or architecture,
        post_adapter_hook=partial(_adapt, packed=getattr(hf_model, "is_quantized", False)),
    )
    bridge.cfg.architecture = architecture
    return bridge


def _tokenizer(processor: Any) -> Any:
    """A copy of the processor's tokenizer, as TransformerLens gives its tokenizer a BOS token where there is none.

    Where there is one, TransformerLens would load the tokenizer a second time, by name, unless it adds the BOS token.
    """
    tokenizer = deepcopy(processor.tokenizer)
    tokenizer.init_kwargs = {"name_or_path": "", **tokenizer.init_kwargs, "add_bos_token": True}
    return tokenizer


def _adapt(adapter: Any, packed: bool) -> None:
    """Keep TransformerLens from forcing eager attention on the model: gaze_lens falls back on the model's own default.
    And from taking fused MLPs apart where weights are packed in few bits: they stay whole."""
    adapter.cfg.attn_implementation = None
    parts = adapter.component_mapping["blocks"].submodules if adapter.component_mapping else {}
    if packed and isinstance(parts.get("mlp"), JointGateUpMLPBridge):
        projections: dict[str, GeneralizedComponent] = {
            "gate_up": LinearBridge("gate_up_proj"),
            "out": LinearBridge("down_proj"),
        }
        parts["mlp"] = GeneralizedComponent(parts["mlp"].name, submodules=projections)
