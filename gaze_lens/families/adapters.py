"""TransformerLens adapters for the model families that it lacks: one class, and module paths for each family.

    from transformer_lens.model_bridge.sources import build_bridge_from_module
    bridge = build_bridge_from_module(hf_model, "InternVLForConditionalGeneration", hf_config=hf_model.config)

Installing gaze_lens is enough for that: the entry points in pyproject.toml register the adapters. An adapter reads from
the model itself whether it has norms of queries and keys, norms on both sides, experts or parallel blocks.
`adapter_for` gives the name under which TransformerLens finds the adapter for a config.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import nn
from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory
from transformer_lens.model_bridge.architecture_adapter import ArchitectureAdapter
from transformer_lens.model_bridge.generalized_components import (
    AttentionBridge,
    BlockBridge,
    EmbeddingBridge,
    LinearBridge,
    MoEBridge,
    NormalizationBridge,
    ParallelBlockBridge,
    RMSNormalizationBridge,
    RotaryEmbeddingBridge,
    UnembeddingBridge,
)
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent
from transformer_lens.model_bridge.supported_architectures import (
    Glm4vArchitectureAdapter,
    Idefics3ArchitectureAdapter,
    Lfm2ArchitectureAdapter,
    Qwen3_5MultimodalArchitectureAdapter,
)
from transformer_lens.model_bridge.supported_architectures.phi3 import Phi3ArchitectureAdapter

from gaze_lens.errors import ModelError

Components = dict[str, GeneralizedComponent]
SANDWICH = {
    "ln1": "input_layernorm", "ln1_post": "post_attention_layernorm",
    "ln2": "pre_feedforward_layernorm", "ln2_post": "post_feedforward_layernorm",
}  # fmt: skip
SEQUENTIAL = {"ln1": "input_layernorm", "ln2": "post_attention_layernorm"}
PARALLEL = {"ln1": "input_layernorm"}
AFTERWARDS = {"ln1_post": "input_layernorm", "ln2_post": "post_attention_layernorm"}


@dataclass(frozen=True)
class Paths:
    """The paths of the modules in a family's Hugging Face model.

    offset_norms: the norms multiply by 1 + weight.
    """

    text: str = "model.language_model"
    vision: str = "model.vision_tower"
    projector: str = "model.multi_modal_projector"
    head: str = "lm_head"
    offset_norms: bool = False


class SelfOrCrossBlockBridge(BlockBridge):
    """A block whose `attn` is its cross-attention where the layer has that instead of self-attention."""

    def set_original_component(self, layer: nn.Module) -> None:
        """Take the cross-attention where the layer has one."""
        if hasattr(layer, "cross_attn"):
            self.submodules["attn"].name = "cross_attn"
            self.submodules["attn"].is_cross_attention = True
        super().set_original_component(layer)


class PathAdapter(ArchitectureAdapter):
    """An adapter made from `paths` and from the layers of the model."""

    paths = Paths()

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        self._set_rms_rotary_defaults()
        cfg.is_multimodal = True
        cfg.rmsnorm_uses_offset = self.paths.offset_norms
        self._extract_vision_dims(cfg)
        self.weight_processing_conversions = {**self._qkvo_weight_conversions(include_biases=True)}

    def prepare_model(self, hf_model: nn.Module) -> None:
        """Describe the modules of the model that is to be bridged."""
        super().prepare_model(hf_model)
        paths = self.paths
        layers: Any = hf_model.get_submodule(paths.text).layers
        norms = _norm_names(layers[0])
        self.cfg.uses_rms_norm = "RMSNorm" in type(layers[0].input_layernorm).__name__  # as in TransformerLens
        self.cfg.normalization_type = "RMS" if self.cfg.uses_rms_norm else "LN"
        self.cfg.final_rms = self.cfg.uses_rms_norm
        self.cfg.parallel_attn_mlp = norms is PARALLEL
        experts = any(hasattr(layer.mlp, "experts") for layer in layers)
        cross_attention = any(hasattr(layer, "cross_attn") for layer in layers)
        self.supports_fold_ln = norms is SEQUENTIAL and not experts and not cross_attention

        submodules: Components = {role: self._norm(name) for role, name in norms.items()}
        submodules |= {"attn": self._attention(), "mlp": self._experts() if experts else self._gated_mlp()}
        self.component_mapping = {
            "vision_encoder": GeneralizedComponent(name=paths.vision),
            "vision_projector": GeneralizedComponent(name=paths.projector),
            "embed": EmbeddingBridge(name=f"{paths.text}.embed_tokens"),
            "rotary_emb": RotaryEmbeddingBridge(name=f"{paths.text}.rotary_emb"),
            "blocks": self._block(f"{paths.text}.layers", submodules),
            "ln_final": self._norm(f"{paths.text}.norm"),
            "unembed": UnembeddingBridge(name=paths.head, config=self.cfg),
        }

    def _block(self, name: str, submodules: Components) -> GeneralizedComponent:
        block = ParallelBlockBridge if self.cfg.parallel_attn_mlp else SelfOrCrossBlockBridge
        return block(name=name, submodules=submodules)

    def _norm(self, name: str, optional: bool = False) -> NormalizationBridge:
        kind = RMSNormalizationBridge if self.cfg.uses_rms_norm else NormalizationBridge
        return kind(name, self.cfg, use_native_layernorm_autograd=True, optional=optional)

    def _attention(self) -> AttentionBridge:
        """Attention that Hugging Face's own code computes."""
        projections: Components = {letter: LinearBridge(name=f"{letter}_proj") for letter in "qkvo"}
        norms: Components = {name: self._norm(name, optional=True) for name in ("q_norm", "k_norm")}
        return AttentionBridge("self_attn", self.cfg, projections | norms, maintain_native_attention=True)

    def _experts(self) -> MoEBridge:
        """A mixture of experts; also for the dense layers before or between the layers with experts."""
        routers = {name: GeneralizedComponent(name, optional=True) for name in ("gate", "router")}
        dense = {"dense_gate": "gate_proj", "dense_in": "up_proj", "dense_out": "down_proj"}
        projections = {role: LinearBridge(name, optional=True) for role, name in dense.items()}
        return MoEBridge("mlp", self.cfg, routers | projections)


def _norm_names(layer: Any) -> dict[str, str]:
    """The role of each norm of a layer -> its name in Hugging Face's layer."""
    if getattr(layer, "norm_after", False):
        return AFTERWARDS
    return next(names for names in (SANDWICH, SEQUENTIAL, PARALLEL) if all(hasattr(layer, n) for n in names.values()))


class Qwen2VLAdapter(PathAdapter):
    """Qwen2-VL."""

    paths = Paths(vision="model.visual", projector="model.visual.merger")


class InternVLAdapter(PathAdapter):
    """InternVL, with any text model."""


class PaliGemmaAdapter(PathAdapter):
    """PaliGemma 1 and 2."""

    paths = Paths(offset_norms=True)


class Glm4vMoeAdapter(PathAdapter):
    """GLM-4V with experts."""

    paths = Paths(vision="model.visual", projector="model.visual.merger")


class AyaVisionAdapter(PathAdapter):
    """Aya Vision."""


class Cohere2VisionAdapter(PathAdapter):
    """Command A Vision."""


class MllamaAdapter(PathAdapter):
    """Llama 3.2 Vision."""

    paths = Paths(vision="model.vision_model", projector="model.multi_modal_projector")


class Molmo2Adapter(PathAdapter):
    """Molmo 2."""


class QwenOmniAdapter(PathAdapter):
    """The thinkers of Qwen2.5-Omni and Qwen3-Omni."""

    paths = Paths(vision="model.visual", projector="model.visual.merger")


class PaddleOCRVLAdapter(PathAdapter):
    """PaddleOCR-VL."""

    paths = Paths(vision="model.visual", projector="model.projector")


class LightOnOCRAdapter(PathAdapter):
    """LightOnOCR."""

    paths = Paths(vision="model.vision_encoder", projector="model.vision_projection")


class QianfanOCRAdapter(PathAdapter):
    """Qianfan-OCR."""


class VideoLlama3Adapter(PathAdapter):
    """VideoLLaMA 3."""

    paths = Paths(vision="model.vision_model", projector="model.projector")


class Ovis2Adapter(PathAdapter):
    """Ovis 2."""

    paths = Paths(projector="model.visual_embeddings_table")


class VipLlavaAdapter(PathAdapter):
    """VipLlava."""


class DeepseekVLAdapter(PathAdapter):
    """DeepSeek-VL."""

    paths = Paths(vision="model.vision_model", projector="model.aligner")


class Lfm2VLAdapter(Lfm2ArchitectureAdapter):
    """LFM2-VL: the language model of TransformerLens' adapter at another place, and the vision tower.

    Hugging Face reads the weights of the convolution itself, without calling it, so it has no hook points.
    """

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        _beside_vision(self)
        conv = self.components["blocks"].submodules["conv"]
        del conv.submodules["conv"]
        conv.hook_aliases = {name: point for name, point in conv.hook_aliases.items() if name != "hook_conv"}


class MiniCPMVAdapter(Qwen3_5MultimodalArchitectureAdapter):
    """MiniCPM-V 4.6 and 4.7: the language model of Qwen3.5 and a vision tower of their own."""

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        self.components["vision_encoder"] = GeneralizedComponent(name="model.vision_tower")

    def prepare_model(self, hf_model: Any) -> None:
        """Name the projector, which runs view by view; ModelError for another language model, whose norms and gates
        would be others."""
        super().prepare_model(hf_model)
        last = f"model.merger.mlp.{len(hf_model.model.merger.mlp) - 1}"
        self.components["vision_projector"] = GeneralizedComponent(name=last)
        kind = hf_model.config.text_config.model_type
        if kind != "qwen3_5_text":
            raise ModelError(f"A MiniCPM-V with the language model {kind!r} was given; gaze_lens knows qwen3_5_text.")


class Phi3Adapter(Phi3ArchitectureAdapter):
    """Phi-3, with its attention computed by Hugging Face's own code: one projection for queries, keys and values."""

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        projections: Components = {"qkv": LinearBridge("qkv_proj"), "o": LinearBridge("o_proj")}
        attention = AttentionBridge("self_attn", self.cfg, projections, maintain_native_attention=True)
        mapping: Any = self.component_mapping
        mapping["blocks"].submodules["attn"] = attention


def _beside_vision(adapter: Any, paths: Paths = Paths()) -> None:
    """Turn an adapter of a language model into one of a model that has it beside a vision tower."""
    adapter.cfg.is_multimodal = True
    adapter._extract_vision_dims(adapter.cfg)
    for component in adapter.component_mapping.values():
        if component.name.startswith("model."):
            component.name = paths.text + component.name.removeprefix("model")
    adapter.component_mapping |= {
        "vision_encoder": GeneralizedComponent(name=paths.vision),
        "vision_projector": GeneralizedComponent(name=paths.projector),
    }


# pyproject.toml has the same names; a test compares them. Adapters of TransformerLens are used where they fit.
ADAPTERS: dict[str, type[ArchitectureAdapter]] = {
    "Qwen2VLForConditionalGeneration": Qwen2VLAdapter,
    "InternVLForConditionalGeneration": InternVLAdapter,
    "SmolVLMForConditionalGeneration": Idefics3ArchitectureAdapter,
    "PaliGemmaForConditionalGeneration": PaliGemmaAdapter,
    "Glm46VForConditionalGeneration": Glm4vArchitectureAdapter,
    "Glm4vMoeForConditionalGeneration": Glm4vMoeAdapter,
    "AyaVisionForConditionalGeneration": AyaVisionAdapter,
    "Cohere2VisionForConditionalGeneration": Cohere2VisionAdapter,
    "MllamaForConditionalGeneration": MllamaAdapter,
    "Molmo2ForConditionalGeneration": Molmo2Adapter,
    "Qwen2_5OmniThinkerForConditionalGeneration": QwenOmniAdapter,
    "Qwen3OmniMoeThinkerForConditionalGeneration": QwenOmniAdapter,
    "GlmOcrForConditionalGeneration": Glm4vArchitectureAdapter,
    "PaddleOCRVLForConditionalGeneration": PaddleOCRVLAdapter,
    "LightOnOcrForConditionalGeneration": LightOnOCRAdapter,
    "QianfanOCRForConditionalGeneration": QianfanOCRAdapter,
    "VideoLlama3ForConditionalGeneration": VideoLlama3Adapter,
    "Ovis2ForConditionalGeneration": Ovis2Adapter,
    "VipLlavaForConditionalGeneration": VipLlavaAdapter,
    "DeepseekVLForConditionalGeneration": DeepseekVLAdapter,
    "Lfm2VlForConditionalGeneration": Lfm2VLAdapter,
    "MiniCPMV4_6ForConditionalGeneration": MiniCPMVAdapter,
    "MiniCPMV4_7ForConditionalGeneration": MiniCPMVAdapter,
}


PHI_3 = "Phi3ForCausalLM with Hugging Face's attention"  # TransformerLens' own adapter computes attention itself
GEMMA_3N = "Gemma3nForConditionalGeneration with pictures"  # TransformerLens' own adapter has the text only


@cache
def register_adapters() -> None:
    """Register every adapter of gaze_lens with TransformerLens, once; needed where gaze_lens is not installed."""
    ArchitectureAdapterFactory.discover_entry_points()  # first, as it warns about names that are already registered
    for name, adapter in ADAPTERS.items():
        ArchitectureAdapterFactory.register_adapter(name, adapter)
    from gaze_lens.families.altup import Gemma3nAdapter  # imports this module

    ArchitectureAdapterFactory.register_adapter(GEMMA_3N, Gemma3nAdapter)
    ArchitectureAdapterFactory.register_adapter(PHI_3, Phi3Adapter)


def adapter_for(architecture: str, config: Any) -> str:
    """The name of the adapter for a config; registers every adapter of gaze_lens first.

    TransformerLens's adapter for LLaVA needs a CLIP or SigLIP tower; with a Pixtral tower, that for Mistral 3 fits.
    """
    register_adapters()
    vision = getattr(getattr(config, "vision_config", None), "model_type", None)
    if architecture == "Gemma3nForConditionalGeneration":
        return GEMMA_3N
    if architecture == "Phi3ForCausalLM":
        return PHI_3
    pixtral = architecture == "LlavaForConditionalGeneration" and vision == "pixtral"
    return "Mistral3ForConditionalGeneration" if pixtral else architecture
